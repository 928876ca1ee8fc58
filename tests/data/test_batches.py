"""Training batches: a pure function of (seed, epoch, step), patches cut from the images, foreground oversampled."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from thrifty.config import Augment, Data
from thrifty.data.batches import Batches
from thrifty.data.normalise import Normalisation, learn
from thrifty.data.store import Store
from thrifty.errors import ThriftyError

AS_IT_IS = Normalisation("dataset", (0.0,), (1.0,), (-1e9,), (1e9,))
NO_CHANGE = Augment(flip=0, affine=0, intensity=0, noise=0)


def stream(store: Store, batch: int = 4, seed: int = 0, indices: tuple[int, ...] | None = None, **data) -> Batches:
    settings = Data(**{"augment": NO_CHANGE, "patch": 24, **data})
    chosen = tuple(range(len(store.cases))) if indices is None else indices
    return Batches(store, chosen, AS_IT_IS, settings, batch, seed, torch.device("cpu"))


@pytest.fixture
def numbered(build, some_cases, write_pairs) -> Store:
    """Images whose pixels tell the case (tens of thousands) and place (row * 100 + column), masks of one pixel."""
    images, masks = {}, {}
    for k in range(7):
        images[f"c{k}"] = (k * 9000 + np.arange(40)[:, None] * 100 + np.arange(30)).astype(np.uint16)
        masks[f"c{k}"] = np.zeros((40, 30), np.uint8)
        masks[f"c{k}"][5 * k + 2, 3 * k + 5] = 1 + k % 2
    return build(write_pairs(images, masks))


def test_shapes_and_types(phantoms) -> None:
    images, masks = stream(phantoms, patch=(16, 32), augment=Augment()).draw(0, 0)
    assert (images.shape, images.dtype) == ((4, 1, 16, 32), torch.float32)
    assert (masks.shape, masks.dtype) == ((4, 16, 32), torch.int64)


def test_pure_function_of_seed_epoch_and_step(phantoms) -> None:
    one, other = stream(phantoms, augment=Augment()), stream(phantoms, augment=Augment())
    torch.manual_seed(123)
    wanted = one.draw(3, 5)
    torch.manual_seed(9)
    for epoch, step in ((0, 0), (7, 1)):
        other.draw(epoch, step)
    before = torch.get_rng_state()
    got = other.draw(3, 5)
    assert torch.equal(torch.get_rng_state(), before), "the global generator is left alone"
    assert torch.equal(got[0], wanted[0]) and torch.equal(got[1], wanted[1])
    for changed in (one.draw(3, 6), one.draw(4, 5), stream(phantoms, seed=1, augment=Augment()).draw(3, 5)):
        assert not torch.equal(changed[0], wanted[0])


def test_plain_is_pure_and_is_not_augmented(phantoms) -> None:
    one = stream(phantoms, augment=Augment(noise=1))
    assert torch.equal(one.plain(2)[0], stream(phantoms).plain(2)[0])
    assert not torch.equal(one.plain(2)[0], one.plain(3)[0])


def test_every_patch_is_cut_from_image_and_mask_at_one_place(numbered) -> None:
    batches = stream(numbered, patch=(11, 8))
    for step in range(12):
        for image, mask in zip(*batches.draw(0, step), strict=True):
            case, place = divmod(int(image[0, 0, 0]), 9000)
            top, left = divmod(place, 100)
            np.testing.assert_array_equal(image[0], numbered.image(case)[0, top : top + 11, left : left + 8])
            np.testing.assert_array_equal(mask, numbered.mask(case)[top : top + 11, left : left + 8])


@pytest.mark.parametrize("batch", [2, 3, 10])
def test_no_case_twice_before_every_case_once(numbered, batch: int) -> None:
    batches = stream(numbered, batch=batch, patch=4)
    order = [int(image[0, 0, 0]) // 9000 for step in range(21) for image in batches.draw(1, step)[0]]
    for start in range(0, len(order) - 7, 7):
        assert sorted(order[start : start + 7]) == list(range(7))
    assert order[:7] != order[7:14]


def test_only_the_given_cases(numbered) -> None:
    batches = stream(numbered, indices=(1, 4), patch=4)
    seen = Counter(int(image[0, 0, 0]) // 9000 for step in range(10) for image in batches.draw(0, step)[0])
    assert seen == {1: 20, 4: 20}


def test_foreground_patches_are_centred_on_foreground(numbered) -> None:
    batches = stream(numbered, patch=(9, 7), foreground=1.0)
    for step in range(10):
        for image, mask in zip(*batches.draw(0, step), strict=True):
            case, place = divmod(int(image[0, 0, 0]), 9000)
            row, column = 5 * case + 2, 3 * case + 5
            wanted = min(max(row - 4, 0), 40 - 9), min(max(column - 3, 0), 30 - 7)
            assert divmod(place, 100) == wanted
            assert int((mask > 0).sum()) == 1


def test_share_of_foreground_patches(numbered) -> None:
    def share(foreground: float) -> float:
        batches = stream(numbered, batch=50, patch=3, foreground=foreground)
        return float(np.mean([bool((mask > 0).any()) for step in range(8) for mask in batches.draw(0, step)[1]]))

    by_chance = 9 / (38 * 28)
    assert share(0.0) < 5 * by_chance
    assert abs(share(0.4) - 0.4) < 0.08
    assert share(1.0) == 1.0


@pytest.mark.parametrize("small", [1, 2])
def test_small_classes_come_as_often_as_large_ones(build, some_cases, write_pairs, small: int) -> None:
    images, masks = some_cases(4, (40, 40))
    for name in masks:
        masks[name][:] = 3 - small
        masks[name][:, 20:] = 0
        masks[name][30, 30] = small
    batches = stream(build(write_pairs(images, masks)), batch=20, patch=3, foreground=1.0)
    centres = Counter(int(mask[1, 1]) for step in range(20) for mask in batches.draw(0, step)[1])
    assert abs(centres[small] / 400 - 0.5) < 0.1


@pytest.mark.parametrize("size", [(12, 10), (3, 30), (1, 1)])
def test_small_images_are_mirrored_with_their_masks(build, some_cases, write_pairs, size: tuple[int, int]) -> None:
    _, masks = some_cases(5, size)
    store = build(write_pairs({name: 100 + mask * 20 for name, mask in masks.items()}, masks))
    images, got = stream(store, patch=24).draw(0, 0)
    assert images.shape == (4, 1, 24, 24)
    np.testing.assert_array_equal(images[:, 0], 100 + got * 20)
    height, width = min(size[0], 24), min(size[1], 24)
    parts = {store.mask(i)[:, c : c + width].tobytes() for i in range(5) for c in range(size[1] - width + 1)}
    for mask in got.numpy().astype(np.uint8):  # the case, or a patch's width of it, is in there as it was, never stretched
        places = [(r, c) for r in range(25 - height) for c in range(25 - width)]
        assert any(mask[r : r + height, c : c + width].tobytes() in parts for r, c in places)


def test_normalised_by_the_whole_case(phantoms) -> None:
    way = learn(phantoms, [0], "case")
    batches = replace(stream(phantoms, patch=48), normalisation=way)
    images, _ = batches.plain(0)
    np.testing.assert_allclose(images.mean(dim=(1, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(images.std(dim=(1, 2, 3)), 1, rtol=1e-2)


def test_no_cases(phantoms) -> None:
    with pytest.raises(ThriftyError, match="at least one case"):
        stream(phantoms, indices=())
