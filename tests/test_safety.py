"""What comes from others can be crafted: no file executes anything, leads out of its folder or takes all memory; secrets stay."""

from __future__ import annotations

import ast
import json
import os
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
import torch
import yaml
from crafted import Bomb
from PIL import Image
from skimage.io import imsave
from small_models import small_model
from small_study import BUDGET, small_run, small_study

import thrifty
from thrifty import cli, environment, trials_connect, trials_worker
from thrifty.config import Data, read_study
from thrifty.data import decode as decoding
from thrifty.data.cases import Unreadable
from thrifty.data.sources import find_source
from thrifty.data.splits import read_splits
from thrifty.data.store import build_store
from thrifty.errors import ThriftyError, mask, one_line
from thrifty.model import load_model
from thrifty.nets.supernet_file import load_supernet
from thrifty.networks import read_networks
from thrifty.results import Run, Trial, plain, read_json, write_json
from thrifty.space.genotype import load
from thrifty.space.schema import load_space

SECRET = "hunter2"
URL = f"https://me:{SECRET}@host.example/bucket"


# pickles


@pytest.mark.parametrize("form", ["pickle", "torch"])
def test_crafted_weights_genotypes_and_supernets_execute_nothing(tmp_path: Path, form: str) -> None:
    """Checkpoints are in tests/test_setbacks.py."""
    bomb, bad = Bomb(tmp_path / "executed"), tmp_path / "bad"
    if form == "pickle":
        bad.write_bytes(pickle.dumps(bomb))
    else:
        torch.save({"weights": bomb}, bad)
    run = small_run(tmp_path, small_study())
    trial = Trial(tmp_path / "trial")
    model = {"schema": 1, "network": read_networks(run)[f"found_{BUDGET}"].as_json(), "labels": ["a", "b"], "patch": [32, 32]}
    write_json(trial.model, model | {"normalisation": {"kind": "case"}})
    trial.weights.write_bytes(bad.read_bytes())
    readers: list[Callable[[], Any]] = [
        lambda: load_model(trial, torch.device("cpu")),
        lambda: load_model(Trial(bad.parent / "as_model"), torch.device("cpu")),
        lambda: load_supernet(bad, load_space("tiny")),
        lambda: load(bad),
    ]
    Trial(tmp_path / "as_model").folder.mkdir()
    Trial(tmp_path / "as_model").model.write_bytes(bad.read_bytes())
    for reader in readers:
        with pytest.raises(ThriftyError):
            reader()
    assert not (tmp_path / "executed").exists()


