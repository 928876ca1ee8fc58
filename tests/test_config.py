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
    assert (
        "'retrain.baselines.0' is 'unetp'" in message
        and "did you mean 'unetpp'?" in message
        and "'retrain.seeds' is 0" in message
    )
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
        ("name: a\nbudgets: [9000, 9000]\n", "'budgets' is [9000, 9000]: it has the same entry twice"),
        ("name: a\nbudgets: 9000\nseeds: [1, 1]\n", "'seeds' is [1, 1]: it has the same entry twice"),
        ("name: a\nbudgets: 9000\nretrain: {seeds: [2, 2]}\n", "'retrain.seeds' is [2, 2]: it has the same entry twice"),
        ("name: a\nbudgets: 9000\nseeds: []\n", "'seeds' is []: give a number of seeds"),
        ("name: a\nbudgets: 9000\nseeds: true\n", "'seeds' is True: give a number of seeds"),
        ("name: a\nbudgets: 9000\nseeds: [0, -1]\n", "each from 0 to 4294967295"),
        ("name: a\nbudgets: 9000\nretrain: {seeds: []}\n", "'retrain.seeds' is []: give a number of seeds"),
        ("name: a\nbudgets: 9000\nselect: {seed: -1}\n", "'select.seed' is -1"),
        ("name: a\nbudgets: 9000\nselect: {seed: 4294967296}\n", "'select.seed' is 4294967296"),
        ("name: a\nbudgets: 9000\nselect: {finalists: -1}\n", "'select.finalists' is -1"),
        ("name: a\nbudgets: 9000\nselect: {short_epochs: 0}\n", "'select.short_epochs' is 0"),
        ("name: a\nbudgets: 9000\nselect: {short_seeds: 0}\n", "'select.short_seeds' is 0"),
        ("name: a\nbudgets: 9000\ndata: {patch: [1, 2, 3]}\n", "two as [rows, columns]"),
        ("name: a\nbudgets: 1e4\n", "'budgets.0.parameters' is '1e4'"),
        ("name: a\nbudgets: [{levels: 3}]\n", "'budgets.0' is {'levels': 3}: give parameters, or a width for a search without"),
        ("name: a\nbudgets: [{width: 8}]\nsearch: {epochs: 2}\n", "the search for width 8 without a limit has only 2 epochs"),
        ("name: a\nbudgets: 9000\nsearch: 7\n", "keys are epochs, steps"),
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


@pytest.mark.parametrize("text", ["seeds: few", "budgets: [{parameters: 0}]", "data: {patch: none}", "retrain: {seeds: [a, b]}"])
def test_one_mistake_is_one_message_in_words_of_the_study(tmp_path: Path, text: str) -> None:
    rest = "name: a\n" if text.startswith("budgets") else "name: a\nbudgets: 9000\n"
    with pytest.raises(ThriftyError) as caught:
        read_study(write(tmp_path, f"{rest}{text}\n"))
    message = str(caught.value)
    assert "mistakes" not in message and "constrained" not in message and "uple" not in message
    assert message.count(" is ") == 1


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("search: {epochs: 5}", "search: {epochs: 6}"),
        ("search: {epochs: 9, warmup: 9}", "search: {epochs: 9, warmup: 8}"),
        ("budgets: [9000, {parameters: 5000, epochs: 4}]", "budgets: [9000, {parameters: 5000, epochs: 6}]"),
    ],
)
def test_a_search_that_would_only_warm_up_is_refused(tmp_path: Path, text: str, good: str) -> None:
    rest = "name: a\nbudgets: 9000\n" if text.startswith("search") else "name: a\n"
    with pytest.raises(ThriftyError, match=r"search.warmup is [59], but .* has only [459] epochs; nothing would be searched"):
        read_study(write(tmp_path, f"{rest}{text}\n"))
    assert read_study(write(tmp_path, f"{rest}{good}\n")).search.warmup


def test_a_warm_up_too_long_is_told_with_the_other_mistakes(tmp_path: Path) -> None:
    with pytest.raises(ThriftyError, match=r"3 mistakes: .*seeds.*search.warmup is 5.*unknown key 'serch'"):
        read_study(write(tmp_path, "name: a\nbudgets: 9000\nsearch: {epochs: 2}\nseeds: []\nserch: 1\n"))


def test_short_trainings_longer_than_a_retraining_are_refused(tmp_path: Path) -> None:
    rest = "name: a\nbudgets: 9000\n"
    for text in ("select: {short_epochs: 31}", "select: {short_epochs: 13}\nretrain: {epochs: 12}"):
        with pytest.raises(ThriftyError, match=r"epochs is (30|12), but select.short_epochs is (31|13): .* at most (30|12)$"):
            read_study(write(tmp_path, f"{rest}{text}\n"))
    assert read_study(write(tmp_path, f"{rest}select: {{short_epochs: 12}}\nretrain: {{epochs: 12}}\n")).short_epochs == 12


@pytest.mark.parametrize(("epochs", "short"), [(1, 1), (4, 1), (12, 3), (30, 8)])
def test_short_trainings_take_a_quarter_of_the_epochs_unless_told(epochs: int, short: int) -> None:
    values = {"name": "a", "budgets": 9000, "retrain": {"epochs": epochs}}
    assert Study.model_validate(values).short_epochs == short
    assert Study.model_validate({**values, "select": {"short_epochs": epochs}}).short_epochs == epochs


def test_a_missing_or_binary_file_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ThriftyError, match="no such file"):
        read_study(tmp_path / "absent.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ThriftyError, match="cannot be read"):
        read_study(tmp_path / "binary.yaml")


def test_overrides_are_read_as_yaml_and_checked_like_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    study = read_study(path, ["search.epochs=40", "seeds=[4, 7]", "name=other", "data.patch=[32, 48]", "resources.device=cpu"])
    assert (study.search.epochs, study.search_seeds, study.name) == (40, (4, 7), "other")
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
