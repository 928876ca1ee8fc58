"""Identifiers are planted wherever a header, a file name or a folder may hold one; none may be in anything that comes out."""

from __future__ import annotations

import gzip
import re
import zlib
from pathlib import Path

import dicom_files as files
import nibabel
import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import HTJ2KLossless

NAME, NUMBER, DAY, ROOT, PLACE = "Zqxwvu", "88442299", "19470312", "1.2.826.0.1.99.4711", "Stqrxberg"
PLANTED = (NAME, NUMBER, DAY, ROOT, PLACE, "1947-03-12")


def planted(k: int) -> dict[str, object]:
    return {
        "PatientName": f"{NAME}^Anna",
        "PatientID": f"{NUMBER}{k}",
        "OtherPatientIDs": [NUMBER, "x"],
        "OtherPatientNames": NAME,
        "PatientBirthName": NAME,
        "PatientMotherBirthName": NAME,
        "PatientBirthDate": DAY,
        "PatientAddress": f"{PLACE} 7",
        "PatientComments": f"{NAME} {NUMBER}",
        "PatientTelephoneNumbers": NUMBER,
        "IssuerOfPatientID": PLACE,
        "StudyDate": DAY,
        "SeriesDate": DAY,
        "AcquisitionDate": DAY,
        "ContentDate": DAY,
        "AcquisitionDateTime": f"{DAY}101010",
        "AccessionNumber": NUMBER,
        "StudyID": NUMBER,
        "StudyDescription": f"{NAME} liver",
        "SeriesDescription": f"{NAME} axial",
        "ProtocolName": NAME,
        "ImageComments": NAME,
        "InstitutionName": PLACE,
        "InstitutionAddress": PLACE,
        "StationName": PLACE,
        "ReferringPhysicianName": NAME,
        "PerformingPhysicianName": NAME,
        "OperatorsName": NAME,
        "RequestedProcedureDescription": NAME,
        "DeviceSerialNumber": NUMBER,
        "WindowCenterWidthExplanation": NAME,
        "WindowCenter": 100,
        "WindowWidth": 200,
        "StudyInstanceUID": f"{ROOT}.1.{k}",
        "FrameOfReferenceUID": f"{ROOT}.3.{k}",
        "ImageType": ["ORIGINAL", "PRIMARY", NAME.upper()],
        "RescaleSlope": 1,
        "RescaleIntercept": 0,
        "RescaleType": NAME,
    }


def plant_more(path: Path) -> None:
    """Private tags, nested ones, the file's own meta header and its preamble."""
    header = files.read(path)
    block = header.private_block(0x0099, NAME, create=True)
    block.add_new(1, "LO", NAME)
    block.add_new(2, "OB", NAME.encode() + NUMBER.encode())
    item = Dataset()
    item.PatientName, item.ReferencedSOPInstanceUID = NAME, f"{ROOT}.9"
    header.ReferencedPatientSequence = Sequence([item])
    header.file_meta.SourceApplicationEntityTitle = NAME
    header.file_meta.PrivateInformationCreatorUID, header.file_meta.PrivateInformation = f"{ROOT}.8", NAME.encode() + b"\0"
    header.save_as(path, enforce_file_format=True)


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    """Three series with DICOM-SEG, one with a NIfTI mask, and files of every kind of fault."""
    root, random = tmp_path / f"{PLACE}_{NAME}", np.random.default_rng(0)
    for k in range(3):
        folder = root / f"{NAME}_{NUMBER}" / f"{DAY}_{k}"
        stack = random.integers(0, 200, (3, 8, 9), dtype=np.uint16)
        uids = iter(range(9))
        headers = files.series(folder, stack, SeriesInstanceUID=f"{ROOT}.2.{k}", **planted(k))
        for header in headers:  # UIDs of the instances, too
            old = header.SOPInstanceUID
            header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = f"{ROOT}.5.{k}.{next(uids)}"
            for path in folder.iterdir():
                if files.read(path).SOPInstanceUID == old:
                    files.save(header, path)
                    path.rename(folder / f"{NAME}_{header.InstanceNumber}.dcm")
        for path in folder.iterdir():
            plant_more(path)
        masks = (stack > 100).astype(np.uint8)
        made = files.segmentation(root / "seg" / f"{NAME}{k}.dcm", headers, masks)
        header = files.read(made)
        header.SegmentSequence[0].SegmentLabel = NAME
        header.SegmentSequence[0].SegmentDescription = NAME
        header.ContentCreatorName, header.ContentDescription, header.SeriesDescription = NAME, NAME, NAME
        header.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeMeaning = NAME
        header.save_as(made)
    bad = root / "bad"
    one = files.write(bad / f"{NAME}_a.dcm", np.ones((4, 4), np.uint8), **planted(7), SeriesInstanceUID=f"{ROOT}.2.7")
    first = one.read_bytes()  # each bad file in a series of its own
    (bad / f"{NAME}_cut.dcm").write_bytes(first[:-9].replace(b".2.7", b".2.A"))
    (bad / f"{NAME}_torn.dcm").write_bytes(first[:400].replace(b".2.7", b".2.B"))
    (bad / f"{NAME}_odd.dcm").write_bytes(first.replace(b"MONOCHROME2 ", f"{NAME:12}".encode()).replace(b".2.7", b".2.C"))
    (bad / f"{NAME}_rows.dcm").write_bytes(b"\0" * 128 + b"DICM" + f"{NAME}{NUMBER}".encode())
    compressed = files.dataset(np.ones((4, 4), np.uint8), **planted(8), SeriesInstanceUID=f"{ROOT}.2.8")
    compressed.PixelData = files.encapsulate([NAME.encode()])
    compressed["PixelData"].is_undefined_length = True
    compressed.file_meta.TransferSyntaxUID = HTJ2KLossless
    files.save(compressed, bad / f"{NAME}_ht.dcm")
    strange = files.dataset(np.ones((4, 4), np.uint8), **planted(9), SeriesInstanceUID=f"{ROOT}.2.9")
    path = files.save(strange, bad / f"{NAME}_private.dcm")
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", f"{ROOT}\0".encode().ljust(20, b"\0")))
    uneven = files.series(
        bad / f"{NAME}_uneven", np.ones((4, 4, 4), np.uint8), shuffle=False, SeriesInstanceUID=f"{ROOT}.2.6", **planted(6)
    )
    assert len(uneven) == 4
    (root / "masks").mkdir()
    for name in ("a", "cut", "odd", "ht", "private", "uneven"):
        Image.fromarray(np.ones((4, 4), np.uint8)).save(root / "masks" / f"{NAME}_{name}.png")
    Image.fromarray(np.ones((4, 4), np.uint8)).save(root / "masks" / f"{NAME}_{NUMBER}.png")  # of nothing
    next((bad / f"{NAME}_uneven").glob("im001.dcm")).unlink()
    return root


