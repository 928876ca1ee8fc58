"""Folders, CSV lists and TIFF and NIfTI files: what comes out against what went in; and what is refused."""

import json
import os
import shutil
from pathlib import Path

import dicom_files as files
import nibabel
import numpy as np
import pytest
import tifffile
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from PIL import Image

from thrifty.config import Data
from thrifty.data.store import build_store

SIZE = (6, 8)


def masks_of(count: int, top: int = 2) -> dict[str, np.ndarray]:
    random = np.random.default_rng(8)
    return {f"c{k}": random.integers(0, top, SIZE, dtype=np.uint8) for k in range(count)}


def test_real_colour_pictures_come_out_as_they_went_in(real_data, tmp_path: Path, imported) -> None:
    """DRIVE, 6 of its cases: RGB in one file as nnU-Net has it, masks 0/255 to 0/1, and thrifty's reader takes it."""
    source = tmp_path / "drive"
    stems = sorted(path.stem for path in (real_data("DRIVE") / "images").iterdir())[:6]
    for part in ("images", "masks"):
        (source / part).mkdir(parents=True)
        for stem in stems:
            shutil.copy(real_data("DRIVE") / part / f"{stem}.png", source / part)
    got = imported(source)
    assert got.code == 0 and got.description["channel_names"] == {"0": "R", "1": "G", "2": "B"}
    before = np.asarray(Image.open(source / "images" / f"{stems[4]}.png"))
    np.testing.assert_array_equal(got.picture("imagesTr/case_0005_0000.png"), before)
    mask = np.asarray(Image.open(source / "masks" / f"{stems[4]}.png"))
    np.testing.assert_array_equal(got.picture("labelsTr/case_0005.png"), mask > 0)
    theirs = build_store(Data(source=str(source)), tmp_path / "a")
    ours = build_store(Data(source=str(got.target)), tmp_path / "b")
    np.testing.assert_array_equal(ours.images, theirs.images)
    np.testing.assert_array_equal(ours.masks, theirs.masks)


def test_check_works_on_what_was_imported(real_data, tmp_path: Path, imported, results, capsys) -> None:
    from thrifty import cli

    got = imported(real_data("Dataset004_Hippocampus"))
    assert got.code == 0, got.err
    assert [row["name"] for row in got.report["classes"]] == ["background", "class 1", "class 2"]
    options = [f"data.source={got.target}", "data.patch=32", "budgets=[6000]", "name=imported"]
    with pytest.raises(SystemExit) as ended:
        cli.main(["check", "hippocampus", *options, "--no-timing"])
    out, err = capsys.readouterr()
    assert not ended.value.code, err
    assert "24 volumes of 24 patients" in out


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SLA"])
@pytest.mark.parametrize("mask_codes", ["RAS", "ARI"])
def test_real_volumes_in_any_orientation(real_data, tmp_path: Path, imported, codes: str, mask_codes: str) -> None:
    """The image keeps its axes and affine; the mask is turned onto them: the same voxels in the same place of the world."""
    folder, source = real_data("Dataset004_Hippocampus"), tmp_path / "in"
    image = nibabel.load(sorted((folder / "imagesTr").iterdir())[0])
    mask = nibabel.load(sorted((folder / "labelsTr").iterdir())[0])
    for part, one, turn in (("images", image, codes), ("masks", mask, mask_codes)):
        (source / part).mkdir(parents=True)
        change = ornt_transform(io_orientation(one.affine), axcodes2ornt(tuple(turn)))
        nibabel.save(one.as_reoriented(change), source / part / "a.nii.gz")
    got = imported(source)
    assert got.code == 0, got.err
    given = nibabel.load(source / "images" / "a.nii.gz")
    kept = nibabel.load(got.target / "imagesTr/case_0001_0000.nii.gz")
    label = nibabel.load(got.target / "labelsTr/case_0001.nii.gz")
    np.testing.assert_allclose(kept.affine, given.affine, atol=1e-5)
    np.testing.assert_allclose(label.affine, given.affine, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(kept.dataobj), np.asarray(given.dataobj))
    np.testing.assert_array_equal(
        np.asarray(nibabel.as_closest_canonical(label).dataobj), np.asarray(nibabel.as_closest_canonical(mask).dataobj)
    )
    assert ("mask turned onto the axes of its image" in got.report["converted"]) == (codes != mask_codes)


