from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from small_search import SEARCH, SETTING, arguments, search_run, search_study

from thrifty.errors import ThriftyError
from thrifty.nets.supernet_file import load_supernet
from thrifty.results import Trial, read_json, read_jsonl, read_run, write_jsonl
from thrifty.search.profile import profile_table
from thrifty.search.setting import Setting, derive_levels, settings_of
from thrifty.search.trial import search_trial, time_search_step
from thrifty.space.cost import Costs, count
from thrifty.space.decode import decode
from thrifty.space.distribution import Distribution
from thrifty.space.genotype import load
from thrifty.space.schema import load_space


class Stopped(Exception):
    pass


def stop_after(epoch: int):
    def report(row: dict) -> None:
        if row["epoch"] == epoch:
            raise Stopped

    return report


def comparable(trial: Trial) -> tuple[dict, list[dict], bytes]:
    result, record = read_json(trial.result), read_jsonl(trial.record)
    result.pop("seconds"), result.pop("trial")
    for row in record:
        row.pop("seconds")
    return result, record, trial.weights.read_bytes()


def test_stopped_at_any_epoch_and_resumed_ends_bit_for_bit_the_same(tmp_path: Path) -> None:
    _, run, _ = search_run(tmp_path)
    whole = run.search_trial("whole")
    search_trial(arguments(run), whole, lambda row: None)
    for epoch in range(3):
        trial = run.search_trial(f"stopped_{epoch}")
        with pytest.raises(Stopped):
            search_trial(arguments(run), trial, stop_after(epoch))
        assert not trial.done
        torch.manual_seed(99 + epoch)  # whatever ran in this process in between
        rows: list[dict] = []
        search_trial(arguments(run), trial, rows.append)
        assert [row["epoch"] for row in rows] == list(range(epoch + 1, 3))
        assert comparable(trial) == comparable(whole)


def test_a_profile_accounts_for_the_time_and_changes_nothing(tmp_path: Path) -> None:
    _, run, _ = search_run(tmp_path)
    for name, more in (("plain", {}), ("profiled", {"profile": True})):
        search_trial({**arguments(run), **more}, run.search_trial(name), lambda row: None)
    plain, profiled = run.search_trial("plain"), run.search_trial("profiled")
    assert comparable(plain) == comparable(profiled)
    assert not plain.profile.exists()
    profile, rows = read_json(profiled.profile), read_jsonl(profiled.record)
    assert profile["epochs"] == len(rows) == 3 and profile["steps"] == 3 * SEARCH["steps"]
    seconds = profile["seconds"]
    assert all(seconds[part] > 0 for part in ("data", "weight step", "architecture step", "validation", "checkpoint"))
    inside = sum(value for part, value in seconds.items() if part not in ("checkpoint", "report"))
    assert 0.8 * sum(row["seconds"] for row in rows) < inside < sum(row["seconds"] for row in rows)
    step = sum(seconds[part] for part in ("data", "weight step", "architecture step"))
    assert profile["share_of_step_waiting_for_data"] == pytest.approx(seconds["data"] / step)
    write_jsonl(run.candidates, [{"trial": "profiled"}])
    assert f"time of 1 searches, {profile['steps']} two-level steps:" in profile_table(run)
    write_jsonl(run.candidates, [{"trial": "plain"}])
    assert "no profile" in profile_table(run)


def test_a_profile_is_of_the_epochs_that_this_process_ran(tmp_path: Path) -> None:
    _, run, _ = search_run(tmp_path)
    trial = run.search_trial("resumed")
    with pytest.raises(Stopped):
        search_trial(arguments(run), trial, stop_after(0))
    search_trial({**arguments(run), "profile": True}, trial, lambda row: None)
    profile = read_json(trial.profile)
    assert (profile["epochs"], profile["steps"]) == (2, 2 * SEARCH["steps"])


