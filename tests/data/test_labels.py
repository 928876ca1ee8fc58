"""Ignored pixels, regions of interest and overlapping classes, from the files of a data set to the batches."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from thrifty.config import Augment, Data
from thrifty.data.batches import Batches
from thrifty.data.labels import IGNORED, label_map
from thrifty.data.normalise import Normalisation
from thrifty.data.report import describe
from thrifty.data.splits import make_splits
from thrifty.data.store import Store, build_store, open_store
from thrifty.errors import ThriftyError

AS_IT_IS = Normalisation("dataset", (0.0,), (1.0,), (-1e9,), (1e9,))
HAND_MADE = np.array([[0, 1, 2, 3], [3, 2, 1, 0], [9, 9, 0, 0], [9, 1, 1, 0]], np.uint8)
BRATS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 9}


def many(mask: np.ndarray, count: int = 4) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    images = {f"c{k}": np.full(mask.shape, 10 * k, np.uint8) for k in range(count)}
    return images, {name: mask.copy() for name in images}


def save_all(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    folder.mkdir(parents=True)
    for name, values in arrays.items():
        Image.fromarray(values).save(folder / f"{name}.png")


def batches(store: Store, **data) -> Batches:
    settings = Data(**{"patch": 4, "augment": Augment(flip=0, affine=0, intensity=0, noise=0), **data})
    return Batches(store, tuple(range(len(store.cases))), AS_IT_IS, settings, 4, 0, torch.device("cpu"))


@pytest.fixture
def regions(write_nnunet):
    """A data set with BRATS' regions."""

    def write(mask: np.ndarray = HAND_MADE, labels: dict = BRATS, order: tuple[int, ...] = (1, 2, 3)) -> Path:
        images, masks = many(mask)
        folder = write_nnunet({name: [image] for name, image in images.items()}, masks, labels)
        path = folder / "dataset.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"regions_class_order": list(order)}))
        return folder

    return write


def test_ignore_label_of_nnunet(build, write_nnunet) -> None:
    images, masks = many(HAND_MADE)
    labels = {"background": 0, "a": 1, "b": 2, "c": 3, "ignore": 9}
    store = build(write_nnunet({name: [image] for name, image in images.items()}, masks, labels))
    assert (store.classes, store.labels) == (4, ("background", "a", "b", "c"))
    np.testing.assert_array_equal(store.mask(2), np.where(HAND_MADE == 9, IGNORED, HAND_MADE))
    assert (store.places[0].class_pixels, store.places[0].ignored, store.places[0].outside) == ((5, 4, 2, 2), 3, 0)
    assert store.counted_pixels(0) == 13


@pytest.mark.parametrize(("high", "ignore"), [(255, 128), (1, 255), (255, 7)])
def test_ignored_value_beside_binary_masks(build, write_pairs, high: int, ignore: int) -> None:
    """0/255 stays foreground where another value is ignored; 255 can be the ignored one beside class ids."""
    images, masks = many(np.array([[0, high, ignore], [high, high, 0]], np.uint8))
    store = build(write_pairs(images, masks), ignore=ignore)
    np.testing.assert_array_equal(store.mask(0), [[0, 1, IGNORED], [1, 1, 0]])
    assert store.places[0].class_pixels == (2, 3) and store.labels == ("background", "foreground")


def test_without_the_setting_the_value_is_refused(refused, write_pairs) -> None:
    images, masks = many(np.array([[0, 1, 255]], np.uint8))
    refused(write_pairs(images, masks), "mask values outside the classes", "c0 has 255")
    images, masks = many(np.array([[0, 1, IGNORED]], np.uint8))
    refused(write_pairs(images, masks), "c0 has 254")


def test_cases_of_which_nothing_counts_are_left_out(build, refused, write_pairs) -> None:
    images, masks = many(np.array([[0, 1], [5, 1]], np.uint8), count=6)
    masks["c2"][:] = masks["c4"][:] = 5
    folder = write_pairs(images, masks)
    store = build(folder, ignore=5)
    assert [case.name for case in store.cases] == ["c0", "c1", "c3", "c5"] and store.uncounted == 2
    assert int(store.image(2)[0, 0, 0]) == 30, "images and masks still belong together"
    text = "\n".join(describe(Data(), store, make_splits(store, Data())).lines())
    assert "ignored: 25.00% of the pixels, in 4 cases; 2 cases with nothing else are left out" in text
    for name in masks:
        masks[name][:] = 5
    refused(write_pairs(images, masks), "every pixel of all 6 masks is ignored", ignore=5)


