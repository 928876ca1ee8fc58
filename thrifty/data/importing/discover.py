"""What a source is: DICOM, folders of images and masks, COCO, label-me or a CSV list."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from thrifty.data.dicom import is_dicom
from thrifty.data.importing.coco import find_coco
from thrifty.data.importing.dicom_items import find_dicom
from thrifty.data.importing.folders import find_csv, find_folders
from thrifty.data.importing.items import Found, Wishes, listing
from thrifty.data.importing.labelme import find_labelme
from thrifty.errors import ThriftyError
from thrifty.results import read_json

KINDS = ("auto", "dicom", "folders", "coco", "labelme", "csv")


def find(source: Path, wishes: Wishes) -> Found:
    """The items of a source.

    Raises:
        ThriftyError: none of the kinds, or nothing in it.
    """
    kind = _kind(source) if wishes.source_kind == "auto" else wishes.source_kind
    if kind == "csv":
        return find_csv(_one(source, ".csv"), wishes)
    if kind == "coco":
        path = _one(source, ".json")
        description = read_json(path)
        if not isinstance(description, dict):
            raise ThriftyError(f"{path} is no COCO JSON: it holds no mapping")
        return find_coco(path, description, wishes)
    if kind == "labelme":
        root = source if source.is_dir() else source.parent
        files = [path for path in listing(root) if path.suffix.lower() == ".json"] if source.is_dir() else [source]
        return find_labelme(root, files, wishes)
    if not source.is_dir():
        raise ThriftyError("SOURCE is a single file; give the folder of images and masks, a COCO or label-me JSON, or a CSV list")
    return find_dicom(source, wishes) if kind == "dicom" else find_folders(source, wishes)


def _kind(source: Path) -> str:
    if source.is_file():
        if source.suffix.lower() == ".json":
            return _json_kind(source) or "coco"
        return "csv" if source.suffix.lower() == ".csv" else "folders"
    files = listing(source)
    if any(is_dicom(path) for path in files):
        return "dicom"
    kinds = {_json_kind(path) for path in files if path.suffix.lower() == ".json"}
    return "labelme" if "labelme" in kinds else "folders"


def _json_kind(path: Path) -> str | None:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict):
        return None
    return "labelme" if "shapes" in content else "coco" if {"images", "annotations"} <= set(content) else None


def _one(source: Path, ending: str) -> Path:
    if source.is_file():
        return source
    found = [path for path in sorted(source.iterdir()) if path.suffix.lower() == ending]
    if len(found) != 1:
        raise ThriftyError(f"{source} holds {len(found)} {ending} files; give the one that is meant as SOURCE")
    return found[0]
