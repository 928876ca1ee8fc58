"""Measured latency of a genotype's network on one CPU thread, before anything of it is trained."""

from __future__ import annotations

import statistics
import time

import torch

from thrifty.config import Study
from thrifty.inference import evaluating, forward_padded
from thrifty.nets.derived import DerivedNetwork
from thrifty.results import Run, read_jsonl, write_jsonl
from thrifty.space.genotype import Genotype, canonical, genotype_hash

RUNS = 9
WARM_UP = 3


def latency_ms(genotype: Genotype, patch: tuple[int, int], runs: int = RUNS) -> float:
    """Milliseconds of one image of `patch` pixels (height, width) through the built network, without gradients: one CPU thread,
    median of several runs."""
    threads = torch.get_num_threads()
    network = DerivedNetwork(genotype)
    network.to(memory_format=torch.channels_last)  # pyrefly: ignore[no-matching-overload]
    image = torch.zeros(1, genotype.channels, *patch).to(memory_format=torch.channels_last)
    seconds = []
    torch.set_num_threads(1)
    try:
        with evaluating(network):
            for _ in range(WARM_UP + runs):
                start = time.perf_counter()
                forward_padded(network, image)
                seconds.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return 1e3 * statistics.median(seconds[WARM_UP:])


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
