"""Variance components against simulated ones, a REML fit by brute force, and tables that can be worked out by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.optimize import minimize

from thrifty.statistics.variance import components, crossed, shares, variance_rows

SDS = {"a": 0.5, "b": 0.3, "c": 0.8, "a x b": 0.2, "a x c": 0.4, "b x c": 0.25, "a x b x c": 0.1}


def simulated(rng: np.random.Generator, shape: tuple[int, ...], sds: dict[str, float]) -> np.ndarray:
    table = np.full(shape, 0.7)
    for name, sd in sds.items():
        axes = ["abc".index(letter) for letter in name.split(" x ")]
        table = table + rng.normal(0, sd, [n if axis in axes else 1 for axis, n in enumerate(shape)])
    return table


def test_components_are_unbiased() -> None:
    rng = np.random.default_rng(0)
    found = [components(simulated(rng, (5, 4, 6), SDS), "abc") for _ in range(400)]
    for name, sd in SDS.items():
        values = np.array([one[name] for one in found])
        assert values.mean() == pytest.approx(sd**2, abs=4 * values.std() / 20), name
    assert list(found[0]) == list(SDS)


def test_components_are_the_reml_estimates_where_all_are_positive() -> None:
    """The restricted likelihood, with its dense covariance, is at its highest at the closed formula."""
    table = simulated(np.random.default_rng(4), (4, 7), {"a": 0.5, "b": 0.8, "a x b": 0.3})
    found = components(table, "ab")
    assert min(found.values()) > 0
    eye, one = np.eye, np.ones
    parts = [np.kron(eye(4), one((7, 7))), np.kron(one((4, 4)), eye(7)), eye(28)]
    y, x = table.ravel(), one(28)

    def deviance(logs: np.ndarray) -> float:
        v = sum(np.exp(log) * part for log, part in zip(logs, parts, strict=True))
        inverse = np.linalg.inv(v)
        info = x @ inverse @ x
        rest = y - x * (x @ inverse @ y) / info
        return float(np.linalg.slogdet(v)[1] + np.log(info) + rest @ inverse @ rest)

    fit = minimize(deviance, np.zeros(3), method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-10, "maxiter": 2000})
    assert np.exp(fit.x) == pytest.approx(list(found.values()), rel=1e-3)


def test_one_way_by_hand_and_two_way_without_interaction() -> None:
    assert components(np.array([[1.0], [2.0], [6.0]]), "ab") == {"a": pytest.approx(np.var([1, 2, 6], ddof=1))}
    found = components(np.add.outer([1.0, 3.0], [0.0, 1.0, 5.0]), "ab")
    assert found == {"a": pytest.approx(2.0), "b": pytest.approx(7.0), "a x b": pytest.approx(0.0)}


def test_shares_count_negative_components_as_none() -> None:
    assert shares({"a": 3.0, "b": 1.0, "a x b": -0.5}) == {"a": 0.75, "b": 0.25, "a x b": 0.0}
    assert shares({"a": 0.0}) == {"a": 0.0}


def rows(network: str, seeds: list[int], folds: list[int | None], patients: list[str], shift: float = 0.0) -> list[dict]:
    return [
        {"network": network, "seed": s, "fold": f, "patient": p, "dice": shift + s + 10 * (f or 0) + 100 * patients.index(p)}
        for s, f, p in itertools.product(seeds, folds, patients)
    ]


def test_table_has_only_what_all_networks_have() -> None:
    first, second = rows("r0", [0, 1, 2], [0, 1], ["p", "q"]), rows("r1", [2, 0], [0, 1], ["q", "r", "p"], 1000.0)
    table = crossed([first, [row for row in second if row["patient"] != "p"]])
    assert table is not None and table.shape == (2, 2, 2, 1)
    assert table[0, :, 0, 0].tolist() == [100, 102], "patient q of seeds 0 and 2"
    assert table[1, :, 1, 0].tolist() == [1010, 1012]
    torn = [row for row in first if (row["seed"], row["fold"]) != (1, 1)]
    found = crossed([torn])
    assert found is not None and found.shape == (1, 2, 2, 2), "seed 1 lacks a fold"
    assert crossed([]) is None and crossed([first, []]) is None


def test_groups_say_which_factors_vary() -> None:
    table = (
        rows("found_9", [0, 1], [None], ["p", "q", "r"]) + rows("r0", [0], [None], ["p", "q"]) + rows("unet", [0], [None], ["p"])
    )
    groups = {"found_9": {"search_seed": ["found_9"]}, "random_9": {"genotype": ["r0"]}, "unet": {"genotype": ["unet"]}}
    (row,) = variance_rows(table, groups)
    assert row["group"] == "found_9" and row["levels"] == {"retrain_seed": 2, "patient": 3}
    assert row["variance"] == pytest.approx({"retrain_seed": 0.5, "patient": 100**2, "retrain_seed x patient": 0.0})
    both = variance_rows(
        rows("a", [0], [None], ["p", "q"]) + rows("b", [0], [None], ["p", "q"], 2.0), {"x": {"search_seed": ["a", "b"]}}
    )
    assert both[0]["variance"]["search_seed"] == pytest.approx(2.0)
