"""Out of memory, losses that are not finite, damaged checkpoints: what a training does, against one that was made by hand."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from crafted import Bomb
from small_search import SETTING, arguments, search_run
from small_study import BUDGET, small_run, small_study
from torch import Tensor, nn

from thrifty import checkpoint, retrain
from thrifty.errors import ThriftyError
from thrifty.losses import dice_ce
from thrifty.nets.derived import DerivedNetwork
from thrifty.networks import trial_arguments
from thrifty.results import Trial, read_jsonl
from thrifty.search.trial import search_trial
from thrifty.setbacks import Easing, NotFinite, OnePiece, backward, check_finite, is_out_of_memory
from thrifty.train import run_epochs, seed_everything

CPU_MEMORY = (
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
)
Fault = Callable[[int, Easing], None]


class Walk:
    """A trainee whose state depends on every epoch, on the easing and on the random numbers drawn; `fault` may end an epoch."""

    def __init__(self, fault: Fault = lambda index, easing: None) -> None:
        self.value, self.fault, self.easing = torch.zeros(3), fault, Easing()

    def epoch(self, index: int) -> dict[str, Any]:
        self.value = self.value * 1.5 + torch.rand(3) * self.easing.rate_factor  # spoilt before the fault shows, as in a step
        self.fault(index, self.easing)
        return {"sum": float(self.value.sum())}

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state["value"]


class Stopped(Exception):
    pass


def walk(
    trial: Trial, fault: Fault = lambda index, easing: None, stop: int | None = None, epochs: int = 5
) -> list[dict[str, Any]]:
    """The record of a walk without the seconds; `stop`: the epoch after which it is stopped and taken up by another process."""

    def report(row: dict[str, Any]) -> None:
        if row["epoch"] == stop:
            raise Stopped

    seed_everything(0, 1)
    if stop is not None:
        with pytest.raises(Stopped):
            run_epochs(Walk(fault), epochs, trial, report)
        seed_everything(99, 1)
    record = run_epochs(Walk(fault), epochs, trial, lambda row: None)
    assert record == read_jsonl(trial.record)
    return [{k: v for k, v in row.items() if k != "seconds"} for row in record]


def by_hand(rates: list[float]) -> list[float]:
    torch.manual_seed(0)
    value, sums = torch.zeros(3), []
    for rate in rates:
        value = value * 1.5 + torch.rand(3) * rate
        sums.append(float(value.sum()))
    return sums


def not_finite_above(rate: float) -> Fault:
    def fault(index: int, easing: Easing) -> None:
        if index == 2 and easing.rate_factor > rate:
            raise NotFinite("the loss became nan; lower the rate")

    return fault


@pytest.mark.parametrize("stop", [None, 0, 1, 2, 3])
def test_a_loss_that_is_not_finite_goes_back_and_lowers_the_rate(tmp_path: Path, stop: int | None) -> None:
    record = walk(Trial(tmp_path), not_finite_above(0.25), stop)
    assert [row["sum"] for row in record] == by_hand([1, 1, 0.25, 0.25, 0.25]), "nothing of the attempts that failed is left"
    assert [row.get("rate_factor") for row in record] == [None, None, 0.25, 0.25, 0.25]
    assert [row.get("setbacks") for row in record if row["epoch"] != 2] == [None] * 4
    assert record[2]["setbacks"] == [
        f"the loss was not finite in epoch 2: back to the last good epoch, learning rates times {rate}"
        for rate in ("0.5", "0.25")
    ]


def test_a_loss_that_stays_not_finite_is_given_up_clearly(tmp_path: Path) -> None:
    with pytest.raises(ThriftyError) as caught:
        walk(Trial(tmp_path), not_finite_above(0))
    assert str(caught.value) == (
        "the loss became nan; lower the rate (learning rates down to 1/8 from the last good epoch did not help)"
    )
    assert len(read_jsonl(tmp_path / "epochs.jsonl")) == 2 and (tmp_path / "checkpoint.pt").is_file(), "what was good is kept"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError(CPU_MEMORY)])
def test_out_of_memory_halves_what_goes_through_at_once(tmp_path: Path, error: RuntimeError) -> None:
    def fault(index: int, easing: Easing) -> None:
        if index >= 1 and easing.pieces < 4:
            raise error

    record = walk(Trial(tmp_path), fault)
    assert [row["sum"] for row in record] == by_hand([1] * 5)
    assert [row.get("pieces") for row in record] == [None, 4, 4, 4, 4]
    assert [len(row.get("setbacks", ())) for row in record] == [0, 2, 0, 0, 0] and "out of memory in epoch 1" in record[1][
        "setbacks"
    ][0]


def test_other_errors_are_no_setbacks(tmp_path: Path) -> None:
    def fault(index: int, easing: Easing) -> None:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        walk(Trial(tmp_path), fault)
    assert not is_out_of_memory(MemoryError()) and not is_out_of_memory(ValueError(CPU_MEMORY))


def test_a_spoilt_weight_is_found() -> None:
    check_finite([torch.ones(2), torch.zeros(1)], "")
    for value in (float("nan"), float("inf")):
        with pytest.raises(NotFinite, match="after epoch 7"):
            check_finite([torch.ones(2), torch.tensor([0.0, value])], "after epoch 7")


# pieces


def gradients(network: nn.Module, images: Tensor, masks: Tensor, pieces: int) -> tuple[Tensor, list[Tensor]]:
    """Of Dice + cross-entropy of the batch, with a term that depends on the weights alone."""
    network.zero_grad(set_to_none=True)
    weights = list(network.parameters())

    def loss_of(logits: Tensor) -> Tensor:
        return dice_ce(logits, masks) + sum((w**2).sum() for w in weights)

    loss = backward(network, network, images, loss_of, pieces)
    return loss, [w.grad.clone() for w in weights if w.grad is not None]


@pytest.mark.parametrize("pieces", [2, 3, 4, 7])
def test_pieces_have_the_gradients_of_the_whole_batch(pieces: int) -> None:
    """Seven images; Dice over the batch is no mean over images, so sums over pieces of a loss would be something else."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 6, 3), nn.GroupNorm(2, 6), nn.ReLU(), nn.Conv2d(6, 3, 1)).double()
    images, masks = torch.randn(7, 1, 9, 9, dtype=torch.float64), torch.randint(0, 3, (7, 7, 7))
    masks[0] = 0
    whole, parts = gradients(network, images, masks, 1), gradients(network, images, masks, pieces)
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-14)
    assert len(whole[1]) == 6
    with pytest.raises(OnePiece, match=r"one image at a time \(batch of 7\)"):
        gradients(network, images, masks, 8)