def test_ignore_is_set_in_one_place(refused, write_nnunet) -> None:
    images, masks = many(HAND_MADE % 4)
    folder = write_nnunet({name: [image] for name, image in images.items()}, masks, {"background": 0, "a": 1, "b": 2, "c": 3})
    refused(folder, "data.ignore is 255", "dataset.json says which label is ignored", ignore=255)


def test_regions_of_nnunet(build, regions) -> None:
    store = build(regions())
    assert (store.overlapping, store.classes, store.region_values) == (True, 3, (1, 2, 3))
    assert store.labels == ("background", "whole", "core", "enhancing")
    wanted = [[0, 1, 3, 7], [7, 3, 1, 0], [IGNORED, IGNORED, 0, 0], [IGNORED, 1, 1, 0]]
    np.testing.assert_array_equal(store.mask(1), wanted)
    assert store.places[0].class_pixels == (5, 8, 4, 2)
    assert store.present(0) == (1, 2, 3)
    back = label_map(np.where(store.mask(1) == IGNORED, 0, store.mask(1)), store.region_values)
    np.testing.assert_array_equal(back, np.where(HAND_MADE == 9, 0, HAND_MADE))
    text = "\n".join(describe(Data(), store, make_splits(store, Data())).lines())
    assert "class 2 (core): 30.77% of the pixels, in 4 cases, empty in 0" in text  # 4 of 13
    assert "overlapping classes: 50.00% of the foreground pixels are of more than one" in text  # 4 of 8
    assert "ignored: 18.75% of the pixels" in text


def test_label_map_writes_one_class_over_another() -> None:
    """The rule of regions_class_order, written out pixel by pixel."""
    bits = np.arange(8, dtype=np.uint8).reshape(2, 4)
    np.testing.assert_array_equal(label_map(bits, (5, 2, 9)), [[0, 5, 2, 2], [9, 9, 9, 9]])


def test_a_value_of_no_region(refused, regions) -> None:
    refused(regions(labels={"background": 0, "a": [1, 2], "b": 2}, order=(1, 2)), "allowed: 0, 1, 2", "c0 has 3, 9")


def test_one_region_has_one_output(build, regions) -> None:
    store = build(regions(labels={"background": 0, "any": [1, 2, 3], "ignore": 9}, order=(1,)))
    assert store.classes == 1 and store.places[0].class_pixels == (5, 8)


@pytest.fixture
def class_folders(tmp_path: Path) -> Path:
    """masks/cup and masks/disc, one inside the other; the cup of c1 is empty."""
    disc, cup = np.zeros((2, 6, 6), np.uint8)
    disc[1:5, 1:5], cup[2:4, 2:4] = 255, 1
    images, discs = many(disc)
    cups = {name: cup * (name != "c1") for name in images}
    for part, arrays in (("images", images), ("masks/disc", discs), ("masks/cup", cups)):
        save_all(tmp_path / "set" / part, arrays)
    return tmp_path / "set"


def test_a_folder_of_masks_for_each_class(build, class_folders) -> None:
    store = build(class_folders)
    assert store.labels == ("background", "cup", "disc") and store.overlapping and store.region_values == ()
    wanted = np.zeros((6, 6), np.uint8)
    wanted[1:5, 1:5] = 2
    np.testing.assert_array_equal(store.mask(1), wanted)
    wanted[2:4, 2:4] = 3
    np.testing.assert_array_equal(store.mask(0), wanted)
    assert store.places[0].class_pixels == (20, 4, 16) and store.places[1].class_pixels == (20, 0, 16)
    report = describe(Data(), store, make_splits(store, Data()))
    assert [item.empty_cases for item in report.classes[1:]] == [1, 0]
    assert report.overlap == pytest.approx(12 / 64)
    assert [item.objects for item in report.classes] == [0, 3, 4]


def test_class_folders_that_are_not_whole(refused, class_folders) -> None:
    (class_folders / "masks" / "cup" / "c2.png").unlink()
    refused(class_folders, "masks/cup: images without mask: c2")
    save_all(class_folders / "masks" / "third", {f"c{k}": np.full((6, 6), k, np.uint8) for k in range(4)})
    Image.fromarray(np.zeros((6, 6), np.uint8)).save(class_folders / "masks" / "cup" / "c2.png")
    Image.fromarray(np.arange(36, dtype=np.uint8).reshape(6, 6)).save(class_folders / "masks" / "third" / "c2.png")
    refused(class_folders, "more than 0 and one other value: c2 (third)")
    Image.fromarray(np.zeros((6, 6), np.uint8)).save(class_folders / "masks" / "c0.png")
    refused(class_folders, "holds folders (cup, disc, third) and files (c0.png)")


