"""A network without values, for weights that are yet to come.

    with unfilled():
        network = MedSegFormer(config, num_classes)      # shapes on the meta device

torch's modules fill their parameters when they are made. On the meta device that fills nothing, and still costs a
process 1.2 CPU-s: drawing is decomposed in Python there, and what decomposes it imports torch's compiler.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_DRAWING: frozenset[Callable[..., Any]] = frozenset(
    {torch.nn.init.normal_, torch.nn.init.uniform_, torch.nn.init.kaiming_uniform_, Tensor.normal_, Tensor.uniform_}
)


@contextmanager
def unfilled() -> Iterator[None]:
    """Modules made within have parameters of shape and type alone."""
    with torch.device("meta"), _Undrawn():
        yield


class _Undrawn(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWING:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
