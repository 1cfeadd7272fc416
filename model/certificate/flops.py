"""FLOPs of one operation: PyTorch's own counts, and two that it lacks or gets wrong.

`convolution_backward`: PyTorch 2.13 forgets the groups in the gradient of the weights, and so counts a depth-wise
convolution's backward pass hundreds of times too high. `scaled_dot_product_flash_attention_for_cpu`: not in its table.
`COUNTS` can be given to `FlopCounterMode(custom_mapping=...)`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import conv_flop_count, flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from model.certificate.operations import Products

aten = torch.ops.aten
Shape = Sequence[int]


def convolution_backward(
    gradient: Shape, volume: Shape, weight: Shape, *args: Any, out_shape: Sequence[Shape | None], **_: Any
) -> int:
    """As much as the forward pass for each of the two gradients, of the input and of the weights, that is computed."""
    wanted = sum(bool(each) for each in args[-1][:2])  # output_mask: input, weight, bias
    return wanted * conv_flop_count(list(volume), list(weight), list(gradient))


def attention(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def attention_backward(gradient: Shape, query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(gradient, query, key, value)


COUNTS: dict[Any, Callable[..., int]] = {
    aten.convolution_backward: convolution_backward,
    aten._scaled_dot_product_flash_attention_for_cpu: attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward,
}


def flops(packet: Any, args: Sequence[Any], kwargs: dict[str, Any], result: Any) -> int:
    """Of the operation `packet` (an `OpOverloadPacket`), called with these tensors; 0 if it is no product."""
    if packet in COUNTS:
        shapes = [each.shape if isinstance(each, torch.Tensor) else each for each in args]
        return int(COUNTS[packet](*shapes, **kwargs, out_shape=()))
    count = flop_registry.get(packet)
    return int(count(*args, **kwargs, out_val=result)) if count else 0


def products(packet: Any, args: Sequence[Any]) -> Products | None:
    """What an operation can be cut into, for its share of a GPU's processors; None where that is always enough."""
    shapes = [each.shape for each in args if isinstance(each, torch.Tensor)]
    if packet in (aten.mm, aten.addmm):
        (rows, depth), (_, columns) = shapes[-2:]
        return Products(1, rows, columns, depth)
    if packet in (aten.bmm, aten.baddbmm):
        (batch, rows, depth), (_, _, columns) = shapes[-2:]
        return Products(batch, rows, columns, depth)
    if packet is aten._scaled_dot_product_flash_attention_for_cpu:
        batch, heads, queries, _ = shapes[0]
        return Products(batch * heads, queries, 1, 0)
    if packet is aten._scaled_dot_product_flash_attention_for_cpu_backward:
        batch, heads, keys, _ = shapes[2]  # after the gradient and the query
        return Products(batch * heads, keys, 1, 0)
    return None
