"""The group norm that a GPU takes in place of PyTorch's, which any device can compute."""

import pytest
import torch

from model.network.norms import GroupNormOfFew


@pytest.mark.parametrize("size", [(2, 8, 3, 4, 5), (1, 12, 1, 2, 2), (1, 4, 1, 1, 1)])
@pytest.mark.parametrize("offset", [0.0, 10.0])
def test_it_is_pytorchs_and_has_its_gradients(size: tuple[int, ...], offset: float) -> None:
    torch.manual_seed(0)
    volume = (torch.randn(size) + offset).requires_grad_()
    weight, bias = (torch.randn(size[1], requires_grad=True) for _ in range(2))
    found = GroupNormOfFew.apply(volume, 4, weight, bias)  # type: ignore[no-untyped-call]
    expected = torch.group_norm(volume, 4, weight, bias, 1e-5)
    torch.testing.assert_close(found, expected, atol=1e-3 if offset else 1e-5, rtol=1e-4)
    upstream = torch.randn(size)
    gradients = (torch.autograd.grad(each, (volume, weight, bias), upstream) for each in (found, expected))
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, other, atol=3e-3 if offset else 1e-4, rtol=1e-3)
