"""DICOM images with their masks: DICOM-SEG by highdicom, pictures and NIfTI by name, UID or slice; pixel by pixel."""

from pathlib import Path

import dicom_files as files
import nibabel
import numpy as np
import pytest

from thrifty.config import Data
from thrifty.data.store import build_store

SIDE = (7, 9)


def stacks(count: int = 4, slices: int = 5) -> list[tuple[np.ndarray, np.ndarray]]:
    random = np.random.default_rng(3)
    return [
        (random.integers(0, 4000, (slices, *SIDE), dtype=np.uint16), random.integers(0, 3, (slices, *SIDE), dtype=np.uint8))
        for _ in range(count)
    ]


def volume(got, name: str) -> np.ndarray:
    """(slices, rows, columns) of a NIfTI file that was written."""
    return np.asarray(nibabel.load(got.target / name).dataobj).transpose(2, 1, 0)


def hospital(root: Path, **tags) -> list[tuple[np.ndarray, np.ndarray]]:
    made = stacks()
    for k, (image, mask) in enumerate(made):
        headers = files.series(root / f"ct{k}", image, spacing=(0.5, 0.8), step=3.0, PatientID=f"p{k}", **tags)
        files.segmentation(root / "seg" / f"{k}.dcm", headers, mask)
    return made


def test_series_with_segmentations_become_volumes_that_thrifty_reads(tmp_path: Path, imported, build) -> None:
    made = hospital(tmp_path / "in", RescaleSlope=1, RescaleIntercept=-1000)
    got = imported(tmp_path / "in")
    assert got.code == 0, got.err
    assert got.description["labels"] == {"background": 0, "Liver": 1, "Kidney": 2}
    assert got.description["channel_names"] == {"0": "CT"} and got.description["numTraining"] == 4
    for k, (image, mask) in enumerate(made):
        np.testing.assert_array_equal(volume(got, f"imagesTr/case_000{k + 1}_0000.nii.gz"), image.astype(int) - 1000)
        np.testing.assert_array_equal(volume(got, f"labelsTr/case_000{k + 1}.nii.gz"), mask)
    affine = nibabel.load(got.target / "imagesTr/case_0001_0000.nii.gz").affine
    np.testing.assert_allclose(affine, np.diag([-0.8, -0.5, 3.0, 1.0]), atol=1e-6)
    np.testing.assert_allclose(nibabel.load(got.target / "labelsTr/case_0001.nii.gz").affine, affine)
    store = build_store(Data(source=str(got.target)), tmp_path / "store")
    assert len(store.cases) == 20 and store.labels == ("background", "Liver", "Kidney")
    assert store.cases[0].patient == "p0001" and store.cases[0].spacing_mm == (0.8, 0.5)
    # thrifty turns volumes to RAS: x and y are those of LPS, backwards
    np.testing.assert_array_equal(store.image(2)[0], made[0][0][2].T[::-1, ::-1].astype(int) - 1000)
    np.testing.assert_array_equal(store.mask(2), made[0][1][2].T[::-1, ::-1])


def test_slices_become_pictures_of_one_volume(tmp_path: Path, imported) -> None:
    made = hospital(tmp_path / "in")
    got = imported(tmp_path / "in", "--slices", "--window", "1500,3000")
    assert got.code == 0 and got.report["cases"] == 20 and got.description["file_ending"] == ".png"
    groups = (got.target / "groups.csv").read_text().splitlines()
    assert groups[0] == "case,patient,volume" and groups[1] == "case_0001,p0001,v0001" and groups[6] == "case_0006,p0002,v0002"
    np.testing.assert_array_equal(got.picture("labelsTr/case_0003.png"), made[0][1][2])
    picture = got.picture("imagesTr/case_0003_0000.png")
    assert picture.dtype == np.uint8 and np.corrcoef(picture.ravel(), np.clip(made[0][0][2].ravel(), 0, 3000))[0, 1] > 0.999