def test_nothing_in_thrifty_can_execute_what_it_reads() -> None:
    found = []
    for path in sorted(Path(thrifty.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                found += [
                    f"{path.name}: {n}"
                    for n in names
                    if n.split(".")[0] in ("pickle", "cloudpickle", "dill", "marshal", "shelve")
                ]
            if isinstance(node, ast.Call):
                text, keys = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
                unsafe = text in ("eval", "exec", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "np.load", "numpy.load")
                unsafe = unsafe or (text == "torch.load" and keys.get("weights_only") != "True")
                found += [f"{path.name}:{node.lineno} {text}"] if unsafe else []
    # The one exec runs network.py, which thrifty has just written: the test below holds that nothing read becomes code in it.
    assert [line for line in found if not line.startswith("stage.py")] == []
    assert sum(line.startswith("stage.py") for line in found) == 1


def test_names_of_a_model_never_become_code_in_network_py(tmp_path: Path) -> None:
    from dataclasses import replace

    from thrifty.export.source import network_source

    _, model = load_model(Trial(small_model(tmp_path / "m")), torch.device("cpu"))
    evil = '"""\nraise SystemExit("executed")\n"""\\'
    for bad in (
        replace(model, labels=("background", evil, evil[::-1])),
        replace(model, network=replace(model.network, name=evil)),
    ):
        text = network_source(bad, thrifty.__version__)
        body = ast.parse(text).body
        assert not any(isinstance(node, ast.Raise) for node in body) and "executed" in ast.get_docstring(ast.parse(text))


def test_a_study_cannot_name_python_objects(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(f"name: !!python/object/apply:os.mkdir ['{tmp_path / 'executed'}']\nbudgets: 3000\n")
    with pytest.raises(ThriftyError, match="not valid YAML"):
        read_study(path)
    with pytest.raises(ThriftyError, match="not valid YAML"):
        read_study_with(tmp_path, f"name=!!python/object/apply:os.mkdir ['{tmp_path / 'executed'}']")
    assert not (tmp_path / "executed").exists()


def read_study_with(folder: Path, *overrides: str) -> Any:
    path = folder / "plain.yaml"
    path.write_text(yaml.safe_dump({"name": "a", "budgets": 3000}))
    return read_study(path, overrides)


# paths


def data_set(folder: Path, names: tuple[str, ...] = ("a", "b", "c", "d")) -> Data:
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
        for name in names:
            imsave(folder / part / f"{name}.png", np.eye(16, dtype=np.uint8), check_contrast=False)
    return Data(source=str(folder))


def test_manifests_of_data_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    data = data_set(tmp_path / "data")
    data_set(tmp_path / "outside", ("secret",))
    store = build_store(data, tmp_path / "store")
    away = "../../outside/images/secret"
    sets = {"weights": ["a"], "architecture": ["b"], "selection": ["c"], "test": ["d", away]}
    write_json(tmp_path / "splits.json", sets)
    with pytest.raises(ThriftyError, match=r"unknown cases: \.\./\.\./outside"):
        read_splits(tmp_path / "splits.json", store)
    (tmp_path / "data" / "groups.csv").write_text("case,patient\na,1\nb,2\nc,3\nd,4\n" + f"{away},5\n")
    with pytest.raises(ThriftyError, match="cases that have no image"):
        find_source(data)


def test_a_dataset_json_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    for name in "abcd":
        for path in (folder / "imagesTr" / f"{name}_0000.png", folder / "labelsTr" / f"{name}.png"):
            imsave(path, np.eye(16, dtype=np.uint8), check_contrast=False)
    about = {"channel_names": {"0": "x"}, "labels": {"background": 0, "object": 1}, "file_ending": ".png"}
    write_json(folder / "dataset.json", {**about, "dataset": {"e": {"images": ["/etc/passwd"], "label": "../secret.png"}}})
    assert [entry.name for entry in find_source(Data(source=str(folder))).entries] == list("abcd")
    write_json(folder / "dataset.json", {**about, "file_ending": "/../../secret.png"})
    with pytest.raises(ThriftyError, match="file_ending is '/"):
        find_source(Data(source=str(folder)))


@pytest.mark.parametrize("name", ["../../evil", "/evil", "a/b", "a\\b", "..", ".", "", "a\0b"])
def test_names_in_files_of_a_run_cannot_lead_out_of_it(tmp_path: Path, name: str) -> None:
    run = Run(tmp_path)
    for path in (
        lambda: run.retrain_trial(name, 0), lambda: run.evaluate_trial(name, 0), lambda: run.search_trial(name),
        lambda: run.example("unet", name), lambda: run.short_trial(name, 0), lambda: run.short_genotype(name),
    ):  # fmt: skip
        with pytest.raises(ThriftyError, match="cannot be the name of a file or folder"):
            path()
    assert plain("found_3000") == "found_3000" and plain("case.01") == "case.01"


# bombs


def png_that_claims(rows: int, columns: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("rows", "columns"), [(10_000, 10_000), (60_000, 60_000)])
def test_a_picture_that_claims_too_many_pixels_is_refused_by_its_header(tmp_path: Path, rows: int, columns: int) -> None:
    """Above Pillow's warning, and above its error."""
    data = data_set(tmp_path / "data")
    (tmp_path / "data" / "images" / "b.png").write_bytes(png_that_claims(rows, columns))
    with pytest.raises(ThriftyError) as caught:
        build_store(data, tmp_path / "store")
    text = str(caught.value)
    assert "files too large to be decoded: b.png" in text
    assert "\n" not in text and not (tmp_path / "store").exists()


def test_a_tif_and_a_volume_that_claim_too_much_are_refused_by_their_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = nibabel.Nifti1Header()
    header.set_data_shape((2000, 2000, 2000))
    header["vox_offset"], header["magic"] = 352, b"n+1"
    (tmp_path / "huge.nii").write_bytes(header.binaryblock + bytes(100))
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((40, 40), np.uint8))
    assert decoding.decode(tmp_path / "a.tif").values.shape == (40, 40, 1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1599)
    for name, size in (("huge.nii", "8,000,000,000 values; at most 2,147,483,648"), ("a.tif", "1,600 pixels; at most 1,599")):
        with pytest.raises(Unreadable, match=rf"{name} \({size}"):
            decoding.decode(tmp_path / name)


# secrets


def test_credentials_of_urls_are_masked() -> None:
    assert mask(f"see {URL} and s3://key:a@b@host/x") == "see https://***@host.example/bucket and s3://***@host/x"
    for same in ("https://host.example/a@b", "mail me@host", "a://b c@d"):
        assert mask(same) == same
    assert SECRET not in str(ThriftyError(URL)) + one_line(URL) + repr(ThriftyError(URL))


def test_an_address_with_a_password_is_masked_in_messages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"ray://me:{SECRET}@127.0.0.1:1"
    with pytest.raises(ThriftyError, match=r"RAY_ADDRESS=ray://\*\*\*@127\.0\.0\.1:1") as caught:
        trials_connect._check_address(address)
    assert SECRET not in str(caught.value)
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setenv("THRIFTY_DATA", URL)
    with pytest.raises(SystemExit):
        cli.main(["doctor"])
    printed = capsys.readouterr()
    assert "ray://***@127.0.0.1:1" in printed.out and SECRET not in printed.out + printed.err


def test_a_study_with_a_password_is_refused_before_it_is_written(tmp_path: Path, results: Path) -> None:
    with pytest.raises(
        ThriftyError, match=r"'data.source' has a user name or password in its URL \(https://\*\*\*@host"
    ) as caught:
        read_study_with(tmp_path, f"data.source={URL}")
    assert SECRET not in str(caught.value) and not results.exists()


def test_env_json_holds_nothing_of_the_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("RAY_ADDRESS", URL)
    found = environment.versions()
    monkeypatch.setattr(environment, "versions", lambda: {**found, "torch": f"2 from {URL}"})
    run = Run(tmp_path)
    environment.write_environment(run)
    text = run.environment.read_text()
    assert SECRET not in text and read_json(run.environment)["versions"]["torch"] == "2 from https://***@host.example/bucket"
    values = [value for value in os.environ.values() if len(value) > 12]
    assert not [value for value in values if value in text]


def test_what_a_worker_raises_is_masked_on_its_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[dict[str, Any]] = []
    monkeypatch.setattr(trials_worker.tune, "report", reported.append)
    monkeypatch.setattr(trials_worker, "_tell_node", lambda: None)  # there is no worker here

    def fails(arguments: dict[str, Any], trial: Trial, report: Any) -> None:
        raise ValueError(f"cannot read {URL}")

    item = {"folder": str(tmp_path), "arguments": {}, "keep": "best", "versions": {}, "seconds_left": None, "retries": -1}
    trials_worker.make_trainable(fails)({"item": {**item, "raised": str(tmp_path / "raised"), "overtime": ""}})
    text = (tmp_path / "error.txt").read_text() + json.dumps(reported)
    assert reported == [{"refused": "ValueError: cannot read https://***@host.example/bucket"}] and SECRET not in text