def test_ignored_value_in_a_folder_of_a_class(build, class_folders) -> None:
    cup = np.zeros((6, 6), np.uint8)
    cup[0, 0], cup[2, 2] = 9, 1
    Image.fromarray(cup).save(class_folders / "masks" / "cup" / "c0.png")
    store = build(class_folders, ignore=9)
    assert store.mask(0)[0, 0] == IGNORED and store.mask(0)[2, 2] == 3 and store.places[0].ignored == 1


def write_rois(folder: Path, name: str = "rois", size: tuple[int, int] = (6, 6)) -> None:
    roi = np.zeros(size, np.uint8)
    roi[:, :3] = 255
    save_all(folder / name, {f"c{k}": roi for k in range(4)})


@pytest.mark.parametrize("name", [None, "fov"])
def test_outside_of_the_region_of_interest_nothing_counts(build, write_pairs, name: str | None) -> None:
    mask = np.zeros((6, 6), np.uint8)
    mask[0], mask[1] = 255, 7
    folder = write_pairs(*many(mask))
    write_rois(folder, name or "rois")
    store = build(folder, ignore=7, rois=name)
    assert (store.mask(0)[:, 3:] == IGNORED).all()
    assert store.places[0].class_pixels == (12, 3) and (store.places[0].ignored, store.places[0].outside) == (3, 18)
    text = "\n".join(describe(Data(), store, make_splits(store, Data())).lines())
    assert "regions of interest: 50.00% of the pixels are inside, 4 cases have pixels outside" in text
    assert "class 1 (foreground): 20.00% of the pixels" in text


def test_regions_of_interest_that_are_not_whole(refused, write_pairs) -> None:
    folder = write_pairs(*many(np.ones((6, 6), np.uint8)))
    refused(folder, "data.rois is 'fov'", "no such folder", rois="fov")
    write_rois(folder, size=(6, 5))
    refused(folder, "regions of interest, sizes that differ", "c0 (image 6x6, mask 6x5)")
    (folder / "rois" / "c1.png").rename(folder / "rois" / "other.png")
    refused(folder, "images without region of interest: c1", "regions of interest without image: other")


def test_a_store_of_other_masks_is_not_taken(tmp_path: Path, write_pairs) -> None:
    folder = write_pairs(*many(np.array([[0, 1, 2]], np.uint8)))
    build_store(Data(source=str(folder)), tmp_path / "run")
    with pytest.raises(ThriftyError, match=r"holds other data: ignore was None, now 2"):
        build_store(Data(source=str(folder), ignore=2), tmp_path / "run")


def test_a_store_of_an_older_version_is_read(tmp_path: Path, write_pairs) -> None:
    """It knows neither of ignored pixels nor of overlap."""
    folder = write_pairs(*many(np.array([[0, 1, 2]], np.uint8)))
    new = build_store(Data(source=str(folder)), tmp_path / "run")
    path = tmp_path / "run" / "index.json"
    index = json.loads(path.read_text())
    for key in ("overlapping", "region_values", "uncounted"):
        del index[key]
    for key in ("ignore", "rois"):
        del index["made_from"][key]
    for row in index["cases"]:
        del row["ignored"], row["outside"]
    path.write_text(json.dumps(index))
    old = build_store(Data(source=str(folder)), tmp_path / "run")
    assert (old.overlapping, old.classes, old.uncounted, old.places) == (False, 3, 0, new.places)
    assert open_store(tmp_path / "run").fingerprint == new.fingerprint


def test_foreground_patches_are_not_centred_on_ignored_pixels(build, write_pairs) -> None:
    """Of two pixels of the class one lies outside the region of interest."""
    mask = np.zeros((6, 6), np.uint8)
    mask[2, 1] = mask[3, 4] = 1
    folder = write_pairs(*many(mask))
    write_rois(folder)
    stream = batches(build(folder), patch=1, foreground=1.0)
    centres = [int(value) for step in range(8) for value in stream.draw(0, step)[1].flatten()]
    assert centres == [1] * 32


