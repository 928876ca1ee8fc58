"""Bad data: one clear line that names all offenders, and nothing half-written."""

import json
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image

from thrifty.config import Data, Phantoms
from thrifty.data.store import build_store
from thrifty.errors import ThriftyError


def test_missing_folder(refused, tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "no folder", "nowhere", "THRIFTY_DATA", "phantoms")


def test_missing_folder_below_thrifty_data(refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THRIFTY_DATA", str(tmp_path))
    refused("nothing_here", str(tmp_path / "nothing_here"))


def test_folder_of_another_layout(refused, tmp_path: Path) -> None:
    (tmp_path / "set" / "pictures").mkdir(parents=True)
    refused(tmp_path / "set", "holds pictures", "images/ and masks/", "dataset.json")


def test_folder_without_any_image(refused, tmp_path: Path) -> None:
    for part in ("images", "masks"):
        (tmp_path / "set" / part).mkdir(parents=True)
        (tmp_path / "set" / part / "a.dcm").write_bytes(b"x")
    refused(tmp_path / "set", "holds no images", ".png")


def test_image_without_mask_and_the_reverse(refused, some_cases, write_pairs) -> None:
    images, masks = some_cases(9)
    del masks["c1"], masks["c2"], images["c5"]
    refused(write_pairs(images, masks), "images without mask: c1, c2", "masks without image: c5")


def test_many_offenders_are_counted(refused, some_cases, write_pairs) -> None:
    images, _ = some_cases(12)
    refused(write_pairs(images, {}), "c0, c1, c10, c11, c2 (+7 more)")


def test_two_files_for_one_case(refused, some_cases, write_pairs) -> None:
    folder = write_pairs(*some_cases())
    (folder / "images" / "c1.tif").write_bytes((folder / "images" / "c1.png").read_bytes())
    refused(folder, "two files for one case: images/c1.png and c1.tif")


def test_sizes_that_differ(refused, some_cases, write_pairs) -> None:
    images, masks = some_cases()
    masks["c3"], masks["c4"] = masks["c3"].T, masks["c4"][:-1]
    refused(write_pairs(images, masks), "c3 (image 12x10, mask 10x12), c4 (image 12x10, mask 11x10)")


def test_every_bad_file_is_told_at_once(refused, some_cases, write_pairs) -> None:
    images, masks = some_cases(8)
    masks["c6"] = masks["c6"][1:]
    folder = write_pairs(images, masks)
    (folder / "images" / "c0.png").write_bytes(b"")
    whole = (folder / "masks" / "c1.png").read_bytes()
    (folder / "masks" / "c1.png").write_bytes(whole[: len(whole) // 2])
    (folder / "images" / "c2.png").write_text("not a picture")
    text = refused(folder, "files that cannot be read: c0.png (zero bytes), c1.png (", "c2.png (", "sizes that differ", "c6 (")
    assert "mend these files" in text


def test_nan_pixels(refused, some_cases, write_pairs) -> None:
    folder = write_pairs(*some_cases())
    bad = np.ones((12, 10), np.float32)
    bad[3, 3] = np.nan
    (folder / "images" / "c2.png").unlink()
    tifffile.imwrite(folder / "images" / "c2.tif", bad)
    refused(folder, "files with NaN or infinite pixels: c2.tif")


def test_mask_values_outside_the_classes(refused, some_cases, write_pairs) -> None:
    images, masks = some_cases()
    masks["c1"][0, 0], masks["c1"][0, 1], masks["c4"][2, 2] = 40, 255, 255
    refused(write_pairs(images, masks), "mask values outside the classes", "0..31", "c1 has 40, 255, c4 has 255")


def test_sixteen_bit_mask_values_are_not_cut(refused, some_cases, write_pairs) -> None:
    images, masks = some_cases()
    masks["c1"] = masks["c1"].astype(np.uint16) + 256  # its low byte alone would look fine
    refused(write_pairs(images, masks), "c1 has 256, 257, 258")


def test_mask_in_colour(refused, some_cases, write_pairs) -> None:
    images, masks = some_cases()
    masks["c1"] = np.stack([masks["c1"], masks["c1"], masks["c1"] * 0], axis=2)
    refused(write_pairs(images, masks), "masks in colour", "c1")


def test_mask_of_fractions(refused, some_cases, write_pairs) -> None:
    folder = write_pairs(*some_cases())
    (folder / "masks" / "c2.png").unlink()
    tifffile.imwrite(folder / "masks" / "c2.tif", np.full((12, 10), 0.5, np.float32))
    refused(folder, "no whole numbers from 0: c2")


def test_only_background(refused, some_cases, write_pairs) -> None:
    images, masks = some_cases()
    refused(write_pairs(images, {name: mask * 0 for name, mask in masks.items()}), "only background in all 6 masks")


def test_number_of_channels_differs(refused, some_cases, write_pairs) -> None:
    images, masks = some_cases()
    images["c2"] = np.stack([images["c2"]] * 3, axis=2)
    refused(write_pairs(images, masks), "another number of channels than 1: c2 (3)")


def test_fewer_patients_than_sets(refused, some_cases, write_pairs) -> None:
    groups = "case,patient\n" + "".join(f"c{k},p{k % 3}\n" for k in range(6))
    refused(write_pairs(*some_cases(), groups), "3 patients are fewer than the 4 sets", "groups.csv")


def test_fewer_patients_than_sets_because_of_max_cases(refused, some_cases, write_pairs) -> None:
    refused(write_pairs(*some_cases()), "3 patients within data.max_cases=3", "raise data.max_cases", max_cases=3)


def test_max_cases_below_every_patient(refused, some_cases, write_pairs) -> None:
    groups = "case,patient\n" + "".join(f"c{k},p{k // 2}\n" for k in range(8))
    refused(write_pairs(*some_cases(8), groups), "data.max_cases=1", "smallest patient has 2", max_cases=1)


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ("case,patient\nc0,p0\nc1,p1\n", ["leaves out: c2, c3, c4, c5"]),
        ("case,patient\n" + "".join(f"c{k},p{k}\n" for k in range(6)) + "c9,p1\n", ["have no image: c9"]),
        ("case,patient\n" + "".join(f"c{k},p{k}\n" for k in [0, 1, 2, 3, 4, 5, 3]), ["listed twice: c3"]),
        ("case,patient\nc0,\n,p1\nc2,p,q,r\n", ["line 2, line 3, line 4"]),
        ("case;patient\nc0;p0\n", ["'case;patient'", "with commas"]),
        ("name,patient\nc0,p0\n", ["'name,patient'", "case,patient,volume"]),
        ("case,patient,\nc0,p0,x\n", ["'case,patient,'"]),
        ("case,patient,Volume\nc0,p0,x\n", ["column 'Volume' is nearly one of case, patient, volume"]),
        ("case,patient,patients\nc0,p0,x\n", ["column 'patients' is nearly one of"]),
        ("", ["'nothing'"]),
    ],
)
def test_groups_csv(refused, some_cases, write_pairs, text: str, fragments: list[str]) -> None:
    refused(write_pairs(*some_cases(), text), "groups.csv", *fragments)


def test_groups_csv_that_is_no_text(refused, some_cases, write_pairs) -> None:
    folder = write_pairs(*some_cases())
    (folder / "groups.csv").write_bytes(b"case,patient\n\xff\xfe\n")
    refused(folder, "groups.csv cannot be read", "UTF-8")


@pytest.mark.parametrize(
    ("change", "fragments"),
    [
        ({"labels": {"background": 0, "a": 1, "b": 3}}, ["must be 0 (background), 1"]),
        ({"labels": {"background": 0, "a": [1, 2]}}, ["regions_class_order is None", "a list of 1 numbers"]),
        ({"labels": {"background": 0, "a": [1, 2], "b": 2}, "regions_class_order": [1]}, ["a list of 2 numbers"]),
        ({"labels": {"background": 0, "a": [0, 1]}, "regions_class_order": [1]}, ["regions need numbers from 1"]),
        (
            {"labels": {"background": 0, "a": [1, 2], "b": 2}, "regions_class_order": [1, 256]},
            ["regions_class_order is [1, 256]", "from 1 to 255"],
        ),
        ({"labels": {"background": 0, "a": []}}, ["or a list of them"]),
        ({"labels": {"background": 1, "a": [2]}, "regions_class_order": [1]}, ["'background' must be 0"]),
        ({"labels": {"background": 0, "a": 1}, "regions_class_order": [1]}, ["no label is a list"]),
        ({"labels": {"0": "background", "1": "a"}}, ["not number to name"]),
        ({"labels": {"background": 0, "a": 2, "ignore": 1}}, ["'ignore' must be one number, and the highest"]),
        ({"labels": {"background": 0, "a": 1, "ignore": [2]}}, ["'ignore' must be one number, and the highest"]),
        ({"labels": None}, ["'labels' is missing"]),
        ({"channel_names": {}, "modality": {"0": "MR"}}, ["'channel_names'", "modality"]),
        ({"file_ending": ".mha"}, [".mha", ".nii.gz"]),
        ({"channel_names": {"0": "a", "1": "b"}}, ["channel files are not whole: c0 (lacks channel 0001)"]),
    ],
)
def test_dataset_json(refused, some_cases, write_nnunet, change: dict, fragments: list[str]) -> None:
    images, masks = some_cases()
    folder = write_nnunet({name: [image] for name, image in images.items()}, masks, {"background": 0, "a": 1, "b": 2})
    path = folder / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    refused(folder, *fragments)


def test_dataset_json_that_is_no_json(refused, some_cases, write_nnunet) -> None:
    images, masks = some_cases()
    folder = write_nnunet({name: [image] for name, image in images.items()}, masks, {"background": 0, "a": 1, "b": 2})
    (folder / "dataset.json").write_text("{")
    refused(folder, "dataset.json cannot be read as JSON")


def test_nnunet_values_that_are_no_label(refused, some_cases, write_nnunet) -> None:
    images, masks = some_cases(top=2)
    folder = write_nnunet({name: [image] for name, image in images.items()}, masks, {"background": 0, "a": 1})
    refused(folder, "mask values outside the classes (allowed: 0..1)", "c0 has 2", "(+1 more)")


def test_nnunet_pairs_and_names(refused, some_cases, write_nnunet) -> None:
    images, masks = some_cases()
    del masks["c3"]
    parts = {name: [image] for name, image in images.items()}
    folder = write_nnunet(parts, masks, {"background": 0, "a": 1, "b": 2})
    refused(folder, "images without mask: c3")
    (folder / "imagesTr" / "c3_0000.png").rename(folder / "imagesTr" / "c3.png")
    refused(folder, "<case>_0000.png")


def test_truncated_volume_and_turned_mask(refused, write_nnunet) -> None:
    random = np.random.default_rng(0)
    turned = np.diag([-1.0, 1, 1, 1])

    def save(values: tuple[np.ndarray, np.ndarray], path: Path) -> None:
        nibabel.save(nibabel.Nifti1Image(*values), path)

    names = [f"v{k}" for k in range(5)]
    images = {name: [(random.integers(0, 99, (9, 8, 7), dtype=np.int16), np.eye(4))] for name in names}
    masks = {name: (random.integers(0, 2, (9, 8, 7), dtype=np.uint8), turned if name == "v1" else np.eye(4)) for name in names}
    masks["v3"] = (masks["v3"][0][:, :, :5], np.eye(4))
    folder = write_nnunet(images, masks, {"background": 0, "a": 1}, ".nii.gz", save)
    path = folder / "imagesTr" / "v2_0000.nii.gz"
    path.write_bytes(path.read_bytes()[:300])
    refused(folder, "turned differently: v1", "v2_0000.nii.gz (", "v3 (image 9x8x7, mask 9x8x5)")
    (folder / "labelsTr" / "v0.nii.gz").write_bytes(b"")
    refused(folder, "v0.nii.gz (zero bytes)")


def test_phantoms_with_more_patients_than_cases(refused) -> None:
    refused("phantoms", "data.phantoms.patients is 32", "cases is 16", phantoms=Phantoms(cases=16, patients=32))


def test_disk_full_leaves_nothing(refused, some_cases, write_pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_pairs(*some_cases())

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    refused(folder, "the disk is full", "free some space")


def test_no_permission_to_write(refused, some_cases, write_pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_pairs(*some_cases())

    def forbidden(**_: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("thrifty.data.store.tempfile.mkdtemp", forbidden)
    refused(folder, "no permission to write", "THRIFTY_RESULTS")


def test_no_permission_to_read(refused, some_cases, write_pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_pairs(*some_cases())

    def forbidden(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", forbidden)
    refused(folder, str(folder / "images"), "no permission")


def test_a_file_where_the_run_folder_should_be(some_cases, write_pairs, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(ThriftyError, match="a file stands where a folder is needed"):
        build_store(Data(source=str(write_pairs(*some_cases()))), tmp_path / "run" / "data")


def test_interrupt_leaves_nothing(some_cases, write_pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, run = write_pairs(*some_cases()), tmp_path / "new" / "run"
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        build_store(Data(source=str(folder)), run / "data")
    assert not (tmp_path / "new").exists()


def test_mask_saved_with_loss_is_refused(refused, some_cases, write_pairs) -> None:
    images, masks = some_cases(top=1)
    folder = write_pairs(images, {name: mask * 255 for name, mask in masks.items()})
    Image.fromarray(masks["c1"] * 255).save(folder / "masks" / "c1.jpg", quality=60)
    (folder / "masks" / "c1.png").unlink()
    refused(folder, "mask values outside the classes", "c1 has")
