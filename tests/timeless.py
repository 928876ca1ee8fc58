"""What is left of the files of a run without what the clock of the machine had a say in: equal for equal seeds."""

from __future__ import annotations

import re
from typing import Any

FOLLOWS_FROM_TIMES = {
    "cost",
    "latency_ms",
    "dice_per_hour",
    "draws",  # random networks that could be trained in the hours of a search
    "luck",
    "random_search",
}


def without_times(value: Any) -> Any:
    """`value` (what JSON can hold) without seconds, hours, the ledger and what follows from them."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if k not in FOLLOWS_FROM_TIMES and not re.search("seconds|hours", k)}
        return {key: without_times(inner) for key, inner in kept.items()}
    return [without_times(inner) for inner in value] if isinstance(value, list) else value