def test_slices_without_window_keep_sixteen_bits(tmp_path: Path, imported) -> None:
    made = hospital(tmp_path / "in")
    got = imported(tmp_path / "in", "--slices")
    np.testing.assert_array_equal(np.asarray(files.Image.open(got.target / "imagesTr/case_0001_0000.png")), made[0][0][0])


def test_overlapping_segments(tmp_path: Path, imported) -> None:
    """The later segment wins and is counted; with regions all are kept, as nnU-Net has them."""
    image, _ = stacks(1)[0]
    masks = np.zeros((5, *SIDE, 2), np.uint8)
    masks[1:4, 1:5, 1:6, 0] = 1
    masks[1:3, 3:6, 3:8, 1] = 1
    headers = files.series(tmp_path / "in" / "a", image)
    files.segmentation(tmp_path / "in" / "seg.dcm", headers, masks, overlapping=True)
    both = masks.all(axis=3)
    later = imported(tmp_path / "in")
    assert later.report["overlapping_pixels"] == both.sum() == 2 * 2 * 3
    np.testing.assert_array_equal(volume(later, "labelsTr/case_0001.nii.gz"), np.where(masks[..., 1], 2, masks[..., 0]))
    regions = imported(tmp_path / "in", "--overlaps", "regions")
    assert regions.description["labels"] == {"background": 0, "Liver": [1, 3], "Kidney": [2, 3]}
    assert regions.description["regions_class_order"] == [1, 2]
    np.testing.assert_array_equal(volume(regions, "labelsTr/case_0001.nii.gz"), masks[..., 0] + 2 * masks[..., 1])


def test_fractional_segments_count_from_one_half(tmp_path: Path, imported) -> None:
    import highdicom as hd

    image, _ = stacks(1)[0]
    share = np.random.default_rng(4).uniform(0, 1, image.shape).astype(np.float32)
    headers = files.series(tmp_path / "in" / "a", image)
    kind = hd.seg.SegmentationTypeValues.FRACTIONAL
    files.segmentation(tmp_path / "in" / "seg.dcm", headers, share[..., None], overlapping=True, kind=kind)
    got = volume(imported(tmp_path / "in"), "labelsTr/case_0001.nii.gz")
    clear = np.abs(share - 0.5) > 0.01  # highdicom stores 255 steps
    np.testing.assert_array_equal(got[clear], share[clear] > 0.5)


def test_a_segmentation_of_part_of_the_slices(tmp_path: Path, imported) -> None:
    image, mask = stacks(1)[0]
    mask[[0, 2]] = 0
    headers = files.series(tmp_path / "in" / "a", image)
    files.segmentation(tmp_path / "in" / "seg.dcm", headers, mask, omit_empty_frames=True)
    np.testing.assert_array_equal(volume(imported(tmp_path / "in"), "labelsTr/case_0001.nii.gz"), mask)


def test_segmentations_that_do_not_belong(tmp_path: Path, imported) -> None:
    """Shifted against the images, or of images that are not there."""
    made = hospital(tmp_path / "in")
    path = tmp_path / "in" / "seg" / "1.dcm"
    header = files.read(path)
    for frame in header.PerFrameFunctionalGroupsSequence:
        frame.PlanePositionSequence[0].ImagePositionPatient[0] += 2.0
    header.save_as(path)
    lost = files.series(tmp_path / "elsewhere", made[0][0])
    files.segmentation(tmp_path / "in" / "seg" / "lost.dcm", lost, made[0][1])
    got = imported(tmp_path / "in")
    assert got.code == 3 and got.report["cases"] == 3
    reasons = " | ".join(row["why"] for row in got.report["refused"])
    assert "turned or shifted" in reasons and "images that are not in the source" in reasons