def test_a_mask_in_another_place_is_refused(tmp_path: Path, imported, noise) -> None:
    source = tmp_path / "in"
    for part in ("images", "masks"):
        (source / part).mkdir(parents=True)
    for k, shift in enumerate((0.0, 0.01, 1.0)):
        affine = np.diag([2.0, 2.0, 2.0, 1.0])
        nibabel.save(nibabel.Nifti1Image(noise(4, 5, 6), affine), source / "images" / f"c{k}.nii.gz")
        affine[0, 3] += shift
        nibabel.save(nibabel.Nifti1Image((noise(4, 5, 6) > 99).astype(np.uint8), affine), source / "masks" / f"c{k}.nii.gz")
    got = imported(source)
    assert got.code == 3 and got.report["cases"] == 2
    assert got.report["refused"] == [
        {"what": "c2", "why": "masks on another grid than their image: up to 0.5 voxels apart; nothing is resampled"}
    ]


def test_volumes_with_channels(tmp_path: Path, imported, noise) -> None:
    """A fourth dimension becomes nnU-Net's channel files."""
    source, values = tmp_path / "in", noise(4, 5, 6, 2)
    for part in ("images", "masks"):
        (source / part).mkdir(parents=True)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), source / "images" / "a.nii")
    nibabel.save(nibabel.Nifti1Image((noise(4, 5, 6) > 99).astype(np.uint8), np.eye(4)), source / "masks" / "a.nii")
    got = imported(source)
    assert got.code == 0 and len(got.description["channel_names"]) == 2
    for k in range(2):
        one = nibabel.load(got.target / f"imagesTr/case_0001_000{k}.nii.gz")
        np.testing.assert_array_equal(np.asarray(one.dataobj), values[..., k])