def everything(folder: Path) -> bytes:
    """All names and all bytes below a folder; gzip, zlib within PNG and TIFF unpacked too."""
    found = b""
    for path in folder.rglob("*"):
        found += path.relative_to(folder).as_posix().encode() + b"\n"
        if path.is_file():
            content = path.read_bytes()
            found += content
            if path.name.endswith(".gz"):
                found += gzip.decompress(content)
            for start in [match.start() for match in re.finditer(b"\x78[\x01\x5e\x9c\xda]", content)]:
                try:
                    found += zlib.decompressobj().decompress(content[start:])
                except zlib.error:
                    continue
    return found


def assert_clean(got, *more: str) -> None:
    place = str(got.target.parent)
    text = everything(got.target) + (got.out + got.err).replace(place, "").encode()
    for secret in (*PLANTED, *more):
        for form in (secret, secret.lower(), secret.upper()):
            for coded in (form.encode(), form.encode("utf-16-le")):
                assert coded not in text, f"{form} came out"


@pytest.mark.parametrize(
    "options", [(), ("--slices",), ("--window", "file"), ("--names", "hash")], ids=lambda v: "".join(v) or "plain"
)
def test_nothing_of_a_header_comes_out(hospital: Path, imported, tmp_path: Path, options: tuple[str, ...]) -> None:
    salt = tmp_path / "salt"
    salt.write_bytes(bytes(range(32)))
    got = imported(hospital, *options, *(("--salt", str(salt)) if "hash" in options else ()))
    assert got.code == 3
    assert_clean(got)
    report = got.report
    slices = "--slices" in options
    assert report["patients"] == (4 if slices else 3) and report["cases"] == (10 if slices else 3)
    assert len(report["refused"]) >= 6
    assert all(re.fullmatch(r"file \d+( and \d+ more)?", row["what"]) for row in report["refused"])
    assert [row["name"] for row in report["classes"]] == ["background", "Liver"]
    reasons = " ".join(row["why"] for row in report["refused"])
    if slices:
        assert "High-Throughput JPEG 2000" in reasons and "a private transfer syntax" in reasons and "interpretation" in reasons
    else:
        assert "uneven distances" in reasons and "a picture among volumes" in reasons


