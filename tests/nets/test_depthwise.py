"""The gradients of depth-wise convolutions in strips, against those of torch's own convolution."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from thrifty.nets import depthwise as module
from thrifty.nets.depthwise import depthwise, pointwise
from thrifty.nets.source import Source


@pytest.mark.parametrize(("size", "dilation"), [(3, 1), (3, 2), (5, 1), (7, 1), (5, 2), (3, 3)])
@pytest.mark.parametrize("stride", [1, 2])
def test_strips_give_the_gradients_of_the_convolution(size: int, dilation: int, stride: int) -> None:
    torch.manual_seed(size)
    reach = dilation * (size - 1) + 1
    x = torch.randn(2, 3, 32, 36, dtype=torch.float64, requires_grad=True)
    kernel = torch.randn(3, 1, size, size, dtype=torch.float64, requires_grad=True)
    expected = F.conv2d(x, kernel, None, stride, reach // 2, dilation, 3)
    found = depthwise(x, kernel, stride, dilation)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    weight = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * weight).sum(), [x, kernel])
    assert ("InStrips" in str(found.grad_fn)) == (stride == 1 and reach > 3)
    for value, target in zip(torch.autograd.grad((found * weight).sum(), [x, kernel]), wanted, strict=True):
        torch.testing.assert_close(value, target, rtol=0, atol=1e-9)


def test_strips_are_left_alone_where_they_do_not_pay() -> None:
    kernel = torch.randn(3, 1, 5, 5, requires_grad=True)
    small, large = torch.randn(1, 3, 8, 8), torch.randn(1, 3, 32, 32)
    assert "InStrips" not in str(depthwise(small, kernel).grad_fn)
    assert module.LEAST_PIXELS == 32 * 32 and "InStrips" in str(depthwise(large, kernel).grad_fn)
    with torch.no_grad():
        assert depthwise(large, kernel).grad_fn is None


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_pointwise_is_the_convolution_in_both_layouts(layout: torch.memory_format) -> None:
    x = torch.randn(2, 3, 6, 4, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    weight = torch.randn(5, 3, 1, 1, dtype=torch.float64, requires_grad=True)
    expected, found = F.conv2d(x, weight), pointwise(x, weight)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert found.is_contiguous(memory_format=layout)
    cotangent = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * cotangent).sum(), [x, weight])
    for value, target in zip(torch.autograd.grad((found * cotangent).sum(), [x, weight]), wanted, strict=True):
        torch.testing.assert_close(value, target, rtol=0, atol=1e-12)


def test_second_derivatives_are_right_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The eigenvalue of the guard is held to them (tests/search/test_curvature.py)."""
    monkeypatch.setattr(module, "LEAST_PIXELS", 0)
    torch.manual_seed(0)
    x = torch.randn(2, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    for dilation, size in ((1, 5), (2, 3)):
        kernel = torch.randn(2, 1, size, size, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradgradcheck(lambda x, kernel, d=dilation: depthwise(x, kernel, dilation=d), (x, kernel))
    assert torch.autograd.gradgradcheck(lambda x: Source(x, "normal").moments("same"), (x,))