@pytest.mark.parametrize("colour", [False, True])
def test_tiff_stacks_become_volumes(tmp_path: Path, imported, noise, colour: bool) -> None:
    source, stack = tmp_path / "in", noise(5, *SIZE, *((3,) if colour else ()), dtype=np.uint8 if colour else np.uint16)
    mask = (noise(5, *SIZE) > 99).astype(np.uint8) * 255
    for part in ("images", "masks"):
        (source / part).mkdir(parents=True)
    tifffile.imwrite(source / "images" / "a.tif", stack, photometric="rgb" if colour else "minisblack")
    tifffile.imwrite(source / "masks" / "a.tif", mask, photometric="minisblack")
    got = imported(source)
    assert got.code == 0, got.err
    for k in range(3 if colour else 1):
        one = np.asarray(nibabel.load(got.target / f"imagesTr/case_0001_000{k}.nii.gz").dataobj)
        np.testing.assert_array_equal(one.transpose(2, 1, 0), stack[..., k] if colour else stack)
    label = np.asarray(nibabel.load(got.target / "labelsTr/case_0001.nii.gz").dataobj)
    np.testing.assert_array_equal(label.transpose(2, 1, 0), mask // 255)
    sliced = imported(source, "--slices")
    np.testing.assert_array_equal(sliced.picture("imagesTr/case_0004_0000.png"), stack[3])
    np.testing.assert_array_equal(sliced.picture("labelsTr/case_0004.png"), mask[3] // 255)


def test_spacing_of_an_imagej_stack(tmp_path: Path, imported, noise) -> None:
    source = tmp_path / "in"
    for part in ("images", "masks"):
        (source / part).mkdir(parents=True)
        values = (noise(5, *SIZE) > 99).astype(np.uint8)
        tifffile.imwrite(source / part / "a.tif", values, imagej=True, resolution=(4.0, 2.0),
                         metadata={"spacing": 3.0, "unit": "mm", "axes": "ZYX"})  # fmt: skip
    got = nibabel.load(imported(source).target / "imagesTr/case_0001_0000.nii.gz")
    np.testing.assert_allclose(got.header.get_zooms(), (0.25, 0.5, 3.0))


def test_types_of_pixels(tmp_path: Path, imported, pairs, noise) -> None:
    """8 and 16 bits, grey and colour, and what PNG cannot hold: all as TIFF then, values unchanged."""
    images = {"c0": noise(*SIZE), "c1": noise(*SIZE, dtype=np.uint16), "c2": noise(*SIZE, 3)}
    source = pairs(images, masks_of(4))
    images["c3"] = noise(*SIZE, 3, dtype=np.uint16)
    tifffile.imwrite(source / "images" / "c3.tif", images["c3"], photometric="rgb")
    got = imported(source)
    assert got.code == 0 and got.description["file_ending"] == ".tif", got.err
    for k in range(4):
        want = images[f"c{k}"]
        want = np.stack([want] * 3, axis=2) if want.ndim == 2 else want
        have = tifffile.imread(got.target / f"imagesTr/case_000{k + 1}_0000.tif")
        assert have.dtype == want.dtype
        np.testing.assert_array_equal(have, want)
        np.testing.assert_array_equal(tifffile.imread(got.target / f"labelsTr/case_000{k + 1}.tif"), masks_of(4)[f"c{k}"])
    assert len(build_store(Data(source=str(got.target)), tmp_path / "s").cases) == 4


def test_palettes(tmp_path: Path, imported, pairs, noise) -> None:
    """A mask's palette is decoration, an image's is what it shows."""
    source = pairs({"c0": noise(*SIZE, 3)}, {})
    mask = Image.fromarray(masks_of(1, 3)["c0"], "P")
    mask.putpalette([0, 0, 0, 250, 10, 20, 30, 40, 50])
    (source / "masks").mkdir()
    mask.save(source / "masks" / "c0.png")
    picture = Image.fromarray(masks_of(1, 3)["c0"], "P")
    picture.putpalette([1, 2, 3, 250, 10, 20, 30, 40, 50])
    picture.save(source / "images" / "c1.png")
    mask.save(source / "masks" / "c1.png")
    got = imported(source)
    assert got.code == 0, got.err
    np.testing.assert_array_equal(got.picture("labelsTr/case_0002.png"), masks_of(1, 3)["c0"])
    colours = np.array([[1, 2, 3], [250, 10, 20], [30, 40, 50]])[masks_of(1, 3)["c0"]]
    np.testing.assert_array_equal(got.picture("imagesTr/case_0002_0000.png"), colours)
    assert got.report["converted"] == {"palette became RGB": 1}


def test_a_bad_file_is_named_and_the_others_go_on(tmp_path: Path, imported, pairs, noise, monkeypatch) -> None:
    source = pairs({f"c{k}": noise(*SIZE) for k in range(9)}, masks_of(8))
    (source / "images" / "c1.png").write_bytes(b"no picture")
    files.save_picture(noise(*SIZE, 4), source / "images" / "c2.png")
    files.save_picture(noise(4, 4), source / "masks" / "c3.png")
    files.save_picture(noise(*SIZE, 3), source / "masks" / "c4.png")
    files.save_picture(noise(12, 12), source / "masks" / "c5.png")
    files.save_picture(noise(12, 12), source / "images" / "c5.png")
    files.save_picture(noise(50, 50), source / "images" / "c6.png")
    files.save_picture(masks_of(1)["c0"], source / "masks" / "lone.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    got = imported(source)
    assert got.code == 3 and got.report["cases"] == 2
    reasons = {row["what"]: row["why"] for row in got.report["refused"]}
    for name, fragment in {
        "c1": "cannot be read", "c2": "transparent", "c3": "image 6x8, mask 4x4", "c4": "in colour", "c5": "too many values",
        "c6": "too large", "c8": "without mask", "lone": "without image",
    }.items():  # fmt: skip
        assert fragment in reasons[name]
        assert sum(line.startswith(f"refused: {name}: ") for line in got.err.splitlines()) == 1
        assert f"- {name}: " in (got.target / "report.md").read_text()


def test_nothing_good(tmp_path: Path, imported, pairs) -> None:
    source = pairs({}, masks_of(1))
    (source / "images").mkdir()
    (source / "images" / "c0.png").write_bytes(b"no picture")
    got = imported(source)
    assert got.code == 2 and "nothing could be imported, 1 refused" in got.err
    for name in ("no such", "source/images"):
        got = imported(tmp_path / name)
        assert got.code == 2 and got.err.startswith("error: ") and got.err.count("\n") == 1


def test_targets_that_are_refused(tmp_path: Path, imported, pairs, noise, capsys) -> None:
    from thrifty import cli

    source = pairs({"c0": noise(*SIZE)}, masks_of(1))
    (tmp_path / "there").mkdir()
    for target, word in ((tmp_path / "there", "exists already"), (source / "new", "within the source")):
        with pytest.raises(SystemExit) as ended:
            cli.main(["data", "import", str(source), str(target)])
        assert ended.value.code == 2 and word in capsys.readouterr().err
    assert os.listdir(tmp_path / "there") == [] and not (source / "new").exists()


def test_the_same_picture_under_two_patients(tmp_path: Path, imported, pairs, noise) -> None:
    images = {f"c{k}": noise(*SIZE) for k in range(4)}
    images["c2"] = images["c0"]
    images["c3"] = images["c1"]
    groups = "case,patient\nc0,a\nc1,b\nc2,c\nc3,b\n"
    got = imported(pairs(images, masks_of(4), groups))
    assert got.code == 3 and got.report["cases"] == 3
    assert got.report["refused"] == [{"what": "c2", "why": "the same pixels under two patients: case_0001 of p0001"}]


def test_classes_by_their_values(tmp_path: Path, imported, pairs, noise) -> None:
    images = {f"c{k}": noise(*SIZE) for k in range(3)}
    values = np.array([0, 85, 170, 255], np.uint8)
    masks = {name: values[noise(*SIZE) % 4] for name in images}
    source = pairs(images, masks)
    found = imported(source)
    assert found.description["labels"] == {"background": 0, "class 1": 1, "class 2": 2, "class 3": 3}
    np.testing.assert_array_equal(found.picture("labelsTr/case_0001.png"), masks["c0"] // 85)
    assert "mask values: 85 became 1, 170 became 2, 255 became 3" in found.report["notes"]
    named = imported(source, "--label", "255=tumour", "--label", "85=liver", "--ignore", "170")
    assert named.description["labels"] == {"background": 0, "tumour": 1, "liver": 2, "ignore": 3}
    np.testing.assert_array_equal(named.picture("labelsTr/case_0002.png"), np.array([0, 2, 3, 1])[masks["c1"] // 85])
    partly = imported(source, "--label", "255=tumour", "--label", "85=liver")
    assert partly.code == 2 and "does not name" in partly.err and "170" in partly.err


def test_names_and_patients(tmp_path: Path, imported, pairs, noise) -> None:
    images = {f"P{k // 2} x{k}": noise(*SIZE) for k in range(4)}
    masks = dict(zip(images, masks_of(4).values(), strict=True))
    source = pairs(images, masks)
    kept = imported(source, "--names", "keep", "--patient", r"(P\d+)")
    assert (kept.target / "groups.csv").read_text() == "case,patient\nP0-x0,P0\nP0-x1,P0\nP1-x2,P1\nP1-x3,P1\n"
    assert "imagesTr/P0-x1_0000.png" in kept.files
    numbered = imported(source, "--patient", r"(P\d+)")
    assert (numbered.target / "groups.csv").read_text().splitlines()[1:] == [
        "case_0001,p0001", "case_0002,p0001", "case_0003,p0002", "case_0004,p0002"
    ]  # fmt: skip
    assert imported(source, "--patient", r"(Q\d+)").code == 2
    assert imported(source, "--patient", "(P").code == 2


def test_masks_beside_their_images(tmp_path: Path, imported, noise) -> None:
    """As BUSI is published."""
    for k in range(3):
        files.save_picture(noise(*SIZE), tmp_path / "in" / "benign" / f"b ({k}).png")
        files.save_picture(masks_of(3)[f"c{k}"] * 255, tmp_path / "in" / "benign" / f"b ({k})_mask.png")
    got = imported(tmp_path / "in", "--mask-suffix", "_mask")
    assert got.code == 0 and got.report["cases"] == 3
    np.testing.assert_array_equal(got.picture("labelsTr/case_0003.png"), masks_of(3)["c2"])


def listed(root: Path, rows: list[str]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "list.csv").write_text("\n".join(rows) + "\n")
    return root / "list.csv"


def test_a_list_of_files(tmp_path: Path, imported, noise) -> None:
    root = tmp_path / "in"
    values = {f"c{k}": noise(*SIZE) for k in range(4)}
    for k, (name, image) in enumerate(values.items()):
        files.save_picture(image, root / "a" / f"{name}.png")
        files.save_picture(masks_of(4)[name], root / "b" / f"m{k}.png")
    files.series(root / "ct", noise(1, *SIZE))
    files.save_picture(masks_of(1)["c0"], root / "b" / "ct.png")
    rows = [
        "Image, Mask, Patient, Volume",
        "a/c0.png,b/m0.png,x,v",
        "a/c1.png,b/m1.png,x,v",
        "a/c2.png,b/m2.png,y,",
        "ct,b/ct.png,,",
    ]
    got = imported(listed(root, rows))
    assert got.code == 0, got.err
    assert (got.target / "groups.csv").read_text() == (
        "case,patient,volume\ncase_0001,p0001,v0001\ncase_0002,p0001,v0001\ncase_0003,p0002,\ncase_0004,p0003,\n"
    )
    np.testing.assert_array_equal(got.picture("imagesTr/case_0002_0000.png"), values["c1"])


def test_a_list_cannot_leave_its_folder(tmp_path: Path, imported, noise) -> None:
    root = tmp_path / "in"
    secret = files.save_picture(noise(*SIZE), tmp_path / "secret.png")
    files.save_picture(noise(*SIZE), root / "good.png")
    files.save_picture(masks_of(1)["c0"], root / "mask.png")
    (root / "link.png").symlink_to(secret)
    bad = ["../secret.png", str(secret), "a/../../secret.png", "link.png", "..\\secret.png", "C:\\secret.png", "nothing.png", ""]
    rows = ["image,mask", "good.png,mask.png", *(f"{name},mask.png" for name in bad), "good.png,../secret.png"]
    got = imported(listed(root, rows))
    assert got.code == 3 and got.report["cases"] == 1
    reasons = {row["what"]: row["why"] for row in got.report["refused"]}
    for line in (3, 4, 5, 6, 7, 11):
        assert "leave the data folder" in reasons[f"line {line}"]
    assert "leave the data folder" in reasons["line 8"] or "not there" in reasons["line 8"]
    assert "not there" in reasons["line 9"] and "without image" in reasons["line 10"]


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "image,mask\n", "image,image,mask\n1,2,3\n", "image,mask,dose\na,b,c\n"])
def test_lists_that_are_none(tmp_path: Path, imported, text: str) -> None:
    (tmp_path / "l.csv").write_text(text)
    got = imported(tmp_path / "l.csv")
    assert got.code == 2 and got.err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--window", "wide"), "centre,width"),
        (("--names", "kepp"), "did you mean 'keep'"),
        (("--label", "liver"), "VALUE=NAME"),
        (("--label", "1=a", "--label", "1=b"), "comes once"),
        (("--from", "dicon"), "did you mean 'dicom'"),
        (("--salt", "/none"), "head -c 32"),
        (("--masks", "nowhere"), "--masks is 'nowhere'"),
    ],
)
def test_options_that_are_none(tmp_path: Path, imported, pairs, noise, options: tuple[str, ...], word: str) -> None:
    got = imported(pairs({"c0": noise(*SIZE)}, masks_of(1)), *options)
    assert got.code == 2 and word in got.err and got.err.count("\n") == 1


def test_the_report_counts(tmp_path: Path, imported, pairs) -> None:
    images = {f"c{k}": np.full((4, 5), 10 * (k + 1), np.uint8) for k in range(2)}
    images["c0"][0, 0] = 3
    masks = {name: np.zeros((4, 5), np.uint8) for name in images}
    masks["c1"][1, 1:3] = 1
    report = imported(pairs(images, masks)).report
    assert report["intensities"] == {"lowest": 3.0, "highest": 20.0, "median_of_means": pytest.approx((9.65 + 20) / 2)}
    assert report["classes"][1] == {"name": "foreground", "ids": [1], "pixel_share": 2 / 40, "cases": 1}
    assert report["sizes"]["median"] == [4, 5] and report["rows"][1]["class_pixels"] == {"0": 18, "1": 2}
    assert json.dumps(report)