def test_overlapping_classes_take_turns_in_foreground_patches(build, class_folders) -> None:
    """The cup is a fourth of the disc, and inside it: half of the draws are for it, a fourth of the others fall on it too."""
    store = build(class_folders)
    settings = Data(patch=1, foreground=1.0, augment=Augment(flip=0, affine=0, intensity=0, noise=0))
    stream = Batches(store, (0, 2, 3), AS_IT_IS, settings, 30, 0, torch.device("cpu"))
    seen = Counter(int(value) for step in range(20) for value in stream.draw(0, step)[1].flatten())
    assert set(seen) == {2, 3} and abs(seen[3] / 600 - (0.5 + 0.5 / 4)) < 0.06


def test_a_class_of_few_cases_gets_its_share_from_the_set(build, write_pairs) -> None:
    """Two classes, one in one case of ten: by the case it is in a tenth of the patches at most, by the set in half of them."""
    images, masks = many(np.ones((8, 8), np.uint8), count=10)
    masks["c3"][2, 2] = 2
    store = build(write_pairs(images, masks))

    def share(of: str) -> float:
        stream = batches(store, patch=1, foreground=1.0, foreground_of=of)
        values = torch.stack([stream.draw(0, step)[1] for step in range(100)])
        return float((values == 2).float().mean())

    assert share("case") <= 0.1 and abs(share("set") - 0.5) < 0.08


@pytest.mark.parametrize("overlapping", [False, True])
def test_augmented_masks_hold_no_other_numbers(build, class_folders, write_pairs, overlapping: bool) -> None:
    """Turned, scaled and mirrored by nearest neighbour: no bit set or mark is averaged away."""
    if not overlapping:
        mask = np.zeros((6, 6), np.uint8)
        mask[2:, 2:], mask[4:, :2] = 3, 2
        save_all(class_folders.parent / "b" / "images", many(mask)[0])
        save_all(class_folders.parent / "b" / "masks", many(mask)[1])
        class_folders = class_folders.parent / "b"
    write_rois(class_folders)
    store = build(class_folders)
    strong = Augment(flip=0.5, affine=1.0, rotate_degrees=90, scale=0.5)
    stream = batches(store, patch=9, augment=strong)
    values = set(torch.stack([stream.draw(0, step)[1] for step in range(10)]).unique().tolist())
    assert values == {0, 2, 3, IGNORED}


def test_field_of_view_of_drive(build, real_data) -> None:
    """About 69 % of DRIVE's pixels are inside the field of view, and all vessels are."""
    store = build(real_data("DRIVE"), rois="fov", max_cases=8)
    plain = build(real_data("DRIVE"), name="plain", max_cases=8)
    outside = [place.outside / (584 * 565) for place in store.places]
    assert store.channels == 3 and all(0.25 < share < 0.40 for share in outside)
    for index in range(len(store.cases)):
        inside = store.mask(index) != IGNORED
        np.testing.assert_array_equal(store.mask(index)[inside], plain.mask(index)[inside])
        lost = int(plain.mask(index)[~inside].sum())
        assert lost <= 0.01 * plain.places[index].class_pixels[1]
    vessels = sum(p.class_pixels[1] for p in store.places) / sum(map(store.counted_pixels, range(len(store.cases))))
    assert 0.10 < vessels < 0.15


def test_slices_of_volumes_with_regions_and_ignored_pixels(build, write_nnunet) -> None:
    """NIfTI of floats: values become bit sets slice by slice; the slice that nobody has marked is left out."""
    import nibabel

    def save(values: np.ndarray, path: Path) -> None:
        nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), np.diag([0.5, 2.0, 3.0, 1.0])), path)

    volume = np.stack([HAND_MADE, np.full((4, 4), 9), np.zeros((4, 4)), HAND_MADE.T], axis=2)
    names = [f"v{k}" for k in range(4)]
    folder = write_nnunet({n: [np.ones(volume.shape)] for n in names}, dict.fromkeys(names, volume), BRATS, ".nii.gz", save)
    path = folder / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"regions_class_order": [1, 2, 3]}))
    store = build(folder)
    assert [case.name for case in store.cases[:3]] == ["v0_z000", "v0_z002", "v0_z003"] and store.uncounted == 4
    flat = [[0, 1, 3, 7], [7, 3, 1, 0], [IGNORED, IGNORED, 0, 0], [IGNORED, 1, 1, 0]]
    np.testing.assert_array_equal(store.mask(0), flat)
    np.testing.assert_array_equal(store.mask(2), np.transpose(flat))
    assert store.cases[0].spacing_mm == (0.5, 2.0) and store.places[1].class_pixels == (16, 0, 0, 0)
