from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_search import SETTING, search_run, small_search

from thrifty.data.labels import IGNORED
from thrifty.errors import ThriftyError
from thrifty.search.constraint import BudgetConstraint
from thrifty.search.measures import batch_dice, parameter_free_share
from thrifty.search.twolevel import DifferentiableSearch
from thrifty.space.genotype import Cell, Edge, Genotype
from thrifty.space.schema import load_space


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> DifferentiableSearch:
    study, _, prepared = search_run(tmp_path_factory.mktemp("search"))
    return small_search(study, prepared)


def copies(module: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def changed(module: torch.nn.Module, before: list[torch.Tensor]) -> bool:
    return any(not torch.equal(p, old) for p, old in zip(module.parameters(), before, strict=True))


def test_the_two_optimisers_own_disjoint_parameters(search: DifferentiableSearch) -> None:
    """A known fault of the source: its weight optimiser owned alpha, beta and gamma too."""
    owned = [
        {id(p) for g in o.param_groups for p in g["params"]} for o in (search.weight_optimiser, search.architecture_optimiser)
    ]
    assert not owned[0] & owned[1]
    assert owned[0] == {id(p) for p in search.supernet.parameters()}
    assert owned[1] == {id(p) for p in search.architecture.parameters()}


def test_each_step_moves_its_own_parameters_only(search: DifferentiableSearch) -> None:
    weights, architecture = copies(search.supernet), copies(search.architecture)
    search.architecture_step(1, 0)
    assert changed(search.architecture, architecture)
    assert not changed(search.supernet, weights)
    architecture = copies(search.architecture)
    search.weight_step(1, 0)
    assert changed(search.supernet, weights)
    assert not changed(search.architecture, architecture)


def test_every_architecture_parameter_gets_a_gradient_of_the_mixture(tmp_path: Path) -> None:
    study, _, prepared = search_run(tmp_path, search={"epochs": 3, "steps": 2, "warmup": 1, "batch": 2, "relaxation": "softmax"})
    search = small_search(study, prepared)
    before = copies(search.architecture)
    search.architecture_step(1, 1)
    assert all(not torch.equal(p, old) for p, old in zip(search.architecture.parameters(), before, strict=True))


def test_warm_up_leaves_the_architecture_alone(tmp_path: Path) -> None:
    study, _, prepared = search_run(tmp_path)
    search = small_search(study, prepared)
    before = copies(search.architecture)
    assert search.epoch(0)["loss_architecture"] is None
    assert not changed(search.architecture, before)
    assert search.epoch(1)["loss_architecture"] > 0
    assert changed(search.architecture, before)


def test_the_sets_of_the_two_levels_are_disjoint_and_without_selection_and_test(tmp_path: Path) -> None:
    study, _, prepared = search_run(tmp_path)
    search, splits = small_search(study, prepared), prepared.splits
    weights, architecture = set(search.data.weights.indices), set(search.data.architecture.indices)
    assert weights == set(prepared.store.indices(splits.weights))
    assert architecture == set(prepared.store.indices(splits.architecture))
    assert not weights & architecture


def test_it_learns(tmp_path: Path) -> None:
    """Thirty steps on phantoms bring the loss of the weights down by a third."""
    search_keys = {"epochs": 15, "steps": 2, "warmup": 3, "batch": 4, "weights": {"lr": 0.02}}
    study, _, prepared = search_run(tmp_path, search=search_keys)
    search = small_search(study, prepared, SETTING.__class__(3000, 8, 3, 15))
    rows = [search.epoch(index) for index in range(15)]
    first, last = (sum(row["loss_weights"] for row in part) for part in (rows[:3], rows[-3:]))
    assert last < first * 2 / 3
    assert all(row["parameters"] <= 3000 for row in rows)
    assert {"entropy_alpha", "entropy_beta", "entropy_gamma", "expected_parameters", "parameter_free", "dice"} <= rows[0].keys()


def test_a_loss_that_is_not_finite_is_said_with_its_epoch(tmp_path: Path) -> None:
    study, _, prepared = search_run(tmp_path)
    search = small_search(study, prepared)
    with torch.no_grad():
        search.supernet.classifier.weight.fill_(float("nan"))
    with pytest.raises(ThriftyError, match="not finite in epoch 0"):
        search.epoch(0)


def test_patches_that_are_no_multiple_of_the_stride_are_padded(tmp_path: Path) -> None:
    study, _, prepared = search_run(tmp_path, data={"patch": 29, "phantoms": {"cases": 12, "patients": 8, "size": 32}})
    search = small_search(study, prepared)
    assert search.supernet.stride == 8
    assert search.epoch(1)["loss_architecture"] > 0


def test_constraint_presses_above_the_budget_and_gives_way_below() -> None:
    constraint = BudgetConstraint(100, rho=2.0)
    expected = torch.tensor(150.0, dtype=torch.float64, requires_grad=True)
    constraint.term(expected).backward()
    # By hand: rho / 2 * 0.5^2 = 0.25; its derivative rho * 0.5 / 100.
    assert float(constraint.term(expected).detach()) == pytest.approx(0.25)
    assert float(expected.grad) == pytest.approx(0.01)
    constraint.update(150)
    assert constraint.above.multiplier == pytest.approx(1.0)
    assert float(constraint.term(torch.tensor(100.0))) == pytest.approx(0)
    below = torch.tensor(80.0, requires_grad=True)
    constraint.term(below).backward()
    assert below.grad is not None and 0 < float(below.grad) < 0.01
    constraint.update(40)
    assert constraint.above.multiplier == 0
    assert float(constraint.term(torch.tensor(40.0))) == 0


def test_constraint_presses_below_the_least_size_and_gives_way_above() -> None:
    constraint = BudgetConstraint(100, rho=2.0, least=90)
    expected = torch.tensor(40.0, dtype=torch.float64, requires_grad=True)
    constraint.term(expected).backward()
    # By hand, as above: the least size is broken by 0.5 of the budget; the loss falls as the size grows.
    assert float(constraint.term(expected).detach()) == pytest.approx(0.25)
    assert float(expected.grad) == pytest.approx(-0.01)
    constraint.update(40)
    assert (constraint.above.multiplier, constraint.below.multiplier) == (0, pytest.approx(1.0))
    again = BudgetConstraint(100, rho=2.0, least=90)
    again.load_state_dict(constraint.state_dict())
    assert again.state_dict() == {"above": 0, "below": pytest.approx(1.0)}
    constraint.update(200)
    assert constraint.below.multiplier == 0 and float(constraint.below.term(torch.tensor(-0.05))) == 0


def test_the_constraint_keeps_the_expected_size_at_the_budget(tmp_path: Path) -> None:
    """Architecture steps alone, from far above the budget: the expected size comes down to it and not far below."""
    keys = {"epochs": 40, "steps": 3, "warmup": 0, "batch": 2, "architecture": {"lr": 0.05}}
    study, _, prepared = search_run(tmp_path, search=keys)
    setting = SETTING.__class__(2400, 8, 3, 40)
    search = small_search(study, prepared, setting)
    assert float(search.expected(search.architecture).detach()) > 1.1 * 2400
    for index in range(25):
        for step in range(3):
            search.architecture_step(index, step)
        search.constraint.update(float(search.expected(search.architecture).detach()))
    assert 0.85 * 2400 < float(search.expected(search.architecture).detach()) < 1.02 * 2400


def test_batch_dice_by_hand() -> None:
    masks = torch.tensor([[[0, 1], [1, 2]]])
    labels = torch.tensor([[[0, 1], [0, 2]]])
    assert batch_dice(labels, masks, 3) == pytest.approx((2 / 3 + 1) / 2)
    assert batch_dice(labels, masks, 4) == pytest.approx((2 / 3 + 1 + 1) / 3)
    holed = torch.where(labels != masks, IGNORED, masks)
    assert batch_dice(labels, holed, 3) == 1.0
    bits, truth = torch.tensor([[[3, 1, 0, 2]]]), torch.tensor([[[1, 3, IGNORED, 2]]])
    assert batch_dice(bits, truth, 2, overlapping=True) == pytest.approx((1 + 2 * 1 / 4) / 2)


def test_parameter_free_share_counts_cells() -> None:
    """Three levels, plain: two down cells all free, three up cells (head included) with half of the edges free."""
    down = Cell(((Edge(0, "max_pool"), Edge(1, "max_pool")),) * 2)
    up = Cell(((Edge(0, "identity"), Edge(1, "sep_conv_3")),) * 2)
    genotype = Genotype(down, up, (0,), 8, 3, 1, 2, "tiny", load_space("tiny").frame)
    assert parameter_free_share(genotype) == pytest.approx((2 * 1 + 3 * 0.5) / 5)
