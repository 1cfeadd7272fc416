"""Networks of shapes alone."""

import subprocess
import sys

import torch

from model.network.config import PRESETS
from model.network.medsegformer import MedSegFormer
from model.network.unfilled import unfilled


def test_it_has_the_shapes_of_a_filled_one() -> None:
    with unfilled():
        network = MedSegFormer(PRESETS["nano"], num_classes=3)
    filled = MedSegFormer(PRESETS["nano"], num_classes=3)
    assert {name: (value.shape, value.dtype) for name, value in network.state_dict().items()} == {
        name: (value.shape, value.dtype) for name, value in filled.state_dict().items()
    }
    assert {parameter.device.type for parameter in network.parameters()} == {"meta"}


def test_it_is_filled_as_any_other_once_it_is_real() -> None:
    with unfilled():
        network = MedSegFormer(PRESETS["nano"], num_classes=3)
    network.to_empty(device="cpu")
    torch.manual_seed(0)
    network.init_weights()
    other = MedSegFormer(PRESETS["nano"], num_classes=3)
    torch.manual_seed(0)
    other.init_weights()
    for one, same in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, same)


def test_torchs_compiler_stays_unimported() -> None:
    script = (
        "import sys; from model.network.config import PRESETS; from model.network.medsegformer import MedSegFormer\n"
        "from model.network.unfilled import unfilled\n"
        "with unfilled(): MedSegFormer(PRESETS['nano'], 3)\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
