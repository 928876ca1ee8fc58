"""What is left of the files of a run without what the clock of the machine had a say in: equal for equal seeds."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

FOLLOWS_FROM_TIMES = {
    "cost",
    "latency_ms",
    "dice_per_hour",
    "draws",  # random networks that could be trained in the hours of a search
    "luck",
    "random_search",
}


def without_times(value: Any, also: Collection[str] = ()) -> Any:
    """`value` (what JSON can hold) without seconds, hours, the ledger and what follows from them; and without the keys `also`."""
    if isinstance(value, dict):
        kept = {
            k: v for k, v in value.items() if k not in FOLLOWS_FROM_TIMES and k not in also and not re.search("seconds|hours", k)
        }
        return {key: without_times(inner, also) for key, inner in kept.items()}
    return [without_times(inner, also) for inner in value] if isinstance(value, list) else value
