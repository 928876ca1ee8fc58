"""Prediction at full size: padding, sliding window, grouping by size, and the mode of the network."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from thrifty.config import Evaluate
from thrifty.inference import labels_of, logits_of, mean_dice, pad_to_stride, predict_cases, predict_logits, probabilities_of
from thrifty.metrics import foreground_dice
from thrifty.nets.baselines import UNet

CPU = torch.device("cpu")


class Local(nn.Module):
    """Every output pixel depends on its own input pixel alone."""

    stride = 4

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Sequential(nn.Conv2d(1, 6, 1), nn.Tanh(), nn.Conv2d(6, 3, 1))
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert images.shape[-2] % self.stride == 0 and images.shape[-1] % self.stride == 0
        self.sizes.append(tuple(images.shape))
        return self.mix(images)


class Cases:
    """As much of a store as a prediction needs: images of given sizes."""

    classes = 3
    overlapping = False

    def __init__(self, sizes: list[tuple[int, int]]) -> None:
        rng = np.random.default_rng(0)
        self.cases = [SimpleNamespace(height=h, width=w) for h, w in sizes]
        self.images = [rng.normal(size=(1, h, w)).astype(np.float32) for h, w in sizes]
        self.masks = [rng.integers(3, size=size).astype(np.uint8) for size in sizes]

    def image(self, index: int) -> np.ndarray:
        return self.images[index]

    def mask(self, index: int) -> np.ndarray:
        return self.masks[index]


SAME = SimpleNamespace(apply=lambda image: image)


def local(seed: int = 0) -> Local:
    torch.manual_seed(seed)
    return Local()


@pytest.mark.parametrize(
    ("size", "widths"),
    [((13, 6), ((1, 2), (1, 1))), ((8, 4), ((0, 0), (0, 0))), ((9, 8), ((1, 2), (0, 0))), ((1, 2), ((1, 2), (1, 1)))],
)
def test_padding_mirrors_half_on_each_side_up_to_the_stride(size, widths) -> None:
    image = np.random.default_rng(0).normal(size=(1, 2, *size))
    padded, top, left = pad_to_stride(torch.from_numpy(image), 4)
    assert (top, left) == (widths[0][0], widths[1][0])
    np.testing.assert_array_equal(padded.numpy(), np.pad(image, [(0, 0), (0, 0), *widths], mode="reflect"))


def test_prediction_equals_that_of_the_image_padded_by_hand() -> None:
    torch.manual_seed(0)
    network = UNet(1, 2, (4, 4, 4)).eval()
    image = torch.randn(2, 1, 13, 17)
    by_hand = torch.from_numpy(np.pad(image.numpy(), [(0, 0), (0, 0), (1, 2), (1, 2)], mode="reflect"))
    with torch.no_grad():
        expected = network(by_hand)[..., 1:14, 1:18]
        assert torch.equal(predict_logits(network, image, Evaluate()), expected)


def test_image_smaller_than_the_stride_is_padded_not_stretched() -> None:
    network = local().eval()
    image = torch.randn(1, 1, 3, 2)
    with torch.no_grad():
        torch.testing.assert_close(predict_logits(network, image, Evaluate()), network.mix(image))


@pytest.mark.parametrize(("size", "window"), [((40, 56), 16), ((40, 9), 16), ((33, 31), 10), ((30, 30), 3)])
def test_sliding_window_of_a_local_network_equals_the_whole_image(size, window) -> None:
    network = local().eval()
    image = torch.randn(1, 1, *size)
    settings = Evaluate(window=window, overlap=0.5, batch=3)
    with torch.no_grad():
        torch.testing.assert_close(predict_logits(network, image, settings), network.mix(image), rtol=1e-4, atol=1e-5)
    largest = max(4, window // 4 * 4)
    assert len(network.sizes) > 1
    assert all(h <= largest and w <= largest and batch <= 3 for batch, _, h, w in network.sizes)


@pytest.mark.parametrize(("size", "window", "overlap"), [((40, 56), 16, 0.5), ((33, 30), 20, 0.25), ((64, 9), 24, 0.7)])
def test_windows_are_placed_and_blended_as_monai_does_it(size, window, overlap) -> None:
    """With a network that sees its neighbourhood, so that places and weights of the windows show."""
    from monai.inferers import sliding_window_inference

    torch.manual_seed(0)
    network = UNet(2, 3, (4, 4, 4)).eval()
    images = torch.randn(2, 2, *size)
    settings = Evaluate(window=window, overlap=overlap, batch=3)
    with torch.no_grad():
        padded, top, left = pad_to_stride(images, 4)
        roi = [min(n, window) for n in padded.shape[-2:]]
        expected = sliding_window_inference(padded, roi, 3, network, overlap, mode="gaussian")
        expected = expected[..., top : top + size[0], left : left + size[1]]
        torch.testing.assert_close(predict_logits(network, images, settings), expected, rtol=1e-4, atol=1e-5)


def test_logits_probabilities_and_labels_agree() -> None:
    logits = torch.randn(2, 3, 5, 6)
    probabilities = probabilities_of(logits)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2, 5, 6))
    torch.testing.assert_close(probabilities_of(logits_of(probabilities)), probabilities)
    assert torch.equal(labels_of(logits), labels_of(logits_of(probabilities)))
    assert torch.isfinite(logits_of(torch.eye(3)[None, :, :, None])).all()


def test_cases_of_equal_size_share_a_batch_and_each_is_predicted_once() -> None:
    store, network = Cases([(8, 8), (5, 9), (8, 8), (8, 8), (5, 9), (8, 8)]), local()
    indices = [5, 4, 3, 2, 1]
    found = dict(predict_cases(network, store, indices, SAME, Evaluate(batch=2), CPU))
    assert sorted(found) == sorted(indices)
    assert sorted(size[0] for size in network.sizes) == [1, 2, 2]
    for index, labels in found.items():
        assert labels.dtype == np.uint8
        with torch.no_grad():
            expected = network.mix(torch.from_numpy(store.image(index))[None]).argmax(1)[0].numpy()
        np.testing.assert_array_equal(labels, expected)


def test_mean_dice_is_the_mean_over_cases() -> None:
    store, network = Cases([(8, 8), (5, 9), (6, 6)]), local()
    labels = dict(predict_cases(network, store, [0, 1, 2], SAME, Evaluate(), CPU))
    expected = np.mean([foreground_dice(labels[i], store.mask(i), 3) for i in range(3)])
    assert mean_dice(network, store, [0, 1, 2], SAME, Evaluate(), CPU) == pytest.approx(expected)


def test_prediction_is_in_evaluation_mode_and_leaves_every_module_as_it_was() -> None:
    network = UNet(1, 3, (2, 2))
    network.train()
    network.down[1].eval()
    before = {name: module.training for name, module in network.named_modules()}
    statistics = {name: buffer.clone() for name, buffer in network.named_buffers()}
    seen: list[tuple[bool, bool]] = []
    network.register_forward_hook(lambda module, inputs, output: seen.append((module.training, output.requires_grad)))
    list(predict_cases(network, Cases([(9, 9)]), [0], SAME, Evaluate(), CPU))
    assert seen == [(False, False)]
    assert {name: module.training for name, module in network.named_modules()} == before
    assert all(torch.equal(buffer, statistics[name]) for name, buffer in network.named_buffers())
    assert torch.is_grad_enabled()


def test_mode_is_restored_after_an_error() -> None:
    network = UNet(1, 3, (2, 2))
    with pytest.raises(RuntimeError):
        list(predict_cases(network, Cases([(8, 8)]), [0], SimpleNamespace(apply=lambda image: image[[0, 0]]), Evaluate(), CPU))
    assert network.training and torch.is_grad_enabled()