def test_batch_normalisation_sees_each_piece_once() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3, momentum=0.1))
    images, masks = torch.randn(4, 1, 9, 9), torch.randint(0, 3, (4, 7, 7))
    with torch.no_grad():
        expected = torch.zeros(3)
        for part in images.split(2):
            expected = 0.9 * expected + 0.1 * network[0](part).mean((0, 2, 3))
    gradients(network, images, masks, 2)
    torch.testing.assert_close(network[1].running_mean, expected)


def test_a_training_out_of_memory_trains_on_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than two images at once are too much from its fourth pass on; with four as the batch."""
    study = small_study({"batch": 4, "seeds": 1})
    run = small_run(tmp_path, study)
    key, sizes, forward = (f"found_{BUDGET}", 0, None), [], DerivedNetwork.forward

    def limited(self: DerivedNetwork, images: Tensor) -> Tensor:
        if self.training:
            sizes.append(len(images))
            if len(images) > 2 and len(sizes) > 3:
                raise RuntimeError(CPU_MEMORY)
        return forward(self, images)

    monkeypatch.setattr(DerivedNetwork, "forward", limited)
    trial = run.retrain_trial(*key)
    retrain.retrain_trial(trial_arguments(study, run, key), trial, lambda row: None)
    record = read_jsonl(trial.record)
    assert trial.done and [row.get("pieces") for row in record] == [None, 2, 2]
    assert sizes == [4, 4, 4, 4] + 4 * [2, 2, 2, 2], "the second epoch is begun again; each piece once without a graph, once with"


def test_a_search_out_of_memory_searches_on_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images at once are too much for a step from the second epoch on: the pieces are one image each.

    A batch of three is two images for one sampled network and one for another.
    """
    from thrifty.search import parts

    _, run, _ = search_run(tmp_path, search={"epochs": 3, "steps": 2, "warmup": 1, "batch": 3, "samples": 2})
    steps: list[tuple[int, int]] = []

    def limited(network: nn.Module, forward: Callable, images: Tensor, loss_of: Callable, pieces: int, *more: Any) -> Tensor:
        steps.append((len(images), pieces))
        if len(images) > pieces and len(steps) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return backward(network, forward, images, loss_of, pieces, *more)

    monkeypatch.setattr(parts, "backward", limited)
    trial = run.search_trial("t")
    search_trial(arguments(run, 0, SETTING), trial, lambda row: None)
    record = read_jsonl(trial.record)
    assert trial.done and [row.get("pieces") for row in record] == [None, 2, 2]
    assert steps == 2 * [(2, 1), (1, 1)] + [(2, 1)] + 8 * [(2, 2), (1, 1)]
    assert all(row["loss_weights"] > 0 for row in record)


