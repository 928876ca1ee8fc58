"""DICOM in, DICOM-SEG or PNG out: slices in their order, values rescaled, every segment on the slice that it was found in."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

pydicom = pytest.importorskip("pydicom", reason="DICOM is an extra")
pytest.importorskip("highdicom", reason="DICOM-SEG is an extra")

from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid  # noqa: E402

from tests.small_models import small_model  # noqa: E402
from thrifty.data.cases import Unreadable  # noqa: E402
from thrifty.dicom_io import group_series, read_dicom  # noqa: E402
from thrifty.predict import predict_files  # noqa: E402
from thrifty.predictor import load  # noqa: E402

STEP, SPACING = 2.5, (1.5, 0.8)  # mm between slices, and between rows and columns


def slice_of(values: np.ndarray, study: dict[str, str], number: int, position, orientation, **extra: object) -> Dataset:
    """A CT slice of int16 values with slope 2 and intercept -100."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID, data.file_meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    data.SOPClassUID, data.Modality, data.InstanceNumber, data.SeriesNumber = CTImageStorage, "CT", number, 4
    data.PatientID, data.PatientName, data.PatientBirthDate, data.PatientSex = "id 17", "Muster^Martin", "", ""
    data.StudyDate = data.StudyTime = data.AccessionNumber = data.StudyID = data.ReferringPhysicianName = ""
    for key, uid in study.items():
        setattr(data, key, uid)
    data.ImagePositionPatient, data.ImageOrientationPatient = list(position), list(orientation)
    data.PixelSpacing, data.SliceThickness = list(SPACING), STEP
    data.Rows, data.Columns = values.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 1
    data.RescaleSlope, data.RescaleIntercept = 2, -100
    data.PixelData = values.astype(np.int16).tobytes()
    for key, value in extra.items():
        setattr(data, key, value)
    return data


