"""How many candidates a second can be counted, and how many proposed? On one core, without data.

    python benchmarks/counting.py [--seconds 5]

Counting: parameters and MACs of a genotype by formula, and whether they keep both limits; genotypes of the space `thrifty` at
width 16 and four levels, none of them counted before. At least 5,000 a second are wanted. Proposing: an exact decoding of a
perturbed distribution under one limit, and under both. Seconds are those of this process, not of the clock.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]

from thrifty.proposals import Chosen, Group, History, propose  # noqa: E402
from thrifty.space.cost import Costs  # noqa: E402
from thrifty.space.distribution import uniform  # noqa: E402
from thrifty.space.limits import Limits  # noqa: E402
from thrifty.space.sample import random_genotype  # noqa: E402
from thrifty.space.schema import load_space  # noqa: E402

WANTED = 5_000
BUDGET, MACS, PATCH = 30_000, 50_000_000, (96, 96)


def rate(work: Callable[[int], object], seconds: float, most: int) -> float:
    """Calls a second, over so many seconds or calls."""
    start, done = time.process_time(), 0
    while done < most and time.process_time() - start < seconds:
        work(done)
        done += 1
    return done / (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    seconds = parser.parse_args().seconds
    space, rng = load_space("thrifty"), np.random.default_rng(0)
    genotypes = [random_genotype(space, 16, 4, 3, 2, rng) for _ in range(6_000)]
    both = Limits(BUDGET, MACS, PATCH)
    counted = rate(lambda k: both.excess(genotypes[k]), seconds, len(genotypes))
    print(f"counting: {counted:,.0f} candidates a second (parameters, MACs, feasibility); {WANTED:,} are wanted")
    for text, limits in (("parameters", Limits(BUDGET)), ("parameters and MACs", both)):
        group = Group(BUDGET, Costs(space, 16, 4, 3, 2), {"uniform": uniform(space, 4)}, limits=limits)
        history = History()
        chosen = Chosen(group.shape, "uniform", 1.0, 1.0, "free")
        assert group.smallest

        def decoded(k: int, group: Group = group, chosen: Chosen = chosen, history: History = history) -> None:
            propose(group, chosen, history, np.random.default_rng(k))

        print(f"proposing under {text}: {rate(decoded, seconds, 10_000):,.0f} candidates a second")
    if counted < WANTED:
        sys.exit(1)


if __name__ == "__main__":
    main()
