"""Data sets larger than memory: drawn from, predicted, prepared and imported by processes that may hold little of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from thrifty.data.cases import Case, Entry, Sample, Source

SIDE, CASES = 2048, 6000  # two files of 25 GB: 50 GB
CHILD = """
import os, resource, sys
from pathlib import Path
import numpy as np, torch
torch.set_num_threads(1)
import kornia.geometry.transform, monai.inferers
from thrifty.config import Augment, Data, Evaluate
from thrifty.data.batches import Batches
from thrifty.data.normalise import learn
from thrifty.data.store import open_store
from thrifty.inference import predict_cases

def own():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData"))

LIMIT = int(sys.argv[2])
before = own()
resource.setrlimit(resource.RLIMIT_DATA, (before + LIMIT, before + LIMIT))
store = open_store(Path(sys.argv[1]))
assert store.images.nbytes + store.masks.nbytes >= 50e9
some = tuple(range(0, len(store.cases), 3000))
data = Data(patch=64, foreground=1.0, normalisation="case")
batches = Batches(store, tuple(range(len(store.cases))), learn(store, some, "case"), data, 2, 0, torch.device("cpu"))
for step in range(2):
    images, masks = batches.draw(0, step)
    assert images.shape == (2, 1, 64, 64) and masks.any()
normalisation = learn(store, some[:1], "dataset")

class Network(torch.nn.Module):
    stride = 4
    def forward(self, x):
        return torch.cat([x, -x], 1)

settings = Evaluate(batch=1, window=512)
for index, labels in predict_cases(Network(), store, some[:1], normalisation, settings, torch.device("cpu")):
    assert labels.shape == (2048, 2048)
try:
    np.ones(LIMIT + (64 << 20), np.uint8)
    print("no limit")
except MemoryError:
    print("held")
"""


@pytest.fixture
def fifty_gigabytes(tmp_path: Path) -> Path:
    """A store of sparse files: sizes as of 50 GB, hardly anything on the disk but a mark in each case that is looked at."""
    folder, pixels = tmp_path / "store", SIDE * SIDE
    folder.mkdir()
    for name in ("images.bin", "masks.bin"):
        with open(folder / name, "wb") as file:
            file.truncate(CASES * pixels)
            for k in range(CASES):
                if name == "masks.bin":
                    file.seek(k * pixels + 1000 * SIDE + 1000)
                    file.write(bytes([1]) * 50)
    row = {"patient": "p", "volume": None, "height": SIDE, "width": SIDE, "spacing_mm": None, "digest": ""}
    cases = [
        {**row, "name": f"c{k}", "image": k * pixels, "mask": k * pixels, "class_pixels": [pixels - 50, 50]} for k in range(CASES)
    ]
    index = {"schema": 1, "dtype": "uint8", "channels": 1, "pixels": CASES * pixels, "labels": ["background", "a"]}
    (folder / "index.json").write_text(json.dumps({**index, "fingerprint": "x", "decoded_types": {}, "cases": cases}))
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts mapped private memory on Linux alone")
def test_fifty_gigabytes_are_drawn_from_and_predicted_with_little_memory(fifty_gigabytes: Path) -> None:
    on_disk = sum(path.stat().st_blocks * 512 for path in fifty_gigabytes.iterdir())
    assert on_disk < 64e6, "this file system writes the holes"
    limit = 400 << 20  # one case of 4 million pixels goes through sums of 8 bytes and two classes of 4
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(fifty_gigabytes), str(limit)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == "held"


def generated(count: int, side: int) -> Source:
    """A source whose cases exist only while they are decoded."""

    def decode(k: int) -> list[Sample]:
        random = np.random.default_rng(k)
        mask = random.integers(0, 2, (side, side), dtype=np.uint8) * np.uint8(255)
        return [Sample(Case(f"c{k}", f"p{k}", None, side, side, None), random.integers(0, 99, (1, side, side), np.uint8), mask)]

    return Source("generated", tuple(Entry(f"c{k}", f"p{k}", 1, lambda k=k: decode(k)) for k in range(count)), None)


def test_preparing_holds_one_case_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """60 cases of 256 kB image and mask each: never more than a few of them in memory; 0/255 masks are mended blockwise."""
    from thrifty.config import Data
    from thrifty.data import classes, store

    monkeypatch.setattr(store, "find_source", lambda data: generated(60, 512))
    monkeypatch.setattr(classes, "BLOCK", 1 << 16)
    np.unique(np.zeros(3, np.uint8))
    tracemalloc.start()
    try:
        made = store.build_store(Data(source="/x"), tmp_path / "store")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(made.cases) == 60 and made.masks.max() == 1
    assert peak < 9 << 20, f"{peak / 2**20:.0f} MB held"


def test_an_import_holds_one_case_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from thrifty.data.importing import run
    from thrifty.data.importing.items import Found, Item, Loaded, Wishes

    def load(k: int):
        image = np.full((512, 512, 1), k, np.uint8)
        image[0, 0] = 200
        yield Loaded(image, (image[..., 0] > 100).astype(np.uint8))

    items = [Item(f"i{k}", f"i{k}", k, False, lambda k=k: load(k)) for k in range(40)]
    monkeypatch.setattr(run, "find", lambda source, wishes: Found("a test", items))
    tracemalloc.start()
    try:
        run.import_data(tmp_path, tmp_path.parent / f"{tmp_path.name}_out", Wishes(), say=lambda _: None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 9 << 20, f"{peak / 2**20:.0f} MB held"