def test_seeds_differ_and_equal_seeds_agree(tmp_path: Path) -> None:
    _, run, _ = search_run(tmp_path)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        search_trial(arguments(run, seed), run.search_trial(name), lambda row: None)
    a, b, c = (comparable(run.search_trial(name)) for name in "abc")
    assert a == b
    assert a[2] != c[2]


def test_files_agree_with_one_another(tmp_path: Path) -> None:
    _, run, prepared = search_run(tmp_path)
    trial = run.search_trial("t")
    search_trial(arguments(run), trial, lambda row: None)
    space, genotype, result = load_space("tiny"), load(trial.genotype), read_json(trial.result)
    assert result["parameters"] == count(genotype) <= SETTING.budget
    assert 0 <= result["dice"] <= 1
    costs = Costs(space, 8, 3, prepared.store.channels, prepared.store.classes)
    assert decode(Distribution.from_json(space, read_json(trial.distribution)), costs, SETTING.budget).genotype == genotype
    supernet = load_supernet(trial.weights, space)
    assert (supernet.width, supernet.levels) == (8, 3)
    assert not trial.checkpoint.exists()
    assert json.loads(trial.record.read_text().splitlines()[-1])["genotype"] == read_json(trial.genotype)


def test_supernet_file_of_another_space_is_refused(tmp_path: Path) -> None:
    _, run, _ = search_run(tmp_path)
    search_trial(arguments(run), run.search_trial("t"), lambda row: None)
    with pytest.raises(ThriftyError, match="no supernet of the space 'thrifty'"):
        load_supernet(run.search_trial("t").weights, load_space("thrifty"))


def test_budget_below_the_smallest_network_names_that_size(tmp_path: Path) -> None:
    study, _, prepared = search_run(tmp_path, budgets=[{"parameters": 100}])
    store, space = prepared.store, load_space("tiny")
    smallest = Costs(space, 2, 3, store.channels, store.classes).smallest()
    with pytest.raises(ThriftyError, match=f"100 parameters is below .* has {smallest:,}"):
        settings_of(study, space, store.channels, store.classes)


def test_what_the_user_gives_is_kept_and_the_rest_derived(tmp_path: Path) -> None:
    study, run, _ = search_run(tmp_path, budgets=[3000, {"parameters": 9000, "width": 12, "levels": 2, "epochs": 7}])
    space = load_space("tiny")
    derived, given = settings_of(study, space, 1, 3)
    assert given == Setting(9000, 12, 2, 7)
    assert derived.levels == derive_levels(space, (32, 32)) == 3
    costs = Costs(space, derived.width, derived.levels, 1, 3)
    assert costs.smallest() < 3000 < costs.largest()
    assert read_run(run.root)[0] == study


def test_levels_follow_the_patch() -> None:
    space = load_space("thrifty")
    assert [derive_levels(space, (side, side)) for side in (32, 48, 96, 128, 512)] == [3, 3, 4, 5, 5]


def test_too_many_levels_are_refused(tmp_path: Path) -> None:
    study, _, _ = search_run(tmp_path, budgets=[{"parameters": 9000, "levels": 5}])
    with pytest.raises(ThriftyError, match="5 levels, the space 'tiny' has at most 4"):
        settings_of(study, load_space("tiny"), 1, 2)


def test_partial_channels_get_a_width_that_they_divide(tmp_path: Path) -> None:
    space = load_space("thrifty")
    for budget in (20_000, 40_000, 60_000):
        study = search_study(space="thrifty", budgets=[budget], search=SEARCH | {"partial": 4})
        assert settings_of(study, space, 1, 2)[0].width % 4 == 0
    study = search_study(space="thrifty", budgets=[{"parameters": 60_000, "width": 26}], search=SEARCH | {"partial": 4})
    with pytest.raises(ThriftyError, match=r"multiple of 4; the budget of 60,000 has \[26, 26"):
        settings_of(study, space, 1, 2)


def test_time_of_a_step_is_measured(tmp_path: Path) -> None:
    study, _, prepared = search_run(tmp_path)
    assert 0 < time_search_step(study, prepared, SETTING) < 20
