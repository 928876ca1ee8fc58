"""The study: defaults, overrides, and mistakes that are told all at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from thrifty.config import Study, apply_overrides, data_folder, read_study, results_folder
from thrifty.errors import ThriftyError

MINIMAL = "name: small\nbudgets: [30000, {parameters: 60000, width: 16}]\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "study.yaml"
    path.write_text(text)
    return path


def test_two_keys_are_enough(tmp_path: Path) -> None:
    study = read_study(write(tmp_path, MINIMAL))
    assert study.sizes == (30000, 60000) and study.budgets[1].width == 16 and study.budgets[0].width is None
    assert study.search_seeds == (0, 1, 2) and study.data.patch_size == (64, 64)


def test_every_mistake_is_told_at_once_with_the_nearest_name(tmp_path: Path) -> None:
    text = (
        MINIMAL + "serch: {}\nsearch: {epoch: 3, batch: many}\nretrain: {seeds: 0, baselines: [unetp]}\ndata: {foreground: 2}\n"
    )
    with pytest.raises(ThriftyError) as caught:
        read_study(write(tmp_path, text))
    message = str(caught.value)
    assert "unknown key 'serch'; did you mean 'search'?" in message
    assert "unknown key 'search.epoch'; did you mean 'epochs'?" in message
    assert "'search.batch' is 'many'" in message and "'data.foreground' is 2" in message
    assert "unetp" in message and "'retrain.seeds" in message
    assert "mistakes" in message and "\n" not in message and str(tmp_path) in message


def test_a_mistake_inside_a_list_finds_its_section(tmp_path: Path) -> None:
    with pytest.raises(ThriftyError, match=r"unknown key 'budgets.0.widht'; did you mean 'width'\?"):
        read_study(write(tmp_path, "name: a\nbudgets: [{parameters: 9000, widht: 4}]\n"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("budgets: 9000\n", "'name' is missing"),
        ("name: a\n", "'budgets' is missing"),
        ("name: ../a\nbudgets: 9000\n", "'name' is '../a'"),
        ("name: a\nbudgets: []\n", "'budgets' is"),
        ("name: a\nbudgets: [9000, 9000]\n", "budgets has the same entry twice"),
        ("name: a\nbudgets: 9000\nseeds: [1, 1]\n", "seeds has the same entry twice"),
        ("name: a\nbudgets: 9000\ndata: {fractions: {test: 0.9}}\n", "sum to"),
        ("name: a\nbudgets: 9000\nsearch: {penalty: .nan}\n", "finite"),
        ("- a\n- b\n", "holds list, a mapping"),
        ("a: [\n", "is not valid YAML"),
    ],
)
def test_a_bad_study_is_one_clear_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ThriftyError) as caught:
        read_study(write(tmp_path, text))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_or_binary_file_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ThriftyError, match="no such file"):
        read_study(tmp_path / "absent.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ThriftyError, match="cannot be read"):
        read_study(tmp_path / "binary.yaml")


def test_overrides_are_read_as_yaml_and_checked_like_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    study = read_study(path, ["search.epochs=5", "seeds=[4, 7]", "name=other", "data.patch=[32, 48]", "resources.device=cpu"])
    assert (study.search.epochs, study.search_seeds, study.name) == (5, (4, 7), "other")
    assert study.data.patch_size == (32, 48) and study.resources.device == "cpu"
    with pytest.raises(ThriftyError, match=r"unknown key 'search.epocs'; did you mean 'epochs'\?"):
        read_study(path, ["search.epocs=5"])


@pytest.mark.parametrize("text", ["search.epochs", "=5", "name.first=5", "search.epochs=[", "seeds.0=1"])
def test_a_bad_override_is_named(text: str) -> None:
    with pytest.raises(ThriftyError, match="override"):
        apply_overrides({"name": "a", "seeds": 3}, [text])


def test_overrides_leave_the_given_values_alone() -> None:
    values = {"search": {"epochs": 3}}
    assert apply_overrides(values, ["search.epochs=5"]) == {"search": {"epochs": 5}} and values == {"search": {"epochs": 3}}


def test_a_study_never_changes_after_reading() -> None:
    study = Study.model_validate({"name": "a", "budgets": 9000})
    with pytest.raises(ValidationError):
        study.name = "b"  # pyrefly: ignore


def test_folders_follow_the_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("THRIFTY_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("THRIFTY_RESULTS", str(tmp_path / "out"))
    assert data_folder("DRIVE") == tmp_path / "data" / "DRIVE" and data_folder("/abs") == Path("/abs")
    assert results_folder("a") == tmp_path / "out" / "a"
