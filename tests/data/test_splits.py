"""Four sets: disjoint, by patient, none empty, near the shares; a user's file is checked."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from thrifty.config import Data, Fractions
from thrifty.data.cases import SETS, Case
from thrifty.data.splits import Splits, fold, left_out, make_splits, read_splits, summary, write_splits
from thrifty.data.store import Place, Store
from thrifty.errors import ThriftyError


def made_store(patients: list[int], rare: set[int] = frozenset(), volumes: bool = False) -> Store:
    """A store without pixels: patient k has patients[k] cases; those of `rare` patients hold class 2 too."""
    cases, places = [], []
    for number, count in enumerate(patients):
        for k in range(count):
            cases.append(Case(f"p{number}_{k}", f"p{number}", f"vol{number}" if volumes else None, 4, 4, None))
            places.append(Place(0, 0, (10, 5, 1 if number in rare else 0), ""))
    none = np.zeros(0, np.uint8)
    return Store(tuple(cases), 1, 3, ("background", "a", "b"), "print", tuple(places), {}, none, none)


def patients_of(store: Store, splits: Splits) -> dict[str, set[str]]:
    patient = {case.name: case.patient for case in store.cases}
    return {part: {patient[name] for name in names} for part, names in splits.sets().items()}


@pytest.mark.parametrize("count", [4, 5, 7, 13, 40, 101])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_disjoint_by_patient_and_near_the_shares(count: int, seed: int) -> None:
    random = np.random.default_rng(count)
    store = made_store(random.integers(1, 6, count).tolist())
    splits = make_splits(store, Data(split_seed=seed))
    parts = patients_of(store, splits)
    assert sum(map(len, parts.values())) == len(set().union(*parts.values())) == count
    assert sorted(n for names in splits.sets().values() for n in names) == sorted(c.name for c in store.cases)
    for part, share in Fractions().model_dump().items():
        assert parts[part]
        assert abs(len(parts[part]) - share * count) < 1 or len(parts[part]) == 1 or count < 7
    assert summary(splits, store)["test"] == (len(parts["test"]), len(splits.test))


def test_extreme_shares_leave_no_set_empty() -> None:
    shares = Fractions(weights=0.97, architecture=0.01, selection=0.01, test=0.01)
    splits = make_splits(made_store([1] * 9), Data(fractions=shares))
    assert [len(names) for names in splits.sets().values()] == [6, 1, 1, 1]


def test_seed_alone_decides() -> None:
    store = made_store([2] * 30)
    assert make_splits(store, Data(split_seed=3)) == make_splits(store, Data(split_seed=3))
    assert make_splits(store, Data(split_seed=3)).test != make_splits(store, Data(split_seed=4)).test
    assert make_splits(store, Data(split_seed=2**32 - 1)).seed == 2**32 - 1


@pytest.mark.parametrize("seed", range(8))
def test_a_rare_class_is_spread(seed: int) -> None:
    store = made_store([1] * 40, rare=set(range(8)))
    parts = patients_of(store, make_splits(store, Data(split_seed=seed)))
    with_rare = [sum(int(p[1:]) < 8 for p in parts[name]) for name in SETS]
    # 8 of 40 patients: shares of 40, 20, 15 and 25 % are 3.2, 1.6, 1.2 and 2 of them
    for got, wanted in zip(with_rare, [3.2, 1.6, 1.2, 2.0], strict=True):
        assert abs(got - wanted) <= 1.01


def test_fewer_patients_than_sets() -> None:
    with pytest.raises(ThriftyError, match="3 patients are fewer than the 4 sets"):
        make_splits(made_store([5, 5, 5]), Data())


def test_written_and_read(tmp_path: Path) -> None:
    store = made_store([2] * 10)
    splits = make_splits(store, Data(split_seed=5))
    write_splits(tmp_path / "splits.json", splits)
    assert read_splits(tmp_path / "splits.json", store) == splits
    content = json.loads((tmp_path / "splits.json").read_text())
    assert (content["seed"], content["fingerprint"]) == (5, "print")


def test_a_users_own_file(tmp_path: Path) -> None:
    store = made_store([2] * 6, volumes=True)
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"weights": ["p0_1", "p0_0"], "architecture": ["p1_0"], "selection": ["vol2"], "test": ["p3_0"]}))
    splits = read_splits(path, store)
    assert splits.weights == ("p0_0", "p0_1"), "in the order of the store"
    assert splits.selection == ("p2_0", "p2_1"), "a volume stands for its slices"
    assert splits.training == ("p0_0", "p0_1", "p1_0")
    assert left_out(splits, store) == 6
    assert splits.seed is None


GOOD = {"weights": ["p0_0"], "architecture": ["p1_0"], "selection": ["p2_0"], "test": ["p3_0"]}


@pytest.mark.parametrize(
    ("change", "fragments"),
    [
        ({"test": ["p3_0", "p9_0", "nobody"]}, ["unknown cases: p9_0; did you mean", "nobody"]),
        ({"test": ["p3_0", "p3_0"]}, ["cases listed twice: p3_0"]),
        ({"test": ["p3_0", "p0_0"]}, ["cases listed twice: p0_0", "patients in two sets: p0 (weights and test)"]),
        ({"test": ["p3_0", "p1_1"]}, ["patients in two sets: p1 (architecture and test)"]),
        ({"test": []}, ["the set 'test' is empty"]),
        ({"test": "p3_0"}, ["the set 'test' is no list of names"]),
        ({"tests": []}, ["unknown key 'tests'; did you mean 'test'?"]),
        ({"seed": "x"}, ["seed must be a whole number"]),
    ],
)
def test_a_users_mistakes(tmp_path: Path, change: dict, fragments: list[str]) -> None:
    path = tmp_path / "own.json"
    path.write_text(json.dumps({**GOOD, **change}))
    with pytest.raises(ThriftyError) as caught:
        read_splits(path, made_store([2] * 5))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    for fragment in fragments:
        assert fragment in str(caught.value)


def test_a_missing_set_or_file(tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    path.write_text(json.dumps({k: v for k, v in GOOD.items() if k != "selection"}))
    with pytest.raises(ThriftyError, match="the set 'selection' is missing"):
        read_splits(path, made_store([2] * 5))
    with pytest.raises(ThriftyError, match="no such file"):
        read_splits(tmp_path / "nothing.json", made_store([2] * 5))
    path.write_text("[]")
    with pytest.raises(ThriftyError, match="holds no mapping"):
        read_splits(path, made_store([2] * 5))


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_folds_hold_out_every_patient_once_and_keep_the_test_set(folds: int) -> None:
    store = made_store([1, 2, 3] * 8, rare={0, 1, 2, 3})
    splits = make_splits(store, Data())
    cut = [fold(splits, store, k, folds, seed=7) for k in range(folds)]
    held = Counter(name for part in cut for name in part.selection)
    assert set(held.values()) == {1}
    assert set(held) == set(splits.training + splits.selection)
    for part in cut:
        assert part.test == splits.test
        groups = patients_of(store, part)
        assert sum(map(len, groups.values())) == 24
        assert set(part.architecture) <= set(splits.architecture)
        assert abs(len(groups["selection"]) - 18 / folds) <= 1.5
    assert cut == [fold(splits, store, k, folds, seed=7) for k in range(folds)]


def test_folds_leave_out_what_the_user_left_out(tmp_path: Path) -> None:
    store = made_store([2] * 5)
    splits = Splits(**{part: tuple(names) for part, names in GOOD.items()})
    names = [n for part in fold(splits, store, 0, 3, 0).sets().values() for n in part]
    assert sorted(names) == ["p0_0", "p1_0", "p2_0", "p3_0"]


def test_impossible_folds() -> None:
    store = made_store([1] * 8)
    splits = make_splits(store, Data())
    with pytest.raises(ThriftyError, match=r"retrain.folds is 7, but there are only 6 patients"):
        fold(splits, store, 0, 7, 0)
    with pytest.raises(ThriftyError, match="no fold 2 of 2"):
        fold(splits, store, 2, 2, 0)