@pytest.mark.parametrize("how", ["folder", "stems", "uids", "numbers"])
def test_masks_from_files(tmp_path: Path, imported, how: str) -> None:
    image, mask = stacks(1)[0]
    root = tmp_path / "in"
    headers = files.series(root / "dicom" / "ct7", image, (0, 1, 0, 0, 0, -1), step=2.0, origin=(3, 4, 5))
    place_of = {header.SOPInstanceUID: k for k, header in enumerate(headers)}
    if how == "folder":  # NIfTI, its axes turned: as another tool may have written it
        _, affine = files_affine(headers)
        turned = nibabel.as_closest_canonical(nibabel.Nifti1Image(mask.transpose(2, 1, 0), affine))
        assert turned.shape != mask.transpose(2, 1, 0).shape
        (root / "masks").mkdir()
        nibabel.save(turned, root / "masks" / "ct7.nii.gz")
    for path in sorted((root / "dicom" / "ct7").iterdir()):
        header = files.read(path)
        name = {"stems": f"masks/ct7/{path.stem}", "uids": f"masks/{header.SOPInstanceUID}"}.get(how)
        name = f"masks/ct7/{header.InstanceNumber:03d}" if how == "numbers" else name
        if name:
            files.save_picture(mask[place_of[header.SOPInstanceUID]], root / f"{name}.png")
    got = imported(root)
    assert got.code == 0, got.err
    np.testing.assert_array_equal(volume(got, "labelsTr/case_0001.nii.gz"), mask)
    np.testing.assert_array_equal(volume(got, "imagesTr/case_0001_0000.nii.gz"), image)


def files_affine(headers) -> tuple[object, np.ndarray]:
    """The affine of a stack by highdicom, turned from LPS to RAS; of (column, row, slice)."""
    import highdicom as hd

    found = hd.get_volume_from_series(headers)
    # highdicom counts slices first, and may count them backwards
    own = found.affine @ np.array([[0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
    first = np.array(headers[0].ImagePositionPatient, float)
    if not np.allclose(own[:3, 3], first):
        own[:3, 2], own[:3, 3] = -own[:3, 2], first
    return found, np.diag([-1.0, -1, 1, 1]) @ own


def test_a_missing_slice_is_refused_or_taken_as_empty(tmp_path: Path, imported) -> None:
    image, mask = stacks(1)[0]
    files.series(tmp_path / "in" / "dicom" / "a", image, shuffle=False)
    for k in (0, 1, 2, 4):
        files.save_picture(mask[k], tmp_path / "in" / "masks" / "a" / f"{k + 1}.png")
    refused = imported(tmp_path / "in")
    assert refused.code == 2 and "1 of 5 slices without mask" in refused.err
    mask[3] = 0
    np.testing.assert_array_equal(volume(imported(tmp_path / "in", "--unmasked", "empty"), "labelsTr/case_0001.nii.gz"), mask)


def test_single_images_with_masks_of_equal_names(tmp_path: Path, imported, noise) -> None:
    """As X-rays come: each file an image, colour and grey mixed."""
    root, colour = tmp_path / "in", noise(6, 8, 3)
    for k in range(3):
        files.write(root / "x" / f"i{k}.dcm", noise(6, 8), SeriesInstanceUID=f"1.4.{k}", PatientID="same")
    files.write(root / "x" / "i3.dcm", colour, SeriesInstanceUID="1.4.3", PatientID="other")
    for k in range(4):
        files.save_picture(np.where(noise(6, 8) > 99, 255, 0).astype(np.uint8), root / "masks" / f"i{k}.png")
    got = imported(root)
    assert got.code == 0 and got.description["file_ending"] == ".png" and got.report["patients"] == 2
    assert got.description["channel_names"] == {"0": "R", "1": "G", "2": "B"}
    np.testing.assert_array_equal(got.picture("imagesTr/case_0004_0000.png"), colour)
    assert set(np.unique(got.picture("labelsTr/case_0001.png"))) == {0, 1}


def test_without_the_extra_there_is_one_line(tmp_path: Path, imported, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    files.write(tmp_path / "in" / "a.dcm", np.ones((3, 3), np.uint8))
    monkeypatch.setitem(sys.modules, "pydicom", None)
    got = imported(tmp_path / "in")
    assert got.code == 2 and "pip install 'thrifty[dicom]'" in got.err and got.err.count("\n") == 1
