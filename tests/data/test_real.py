"""Real images, where they are on the machine."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from skimage.io import imread

from thrifty.config import Data, Study
from thrifty.data.batches import Batches
from thrifty.data.normalise import learn
from thrifty.data.prepare import prepare
from thrifty.data.report import describe
from thrifty.results import Run


@pytest.mark.parametrize(
    ("name", "limit", "patch", "channels", "classes"),
    [
        ("DSB2018_96", 40, 96, 3, 2),
        ("MSD_Hippocampus", 60, (32, 48), 1, 3),
        ("ACDC", 24, 128, 1, 4),
        ("Dataset004_Hippocampus", 250, 32, 1, 3),
    ],
)
def test_end_to_end(
    real_data, tmp_path: Path, name: str, limit: int, patch: int | tuple[int, int], channels: int, classes: int
) -> None:
    data = Data(source=str(real_data(name)), max_cases=limit, patch=patch)
    store, splits = (prepared := prepare(Study(name="x", budgets=(1,), data=data), Run(tmp_path))).store, prepared.splits
    assert (store.channels, store.classes) == (channels, classes)
    assert limit / 2 < len(store.cases) <= limit
    assert all(patients >= 1 for patients, _ in describe(data, store, splits).sets.values())
    indices = store.indices(splits.training)
    batches = Batches(store, tuple(indices), learn(store, indices, "dataset"), data, 4, 0, torch.device("cpu"))
    images, masks = batches.draw(0, 0)
    assert images.shape == (4, channels, *data.patch_size) and torch.isfinite(images).all()
    assert int(masks.min()) >= 0 and int(masks.max()) < classes


def test_pictures_against_scikit_image(real_data, build) -> None:
    folder = real_data("DSB2018_96")
    store = build(folder, max_cases=12)
    for index, case in enumerate(store.cases):
        np.testing.assert_array_equal(store.image(index), np.moveaxis(imread(folder / "images" / f"{case.name}.png"), 2, 0))
        np.testing.assert_array_equal(store.mask(index) * 255, imread(folder / "masks" / f"{case.name}.png"))


def test_volumes_against_nibabel(real_data, build) -> None:
    folder = real_data("Dataset004_Hippocampus")
    store = build(folder, max_cases=200, slice_axis=1)
    assert store.labels == ("background", "Anterior", "Posterior")
    for volume in {case.volume for case in store.cases}:
        mask = nibabel.as_closest_canonical(nibabel.load(folder / "labelsTr" / f"{volume}.nii.gz"))
        slices = [i for i, case in enumerate(store.cases) if case.volume == volume]
        np.testing.assert_array_equal(np.stack([store.mask(i) for i in slices], axis=1), mask.get_fdata())
        zooms = mask.header.get_zooms()
        assert store.cases[slices[0]].spacing_mm == pytest.approx((zooms[0], zooms[2]))
