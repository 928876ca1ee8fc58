"""Small data sets on disk, made by hand, and a check that a bad one is refused without a trace."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from thrifty.config import Data, Phantoms
from thrifty.data.store import Store, build_store
from thrifty.errors import ThriftyError

Arrays = Mapping[str, np.ndarray]


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Store:
    data = Data(phantoms=Phantoms(cases=24, patients=12, size=48, classes=4))
    return build_store(data, tmp_path_factory.mktemp("phantoms") / "data")


@pytest.fixture
def some_cases() -> Callable[..., tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """Random images and masks of `count` cases c0, c1, ..."""

    def make(
        count: int = 6, size: tuple[int, int] = (12, 10), top: int = 2
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        random = np.random.default_rng(1)
        images = {f"c{k}": random.integers(0, 255, size, dtype=np.uint8) for k in range(count)}
        masks = {f"c{k}": random.integers(0, top + 1, size, dtype=np.uint8) for k in range(count)}
        return images, masks

    return make


@pytest.fixture
def write_pairs(tmp_path: Path) -> Callable[..., Path]:
    """Writes images/ and masks/ as PNG; a third argument is the text of groups.csv."""

    def write(images: Arrays, masks: Arrays, groups: str | None = None) -> Path:
        folder = tmp_path / "set"
        for part, arrays in (("images", images), ("masks", masks)):
            (folder / part).mkdir(parents=True, exist_ok=True)
            for name, values in arrays.items():
                Image.fromarray(values).save(folder / part / f"{name}.png")
        if groups is not None:
            (folder / "groups.csv").write_text(groups)
        return folder

    return write


@pytest.fixture
def write_nnunet(tmp_path: Path) -> Callable[..., Path]:
    """Writes the nnU-Net v2 layout: images {case: [channel, ...]}, by a function that saves an array under a path."""

    def write(
        images: Mapping[str, list[Any]],
        masks: Mapping[str, Any],
        labels: dict[str, Any],
        ending: str = ".png",
        save: Callable[[Any, Path], object] = lambda values, path: Image.fromarray(values).save(path),
        channels: int | None = None,
    ) -> Path:
        folder = tmp_path / "Dataset001_Set"
        (folder / "imagesTr").mkdir(parents=True)
        (folder / "labelsTr").mkdir()
        for name, parts in images.items():
            for k, values in enumerate(parts):
                save(values, folder / "imagesTr" / f"{name}_{k:04d}{ending}")
        for name, values in masks.items():
            save(values, folder / "labelsTr" / f"{name}{ending}")
        count = channels or max(len(parts) for parts in images.values())
        description = {"channel_names": {str(k): f"c{k}" for k in range(count)}, "labels": labels, "file_ending": ending}
        (folder / "dataset.json").write_text(json.dumps(description))
        return folder

    return write


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Store]:
    def make(source: Path | str, name: str = "data", **settings: Any) -> Store:
        return build_store(Data(source=str(source), **settings), tmp_path / "run" / name)

    return make


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., str]:
    """The one line with which a data set is refused; it must hold every fragment, and nothing may be left behind."""

    def check(source: Path | str, *fragments: str, **settings: Any) -> str:
        run = tmp_path / "refused"
        run.mkdir(exist_ok=True)
        with pytest.raises(ThriftyError) as caught:
            build_store(Data(source=str(source), **settings), run / "data")
        text = str(caught.value)
        assert "\n" not in text
        for fragment in fragments:
            assert fragment in text
        assert os.listdir(run) == [], "something was left behind"
        return text

    return check
