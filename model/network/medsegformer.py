"""MedSegFormer: embedding, encoder, decoder. An image of any size, modalities and spacing to a mask of the same size.

    network = MedSegFormer(PRESETS["tiny"], num_classes=3)
    logits = network(image_BCDHW, modality_BC, spacing_mm=(1.0, 1.0, 1.0))      # (B, 3, D, H, W)

Nothing here knows of devices, ranks, precision or checkpoints. `init_weights` fills the parameters wherever they are,
so the network can be built on the meta device, sharded, made real by `to_empty`, and only then initialised.
"""

from __future__ import annotations

from torch import Tensor

from model.network.config import NetworkConfig, spacings_after, strides
from model.network.decoder import Decoder
from model.network.embedding import PatchEmbedding
from model.network.encoder import Encoder
from model.network.layers import BlockNetwork


class MedSegFormer(BlockNetwork):
    def __init__(self, config: NetworkConfig, num_classes: int):
        super().__init__()
        self.config = config
        self.embedding = PatchEmbedding(config)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config, num_classes)
        if next(self.parameters()).device.type != "meta":
            self.init_weights()

    def forward(
        self,
        image_BCDHW: Tensor,
        modality_BC: Tensor,
        spacing_mm: tuple[float, float, float],
        auxiliary: bool = False,
    ) -> Tensor | list[Tensor]:
        """Logits (B, classes, D, H, W); with `auxiliary` a list, finest first, for deep supervision.

        `modality_BC`: index into `config.modalities` per channel, int64; 0 is an absent one, whose voxels are ignored.
        `spacing_mm`: of the axes D, H, W, one for the batch. Any D, H, W from 1 up.
        """
        steps = strides(spacing_mm)
        spacings_mm = spacings_after(spacing_mm)[2:]
        full, half, tokens_BDHWE = self.embedding(image_BCDHW, modality_BC, spacing_mm, steps)
        features = self.encoder(tokens_BDHWE, spacings_mm, steps[2:])
        logits = self.decoder((full, half), features, spacings_mm, steps, auxiliary)
        return logits if auxiliary else logits[0]
