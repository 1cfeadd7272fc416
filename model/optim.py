"""AdamW, its schedule, and the running average of the weights."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def adamw(network: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019); no decay on biases, norms and other vectors."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate)


def learning_rate(step: int, steps: int, warmup_steps: int, peak: float, final: float) -> float:
    """Linear warm-up to `peak`, then half a cosine that reaches `final` at the last step. `step` counts from 0."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - 1 - warmup_steps)
    return final + (peak - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


class WeightAverage:
    """Exponential moving average of the weights (Polyak and Juditsky 1992), with the start-up bias ramped out."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.average = {name: tensor.detach().float().clone() for name, tensor in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        self.updates += 1
        keep = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, tensor in network.state_dict().items():
            self.average[name].lerp_(tensor.float(), 1 - keep)

    def copy_to(self, network: nn.Module) -> None:
        network.load_state_dict(self.average)


def global_norm(gradients: Iterable[Tensor]) -> Tensor:
    """The norm of all gradients as one vector; not finite if any of them is not."""
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(gradient.float()) for gradient in gradients]))
