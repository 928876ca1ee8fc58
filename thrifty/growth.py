"""What may be added to a study that has begun: seeds, budgets, baselines, random genotypes. Nothing is done again for it.

Studies are compared as the mappings that run.yaml holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Keys that may change between two runs of one study: they change where it runs, or what more is measured of trained networks.
MEASURED = ("robustness", "corruption_cases", "surface_tolerance", "transfer", "nnunet")
FREE_KEYS = frozenset({"resources", *(f"evaluate.{key}" for key in MEASURED)})
GROWING = (
    "seeds", "budgets", "search.halving.reference", "retrain.seeds", "retrain.random", "retrain.decoded", "retrain.baselines",
)  # fmt: skip
SWITCHES = {"search.scheduler": ("halving", "none")}  # what is switched so only makes more to be done
Values = Mapping[str, Any]


def differences(old: Values, new: Values) -> list[str]:
    """What makes `new` another study than `old`; more of what may grow does not."""
    found = []
    for key in GROWING:
        if lost := [member for member in _members(key, old) if member not in _members(key, new)]:
            found.append(
                f"{key} was {_value(old, key)!r}, now {_value(new, key)!r}; it may only grow ({_words(lost)} would be lost)"
            )
    return _differences(old, new) + found


def added(old: Values, new: Values) -> list[str]:
    """In words, what a study grows by: '2 seeds: 3, 4'."""
    more = {key: [member for member in _members(key, new) if member not in _members(key, old)] for key in GROWING}
    switched = [key for key, change in SWITCHES.items() if (_value(old, key), _value(new, key)) == change]
    words = [f"{key} from {_value(old, key)} to {_value(new, key)}" for key in switched]
    return [key if members == [key] else f"{key} by {_words(members)}" for key, members in more.items() if members] + words


def _differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = [k for k in {**old, **new} if f"{prefix}{k}" not in FREE_KEYS and f"{prefix}{k}" not in GROWING]
        return [d for k in keys for d in _differences(old.get(k), new.get(k), f"{prefix}{k}.")]
    key = prefix.rstrip(".")
    return [] if old == new or SWITCHES.get(key) == (old, new) else [f"{key} was {old!r}, now {new!r}"]


def _value(values: Values, key: str) -> Any:
    here: Any = values
    for part in key.split("."):
        here = here.get(part) if isinstance(here, Mapping) else None
    return here


def _members(key: str, values: Values) -> list[Any]:
    """A number n of seeds or of random genotypes stands for 0 .. n-1; what is switched on has itself."""
    value = _value(values, key)
    if isinstance(value, bool):
        return [key] if value else []
    if isinstance(value, int):
        return list(range(value))
    return list(value) if isinstance(value, (list, tuple)) else []


def _words(members: list[Any]) -> str:
    return ", ".join(_budget(m) if isinstance(m, Mapping) else str(m) for m in members)


def _budget(budget: Values) -> str:
    return "{" + ", ".join(f"{key}: {value}" for key, value in budget.items() if value is not None) + "}"
