"""Measured latency on the CPU: of a genotype before anything of it is trained, of all trained networks side by side."""

from __future__ import annotations

import hashlib
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from thrifty.config import Study
from thrifty.errors import ThriftyError
from thrifty.inference import evaluating, forward_padded
from thrifty.nets.build import NetworkSpec, build_network
from thrifty.nets.derived import DerivedNetwork
from thrifty.results import Run, read_json, read_jsonl, write_json, write_jsonl
from thrifty.space.genotype import Genotype, canonical, genotype_hash

SCHEMA = 1
RUNS = 9
WARM_UP = 3
ROUNDS, FEWEST_ROUNDS = 15, 3
PATIENCE_SECONDS = 60.0  # after which no further round begins, once there are FEWEST_ROUNDS
Clock = Callable[[], float]


def latency_ms(genotype: Genotype, patch: tuple[int, int], runs: int = RUNS) -> float:
    """Milliseconds of one image of `patch` pixels (height, width) through the built network, without gradients, as a
    prediction runs it: one CPU thread, median of several runs."""
    network = DerivedNetwork(genotype)
    network.to(memory_format=torch.channels_last)  # pyrefly: ignore[no-matching-overload]  # as build_network has it
    image = torch.zeros(1, genotype.channels, *patch)
    with pinned_threads(1), evaluating(network):
        seconds = [_seconds(network, image, time.perf_counter) for _ in range(WARM_UP + runs)]
    return 1e3 * statistics.median(seconds[WARM_UP:])


def latencies_ms(
    networks: Mapping[str, nn.Module], shape: tuple[int, int, int], rounds: int = ROUNDS, clock: Clock = time.perf_counter
) -> dict[str, list[float]]:
    """Milliseconds of one image of `shape` (channels, height, width) through every network, once a round, on one CPU thread.

    In each round every network has its turn, and the rounds change direction, so that what else the machine does falls on all
    of them alike. A first round warms up and is not counted. After PATIENCE_SECONDS there are no more rounds than FEWEST_ROUNDS.
    """
    image = torch.zeros(1, *shape)
    found: dict[str, list[float]] = {name: [] for name in networks}
    with pinned_threads(1):
        begun = clock()
        for number in range(rounds + 1):
            if number > FEWEST_ROUNDS and clock() - begun > PATIENCE_SECONDS:
                break
            for name in list(networks)[:: -1 if number % 2 else 1]:
                with evaluating(networks[name]):
                    found[name].append(1e3 * _seconds(networks[name], image, clock))
    return {name: values[1:] for name, values in found.items()}


def _seconds(network: nn.Module, image: torch.Tensor, clock: Clock) -> float:
    start = clock()
    forward_padded(network, image)
    return clock() - start


@contextmanager
def pinned_threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_latencies(study: Study, run: Run, specs: Mapping[str, NetworkSpec]) -> None:
    """Writes evaluate/latency.json: every network on one image of the training patch's size. What is there stays where it is of
    the same networks, size, processor and torch: side by side means all at once, so otherwise all are measured again."""
    shape = (next(iter(specs.values())).channels, *study.data.patch_size)
    conditions = {
        "image": [1, *shape],
        "threads": 1,
        "device": processor(),
        "torch": torch.__version__,
        "structures": {name: _structure(spec) for name, spec in specs.items()},
    }
    if _kept(run.network_latencies).get("conditions") == conditions:
        return
    networks = {name: build_network(spec) for name, spec in specs.items()}
    found = latencies_ms(networks, shape)
    rows = {name: _quartiles(values) for name, values in found.items()}
    write_json(run.network_latencies, {"schema": SCHEMA, "conditions": conditions, "networks": rows})


def kept_latencies(run: Run) -> dict[str, dict[str, Any]]:
    """By network, as summary.json has it: median, q1 and q3 in ms, rounds, image (height, width), threads, device. Empty where
    nothing was measured."""
    kept = _kept(run.network_latencies)
    if not kept:
        return {}
    where = kept["conditions"]
    told = {"image": where["image"][2:], "threads": where["threads"], "device": where["device"]}
    return {name: {**row, **told} for name, row in kept["networks"].items()}


def _kept(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = read_json(path)
    except ThriftyError:
        return {}
    return value if isinstance(value, dict) and value.get("schema") == SCHEMA else {}


def _quartiles(values: list[float]) -> dict[str, Any]:
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "q1": q1, "q3": q3, "rounds": len(values)}


def _structure(spec: NetworkSpec) -> str:
    """Of what decides over the speed: not its name, not its budget."""
    told = {key: value for key, value in spec.as_json().items() if key not in ("name", "budget")}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def processor() -> str:
    """The model of the CPU, as Linux tells it; elsewhere what Python knows. No name of a host."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models and models[0] else platform.processor() or platform.machine()


class Latencies:
    """select/latency.jsonl: what was measured, once for each network, so that a selection that goes on finds the same numbers."""

    def __init__(self, study: Study, run: Run) -> None:
        self.patch, self.path = study.data.patch_size, run.latencies
        self.rows = read_jsonl(self.path)
        self.known = {row["hash"]: row["latency_ms"] for row in self.rows}

    def __call__(self, genotype: Genotype) -> float:
        name = genotype_hash(genotype)
        if name not in self.known:
            self.known[name] = latency_ms(canonical(genotype), self.patch)
            self.rows.append({"hash": name, "latency_ms": self.known[name]})
            write_jsonl(self.path, self.rows)
        return self.known[name]