# checkpoints


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    kind, _, where = how.partition(" ")
    place = int(float(where) * (len(data) - 1))
    if kind == "cut":
        data = data[:place]
    else:
        data[place] ^= 1 << (place % 8)
    path.write_bytes(bytes(data))


HOW = [f"{kind} {where}" for kind in ("cut", "flip") for where in (0, 0.1, 0.5, 0.97, 0.99, 1)]


@pytest.mark.parametrize("how", HOW)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path, how: str) -> None:
    whole, trial = walk(Trial(tmp_path / "whole")), Trial(tmp_path / "trial")
    walk(trial, epochs=3)
    damage(trial.checkpoint, how)
    record = walk(trial)
    assert [row["sum"] for row in record] == [row["sum"] for row in whole]
    (note,) = record[2]["setbacks"]
    assert note.startswith("checkpoint.pt is damaged: ") and note.endswith("; goes on after 2 epochs")
    assert not any("setbacks" in row for row in record if row["epoch"] != 2)


def test_two_damaged_checkpoints_are_a_training_anew(tmp_path: Path) -> None:
    whole, trial = walk(Trial(tmp_path / "whole")), Trial(tmp_path / "trial")
    walk(trial, epochs=3)
    damage(trial.checkpoint, "flip 0.5")
    damage(trial.checkpoint_before, "cut 0.5")
    record = walk(trial)
    assert [row["sum"] for row in record] == [row["sum"] for row in whole]
    assert record[0]["setbacks"][0].count("is damaged") == 2 and "goes on after 0 epochs" in record[0]["setbacks"][0]


def test_a_kill_between_the_two_renames_costs_nothing(tmp_path: Path) -> None:
    trial = Trial(tmp_path)
    walk(trial, epochs=3)
    os.replace(trial.checkpoint, trial.checkpoint_before)
    assert [row["sum"] for row in walk(trial)] == by_hand([1] * 5)


@pytest.mark.parametrize("form", ["pickle", "torch"])
def test_a_crafted_checkpoint_executes_nothing(tmp_path: Path, form: str) -> None:
    """Sealed with the right hash, as an attacker could."""
    trial, bomb = Trial(tmp_path), Bomb(tmp_path / "executed")
    content = checkpoint.encode({"trainee": {}, "record": [], "random": {}})
    if form == "torch":
        torch.save({"trainee": bomb}, tmp_path / "bomb.pt")
        body = (tmp_path / "bomb.pt").read_bytes()
    else:
        body = pickle.dumps(bomb)
    seal = f"\nthrifty checkpoint 1 {len(body)} {hashlib.sha256(body).hexdigest()}\n".encode()
    trial.checkpoint.write_bytes(body + seal)
    record = walk(trial)
    assert not (tmp_path / "executed").exists() and "without running code in it" in record[0]["setbacks"][0]
    assert checkpoint.decode(content)["record"] == []
    pickle.loads(pickle.dumps(bomb))
    assert (tmp_path / "executed").exists(), "it would have been a bomb"


def test_an_older_and_a_newer_checkpoint_are_refused_by_name(tmp_path: Path) -> None:
    torch.save({"trainee": {}}, tmp_path / "old.pt")
    with pytest.raises(ThriftyError, match="written by an older version"):
        checkpoint.decode((tmp_path / "old.pt").read_bytes())
    newer = checkpoint.encode({}).replace(b"thrifty checkpoint 1", b"thrifty checkpoint 9")
    with pytest.raises(ThriftyError, match="it has schema 9, this version reads 1"):
        checkpoint.decode(newer)


@pytest.mark.parametrize(("keep", "left"), [("best", []), ("last", ["checkpoint.pt"]), ("all", ["checkpoint.pt", "checkpoints"])])
def test_checkpoints_that_stay(tmp_path: Path, keep: Any, left: list[str]) -> None:
    trial = Trial(tmp_path, keep)
    record = walk(trial)
    trial.drop_checkpoints()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "epochs.jsonl") == left
    if keep == "all":
        kept = [checkpoint.decode(trial.checkpoint_of(epoch).read_bytes()) for epoch in range(5)]
        assert [float(one["trainee"]["value"].sum()) for one in kept] == [row["sum"] for row in record]
        assert len(list((tmp_path / "checkpoints").iterdir())) == 5
