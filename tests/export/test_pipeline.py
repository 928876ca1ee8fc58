"""The exported way from raw pixels to labels is thrifty's own: padding, normalisation, cut back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from thrifty import inference
from thrifty.data.normalise import Normalisation
from thrifty.export.pipeline import CaseNormalisation, DatasetNormalisation, Pipeline, cut_back, labels_of, pad_to_stride


@pytest.mark.parametrize("stride", [4, 16])
def test_padding_mirrors_as_inference_does(stride: int) -> None:
    """Also images so small that they are mirrored more than once, and sizes that need no padding."""
    rng = np.random.default_rng(0)
    for height in (1, 2, 3, 5, 8, 15, 16, 17, 31, 32):
        images = torch.from_numpy(rng.normal(size=(2, 3, height, 21)).astype(np.float32))
        padded, top, left = inference.pad_to_stride(images, stride)
        assert torch.equal(pad_to_stride(images, stride), padded)
        assert torch.equal(cut_back(padded, height, 21, stride), images)
        assert torch.equal(padded[..., top : top + height, left : left + 21], images)


def some_images() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    constant = np.full((2, 9, 11), 7, np.uint8)
    constant[1, 4, 4] = 9  # within the percentiles that channel is constant too
    return [
        rng.integers(0, 256, (2, 37, 41)).astype(np.uint8),
        rng.integers(-1000, 3000, (2, 20, 30)).astype(np.int16),
        rng.lognormal(3, 2, (2, 33, 17)).astype(np.float32),
        constant,
    ]


def test_case_normalisation() -> None:
    for image in some_images():
        expected = Normalisation("case").apply(image)
        got = CaseNormalisation()(torch.from_numpy(image[None].astype(np.float32)))[0].numpy()
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_case_normalisation_takes_each_image_of_a_batch_by_itself() -> None:
    image = some_images()[0].astype(np.float32)
    batch = torch.from_numpy(np.stack([image, 3 * image + 5]))
    first, second = CaseNormalisation()(batch)
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)


def test_dataset_normalisation() -> None:
    numbers = ((90.0, 80.0), (60.0, 50.0), (5.0, 8.0), (250.0, 230.0))
    for image in some_images():
        got = DatasetNormalisation(*map(list, numbers))(torch.from_numpy(image[None].astype(np.float32)))[0].numpy()
        np.testing.assert_array_equal(got, Normalisation("dataset", *numbers).apply(image))


def test_of_equal_logits_the_first_class() -> None:
    logits = torch.tensor([[0.0, 1.0], [0.0, 2.0], [-1.0, 2.0]])[None, :, None, :]
    assert labels_of(logits).tolist() == [[[0, 1]]] and labels_of(logits).dtype == torch.uint8


def test_probabilities_are_a_second_output() -> None:
    network = torch.nn.Conv2d(1, 3, 1)
    pixels = torch.rand(1, 1, 5, 6)
    normalise = DatasetNormalisation([0.5], [1.0], [0.0], [1.0])
    labels, probabilities = Pipeline(network, 4, normalise, probabilities=True)(pixels)
    torch.testing.assert_close(probabilities, network(pixels - 0.5).softmax(1))
    assert torch.equal(labels, Pipeline(network, 4, normalise)(pixels))