def series(folder: Path, orientation, values: np.ndarray, names: list[str] | None = None) -> list[Dataset]:
    """A series whose file names are in another order than its slices; values (slices, rows, columns)."""
    folder.mkdir(parents=True)
    study = {key: generate_uid() for key in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")}
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    origin = np.array([-12.0, 31.0, 7.0])
    found = []
    for k, one in enumerate(values):
        position = [round(float(v), 6) for v in origin + k * STEP * np.cross(row, column)]
        found.append(slice_of(one, study, len(values) - k, position, orientation))
        found[-1].save_as(folder / f"{(k * 5) % len(values)}.dcm", enforce_file_format=True)
    return found


ORIENTATIONS = {
    "axial": (1, 0, 0, 0, 1, 0),
    "turned": (0, 1, 0, -1, 0, 0),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "oblique": (0.96, 0.28, 0, -0.28, 0.96, 0),
}


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    return np.random.default_rng(0).integers(-500, 900, (6, 12, 17)).astype(np.int16)


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_slices_come_in_their_order_with_rescaled_values(tmp_path: Path, values: np.ndarray, name: str) -> None:
    written = series(tmp_path / "s", ORIENTATIONS[name], values)
    (files,) = group_series(sorted((tmp_path / "s").iterdir()))
    found, geometry = read_dicom(files)
    np.testing.assert_array_equal(found[..., 0], values * 2.0 - 100)
    assert [pydicom.dcmread(path).SOPInstanceUID for path in geometry.files] == [one.SOPInstanceUID for one in written]
    for k, one in enumerate(written):  # DICOM PS3.3, equation C.7.6.2.1-1, for the pixel in row 3, column 5; then LPS to RAS
        row, column = np.array(ORIENTATIONS[name][:3]), np.array(ORIENTATIONS[name][3:])
        place = np.array(one.ImagePositionPatient, float) + row * SPACING[1] * 5 + column * SPACING[0] * 3
        np.testing.assert_allclose(geometry.affine @ [5, 3, k, 1], [-place[0], -place[1], place[2], 1], atol=1e-4)


@pytest.mark.parametrize(("name", "axis"), [("axial", 2), ("sagittal", 2), ("oblique", 0)])
def test_segments_lie_where_the_same_volume_as_nifti_has_them(tmp_path: Path, values: np.ndarray, name: str, axis: int) -> None:
    written = series(tmp_path / "s", ORIENTATIONS[name], values)
    model = small_model(tmp_path / "model", slice_axis=axis)
    found = predict_files(model, tmp_path / "s", tmp_path / "out")
    assert [path.name for path in found.written] == ["s.dcm"] and not found.failed
    seg = pydicom.dcmread(found.written[0])
    assert seg.Modality == "SEG" and seg.PatientID == "id 17" and seg.StudyInstanceUID == written[0].StudyInstanceUID
    assert [(one.SegmentNumber, one.SegmentLabel) for one in seg.SegmentSequence] == [(1, "organ 1"), (2, "organ 2")]

    affine = read_dicom(sorted((tmp_path / "s").iterdir()))[1].affine
    nibabel.save(nibabel.Nifti1Image(values.transpose(2, 1, 0) * 2.0 - 100, affine), tmp_path / "s.nii")
    predict_files(model, tmp_path / "s.nii", tmp_path / "labels.nii")
    expected = np.asarray(nibabel.load(tmp_path / "labels.nii").dataobj).transpose(2, 1, 0)
    assert len(np.unique(expected)) == 3
    planes = seg.pixel_array.reshape(-1, *values.shape[1:])
    labels = np.zeros(values.shape, np.uint8)
    uids = [one.SOPInstanceUID for one in written]
    for plane, group in zip(planes, seg.PerFrameFunctionalGroupsSequence, strict=True):
        source = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        labels[uids.index(source)][plane > 0] = number
    np.testing.assert_array_equal(labels, expected)


def test_a_network_of_pictures_gets_slices_as_they_are_shown(tmp_path: Path, values: np.ndarray) -> None:
    series(tmp_path / "s", ORIENTATIONS["sagittal"], values)
    model = small_model(tmp_path / "model")
    found = predict_files(model, tmp_path / "s", tmp_path / "out", format="png", probabilities=True)
    assert not found.failed
    for k, one in enumerate(values):
        labels = np.asarray(Image.open(tmp_path / "out" / "s" / f"{k:04d}.png"))
        np.testing.assert_array_equal(labels, load(model)(one * 2.0 - 100))
    assert np.load(tmp_path / "out" / "s_probabilities.npz")["probabilities"].shape == (6, 3, 12, 17)
    assert predict_files(model, tmp_path / "s", tmp_path / "out", format="png", probabilities=True).written == ()


def test_monochrome_1_is_turned_round(tmp_path: Path, values: np.ndarray) -> None:
    study = {key: generate_uid() for key in ("StudyInstanceUID", "SeriesInstanceUID")}
    plain = {"PhotometricInterpretation": "MONOCHROME1", "PixelRepresentation": 0, "BitsStored": 12, "RescaleSlope": 1}
    one = slice_of(np.abs(values[0]), study, 1, (0, 0, 0), ORIENTATIONS["axial"], RescaleIntercept=0, **plain)
    one.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    found, _ = read_dicom(tmp_path / "x.dcm")
    np.testing.assert_array_equal(found[0, ..., 0], 4095 - np.abs(values[0]))


def test_nothing_found_is_a_segmentation_too(tmp_path: Path, values: np.ndarray) -> None:
    from thrifty.dicom_io import write_seg

    series(tmp_path / "s", ORIENTATIONS["axial"], values)
    _, geometry = read_dicom(sorted((tmp_path / "s").iterdir()))
    write_seg(tmp_path / "none.dcm", np.zeros(values.shape, np.uint8), geometry, ["background", "a"], "0" * 64)
    assert pydicom.dcmread(tmp_path / "none.dcm").pixel_array.max() == 0


def test_what_is_no_stack_is_refused_without_a_word_of_the_header(tmp_path: Path, values: np.ndarray) -> None:
    made = series(tmp_path / "s", ORIENTATIONS["axial"], values)
    twice = made[2]
    twice.SOPInstanceUID = twice.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    twice.save_as(tmp_path / "s" / "again.dcm", enforce_file_format=True)
    other = pydicom.dcmread(tmp_path / "s" / "0.dcm")
    (tmp_path / "t").mkdir()
    other.SeriesInstanceUID, other.Rows = generate_uid(), 5000
    other.save_as(tmp_path / "t" / "broken.dcm")
    found = predict_files(small_model(tmp_path / "model"), [tmp_path / "s", tmp_path / "t"], tmp_path / "out")
    reasons = sorted(found.failed.values())
    assert len(reasons) == 2 and "several slices at one position" in reasons[1] and "broken.dcm" in reasons[0]
    assert not any("Muster" in text or "id 17" in text for text in reasons)
    with pytest.raises(Unreadable):
        read_dicom(tmp_path / "t" / "broken.dcm")