def test_the_numbers_of_refused_files_are_those_of_find_and_sort(hospital: Path, imported) -> None:
    import subprocess

    listed = subprocess.run(
        f"find '{hospital}' -type f | LC_ALL=C sort", shell=True, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for row in imported(hospital).report["refused"]:
        assert "/bad/" in listed[int(row["what"].split()[1]) - 1]


def test_names_cannot_be_kept(hospital: Path, imported) -> None:
    got = imported(hospital, "--names", "keep")
    assert got.code == 2 and "cannot be kept for DICOM" in got.err and NAME not in got.err


def test_the_way_back_is_written_only_where_it_was_asked_for(hospital: Path, imported, tmp_path: Path) -> None:
    key = tmp_path / "key.csv"
    got = imported(hospital, "--key", str(key))
    assert_clean(got)
    rows = key.read_text().splitlines()
    assert rows[0] == "case,patient,source,source_patient" and len(rows) == 4
    assert all(NUMBER in row for row in rows[1:]) and key.stat().st_mode & 0o077 == 0


def test_a_salted_hash_stays_and_hangs_on_the_salt(hospital: Path, imported, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a" * 16)
    (tmp_path / "b").write_bytes(b"b" * 16)
    (tmp_path / "short").write_bytes(b"b" * 15)
    groups = [
        (imported(hospital, "--names", "hash", "--salt", str(tmp_path / name)).target / "groups.csv").read_text()
        for name in "aab"
    ]
    assert groups[0] == groups[1] != groups[2]
    got = imported(hospital, "--names", "hash", "--salt", str(tmp_path / "short"))
    assert got.code == 2 and "16 secret bytes" in got.err


def test_masks_and_names_of_pictures_give_nothing_away(imported, tmp_path: Path) -> None:
    """Beside DICOM images: PNG with text chunks, NIfTI with words in its header, named after the patient; one is broken."""
    root = tmp_path / "source"
    random = np.random.default_rng(0)
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", NAME)
    for k in range(3):
        files.write(root / "dicom" / f"{NAME}{k}.dcm", random.integers(0, 255, (8, 8), dtype=np.uint8), **planted(k),
                    SeriesInstanceUID=f"{ROOT}.2.{k}")  # fmt: skip
        mask = Image.fromarray(random.integers(0, 2, (8, 8), dtype=np.uint8))
        (root / "masks").mkdir(exist_ok=True)
        mask.save(root / "masks" / f"{NAME}{k}.png", pnginfo=text)
    (root / "masks" / f"{NAME}2.png").write_bytes(NAME.encode())
    got = imported(root)
    assert got.code == 3 and got.report["cases"] == 2
    assert_clean(got, str(root))


def test_words_in_a_nifti_header_do_not_come_along(imported, tmp_path: Path) -> None:
    root = tmp_path / "source"
    for part, top in (("images", 255), ("masks", 2)):
        (root / part).mkdir(parents=True)
        image = nibabel.Nifti1Image(np.random.default_rng(1).integers(0, top, (5, 6, 7), dtype=np.uint8), np.eye(4))
        image.header["descrip"], image.header["aux_file"], image.header["db_name"] = NAME, NAME, NAME.encode()
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", NAME.encode()))
        nibabel.save(image, root / part / f"{NAME}.nii.gz")
    got = imported(root)
    assert got.code == 0
    assert_clean(got)


@pytest.mark.parametrize(
    "rows",
    [
        [f"{NAME}.dcm,mask.png"],
        ["here,mask.png", f"{NAME}.png,mask.png", f"../{NAME},mask.png", f"here,{NAME}_seg.png", "here,"],
        [f"{NAME}.png,mask.png", "folder,mask.png"],
    ],
    ids=["missing", "no ending", "folder"],
)
def test_a_list_with_dicom_names_no_file_that_it_refuses(imported, tmp_path: Path, rows: list[str]) -> None:
    """Whether a source is private is known before its first line is refused: by an ending, or by what is in the files."""
    root = tmp_path / "source"
    pixels = np.random.default_rng(0).integers(0, 255, (3, 8, 8), dtype=np.uint8)
    files.write(root / "here", pixels[0], **planted(1))
    files.write(root / "folder" / f"{NAME}_1", pixels[1], **planted(2))
    files.save_picture(pixels[2], root / "good.png")
    files.save_picture(pixels[2] % 2, root / "mask.png")
    (root / f"{NAME}_broken.png").write_bytes(b"none")
    (root / "list.csv").write_text("\n".join(["image,mask", *rows, f"{NAME}_broken.png,mask.png", "good.png,mask.png"]))
    got = imported(root / "list.csv")
    assert got.code == 3
    assert_clean(got)
    assert all(re.fullmatch(r"line \d", row["what"]) for row in got.report["refused"])
    missing = [k for k, row in enumerate(rows, start=2) if row.startswith(NAME)]
    reasons = {row["what"]: row["why"] for row in got.report["refused"]}
    assert all(reasons[f"line {k}"] == "files that are not there" for k in missing)


@pytest.mark.parametrize("listed", [False, True])
def test_a_pattern_that_does_not_fit_quotes_no_file(imported, tmp_path: Path, listed: bool) -> None:
    root = tmp_path / "source"
    files.write(root / NAME / "1.dcm", np.ones((8, 8), np.uint8), **planted(1))
    files.save_picture(np.ones((8, 8), np.uint8), root / "1.png")
    (root / "list.csv").write_text(f"image,mask\n{NAME}/1.dcm,1.png\n")
    got = imported(root / "list.csv" if listed else root, "--patient", r"^(P\d+)")
    assert got.code == 2 and ("path of 'line 2'" if listed else "path of 'file 2'") in got.err and NAME not in got.err


def test_no_detail_of_a_private_source_is_kept() -> None:
    from thrifty.data.cases import Unreadable
    from thrifty.data.importing.items import Found

    for private, reason in ((True, "files that are not there"), (False, f"files that are not there: {NAME}.dcm")):
        found = Found("a CSV list", private=private)
        found.refuse("line 2", Unreadable("files that are not there", f"line 2 ({NAME}.dcm)"))
        assert found.refused == [("line 2", reason)]
