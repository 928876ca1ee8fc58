"""Latencies side by side: who has a turn when, what is kept, and what makes a measurement void."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
from small_study import small_study
from torch import Tensor, nn

from thrifty import latency
from thrifty.latency import keep_latencies, kept_latencies, latencies_ms, processor
from thrifty.nets.build import NetworkSpec, baseline_spec
from thrifty.results import Run, read_json

STUDY = small_study()


class Slow(nn.Module):
    """Takes its seconds of a clock that is not the machine's, a second more each time."""

    stride = 1

    def __init__(self, name: str, seconds: float, calls: list[str], now: list[float]) -> None:
        super().__init__()
        self.name, self.seconds, self.calls, self.now = name, seconds, calls, now

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training and not torch.is_grad_enabled() and torch.get_num_threads() == 1
        self.calls.append(self.name)
        self.now[0] += self.seconds + 0.001 * self.calls.count(self.name)
        return images


def two(seconds: float) -> tuple[dict[str, Slow], list[str], list[float]]:
    calls, now = [], [0.0]
    return {"a": Slow("a", seconds, calls, now), "b": Slow("b", 2 * seconds, calls, now)}, calls, now


def test_all_networks_take_turns_and_the_first_round_does_not_count() -> None:
    networks, calls, now = two(0.01)
    found = latencies_ms(networks, (1, 8, 8), rounds=4, clock=lambda: now[0])
    assert "".join(calls) == "ab" "ba" "ab" "ba" "ab"  # fmt: skip
    assert found["a"] == pytest.approx([12, 13, 14, 15]) and found["b"] == pytest.approx([22, 23, 24, 25])


def test_large_networks_are_measured_in_few_rounds() -> None:
    networks, _, now = two(30.0)
    assert [len(values) for values in latencies_ms(networks, (1, 8, 8), clock=lambda: now[0]).values()] == [3, 3]


@pytest.fixture
def specs() -> dict[str, NetworkSpec]:
    return {"small": baseline_spec("scaled_unet", 1, 2, 3000), "large": baseline_spec("scaled_unet", 1, 2, 20_000)}


def test_what_nothing_has_changed_for_is_not_measured_again(
    tmp_path: Path, specs: dict[str, NetworkSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    times = []

    def fake(networks: dict[str, nn.Module], shape: tuple[int, int, int]) -> dict[str, list[float]]:
        times.append((list(networks), shape))
        return {name: [4.0, 1.0, 2.0, 3.0, 9.0] for name in networks}

    monkeypatch.setattr(latency, "latencies_ms", fake)
    run, one = Run(tmp_path), {"small": specs["small"]}
    keep_latencies(STUDY, run, specs)
    keep_latencies(STUDY, run, specs)
    assert times == [(["small", "large"], (1, 32, 32))]
    row = kept_latencies(run)["large"]
    assert row == {"median": 3, "q1": 2, "q3": 4, "rounds": 5, "image": [32, 32], "threads": 1, "device": processor()}
    keep_latencies(STUDY, run, one)
    assert len(times) == 2 and list(kept_latencies(run)) == ["small"]
    monkeypatch.setattr(latency, "processor", lambda: "another")
    keep_latencies(STUDY, run, one)
    keep_latencies(small_study(data={"patch": 64}), run, one)
    assert [shape for _, shape in times[2:]] == [(1, 32, 32), (1, 64, 64)]
    run.network_latencies.write_text("torn")
    assert kept_latencies(run) == {}
    keep_latencies(STUDY, run, one)
    assert len(times) == 5 and kept_latencies(Run(tmp_path / "none")) == {}


def test_a_larger_network_takes_longer_and_no_host_is_named(tmp_path: Path, specs: dict[str, NetworkSpec]) -> None:
    run = Run(tmp_path)
    specs["unet"] = baseline_spec("unet", 1, 2)
    keep_latencies(STUDY, run, specs)
    found = kept_latencies(run)
    assert 0 < found["small"]["q1"] <= found["small"]["median"] <= found["small"]["q3"]
    assert found["small"]["median"] < found["unet"]["median"], "3,000 against 7.76 million parameters"
    assert socket.gethostname() not in str(read_json(run.network_latencies))
