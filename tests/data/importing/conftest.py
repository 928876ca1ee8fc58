"""The import as a user runs it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import save_picture
from PIL import Image

from thrifty import cli


@dataclass(frozen=True)
class Imported:
    code: int
    out: str
    err: str
    target: Path

    @property
    def report(self) -> dict[str, Any]:
        return json.loads((self.target / "report.json").read_text())

    @property
    def description(self) -> dict[str, Any]:
        return json.loads((self.target / "dataset.json").read_text())

    @property
    def files(self) -> list[str]:
        return sorted(path.relative_to(self.target).as_posix() for path in self.target.rglob("*") if path.is_file())

    def picture(self, name: str) -> np.ndarray:
        return np.asarray(Image.open(self.target / name))


@pytest.fixture
def imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Imported]:
    """`imported(source, options...)` runs `thrifty data import`; nothing but the target may be new beside it."""

    def run(source: Path, *options: str) -> Imported:
        place = tmp_path / "out"
        place.mkdir(exist_ok=True)
        target = place / f"set{len(list(place.iterdir()))}"
        before = set(place.iterdir())
        with pytest.raises(SystemExit) as ended:
            cli.main(["data", "import", str(source), str(target), *options])
        out, err = capsys.readouterr()
        code = int(ended.value.code or 0)
        assert set(place.iterdir()) - before == (set() if code == 2 else {target}), "something was left behind"
        return Imported(code, out, err, target)

    return run


@pytest.fixture
def pairs(tmp_path: Path) -> Callable[..., Path]:
    """Writes images/ and masks/ as PNG."""

    def make(images: dict[str, np.ndarray], masks: dict[str, np.ndarray], groups: str = "") -> Path:
        folder = tmp_path / "source"
        for part, arrays in (("images", images), ("masks", masks)):
            for name, values in arrays.items():
                save_picture(values, folder / part / f"{name}.png")
        if groups:
            (folder / "groups.csv").write_text(groups)
        return folder

    return make


@pytest.fixture
def noise() -> Callable[..., np.ndarray]:
    random = np.random.default_rng(5)
    return lambda *size, dtype=np.uint8: random.integers(0, np.iinfo(dtype).max, size, dtype=dtype)
