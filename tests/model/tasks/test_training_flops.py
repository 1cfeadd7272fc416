"""What model FLOP utilisation counts of a step: the passes that happen, and no recomputation."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from model.data.dataset import SampleStream
from model.network.config import PRESETS, spacings_after, strides
from model.network.medsegformer import MedSegFormer
from model.network.sizes import encoder_flops
from tests.model.engine.test_trainer import CASES, STREAM, TASK

CUBIC = (1.0, 1.0, 1.0)


def test_the_encoders_closed_form_is_that_of_the_built_one() -> None:
    with torch.device("meta"):
        network = MedSegFormer(PRESETS["nano"], num_classes=4).eval()
        image, modality = torch.empty(1, 2, 13, 48, 32), torch.ones(1, 2, dtype=torch.long)
    steps = strides(CUBIC)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        _, _, tokens = network.embedding(image, modality, CUBIC, steps)
        network.encoder(tokens, spacings_after(CUBIC)[2:], steps[2:])
    assert encoder_flops(network.config, (13, 48, 32), CUBIC, channels=2) == counter.get_total_flops()


def test_no_backward_pass_is_counted_where_the_encoder_is_frozen() -> None:
    with torch.device("meta"):
        network = MedSegFormer(PRESETS["nano"], num_classes=4)
    batch = SampleStream(CASES[:4], STREAM)[0]
    whole = TASK.training_flops(network, batch)
    network.embedding.requires_grad_(False)
    network.encoder.requires_grad_(False)
    passed_through = len(batch.target) * encoder_flops(network.config, (16, 16, 16), CUBIC, channels=1)
    assert TASK.training_flops(network, batch) == whole - 2 * passed_through
    assert whole > 3 * passed_through
