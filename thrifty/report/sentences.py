"""The verdict in three plain sentences: is it good, is it stable, or was it luck? They say what the intervals allow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from thrifty.report.verdict import Comparison, signed_points

Row = Mapping[str, Any]
SIGNIFICANT = 0.05
GOOD, STABLE, LUCK = "**Is it good?**", "**Is it stable?**", "**Was it luck?**"
ORDER = ("better", "no worse by more than 0.5 points", "undecided", "worse, but by no more than 0.5 points", "worse")


def three_sentences(
    networks: Sequence[Row], comparisons: Sequence[Comparison], statistics: Row | None, stability: Row | None
) -> list[str]:
    """One sentence for each question, over all found networks. Random genotypes are left to the third.

    Args:
        networks, statistics, stability: of summary.json; None where it lacks them.
        comparisons: of the found networks with all others.
    """
    found = [network for network in networks if network["name"].startswith("found_")]
    if not found:
        missing = "No found network" if networks else "No network"
        reason = f"{missing} is evaluated yet, so there is no verdict"
        return [f"{GOOD} {reason}: `thrifty evaluate` comes before it.", f"{STABLE} {reason}.", f"{LUCK} {reason}."]
    names = ["the found network", *["that"] * (len(found) - 1)]
    good = [_good(head, network, comparisons) for head, network in zip(names, found, strict=True)]
    luck = [_luck(head, network, comparisons, statistics) for head, network in zip(names, found, strict=True)]
    return [
        f"{GOOD} {_upper('; '.join(good))}{_improving(networks)}.",
        f"{STABLE} {'; '.join([*_spread(found), *_over_searches(statistics), _searches(stability)])}.",
        f"{LUCK} {_upper('; '.join(luck))}.",
    ]


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _good(name: str, network: Row, comparisons: Sequence[Comparison]) -> str:
    mine = [c for c in comparisons if c.found == network["name"] and c.above is None]
    head = f"{name} of {network['parameters']:,} parameters (Dice {network['dice']['mean']:.4f})"
    if not mine:
        return f"{head} has no baseline to be compared with yet"
    groups = {(verdict, doubt): [] for verdict in ORDER for doubt in ("", *DOUBTS.values())}
    for comparison in mine:
        groups[comparison.verdict, _doubt(comparison)].append(_rival(comparison.against))
    return f"{head} is {_listed([_verdict(*key, names) for key, names in groups.items() if names])}"


DOUBTS = {False: "other seeds may undo that", None: "as far as single seeds tell"}


def _doubt(comparison: Comparison) -> str:
    """What the interval, which is over patients, does not know."""
    if comparison.verdict == "undecided" or comparison.beyond_seeds:
        return ""
    return DOUBTS[comparison.beyond_seeds]


def _verdict(verdict: str, doubt: str, names: Sequence[str]) -> str:
    word, _, rest = verdict.partition(", ")
    text = f"{word} {'against' if verdict == 'undecided' else 'than'} {_listed(names)}{', ' + rest if rest else ''}"
    return f"{text} ({doubt})" if doubt else text


def _rival(name: str) -> str:
    return "the U-Net scaled to its budget" if name.startswith("scaled_unet_") else {"unet": "U-Net", "unetpp": "UNet++"}[name]


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _improving(networks: Sequence[Row]) -> str:
    number = sum(bool(network["still_improving"]) for network in networks)
    if not number:
        return ""
    return f"; {number} of {len(networks)} networks were still improving when training ended, and longer training may change this"


def _spread(found: Sequence[Row]) -> list[str]:
    known = [network for network in found if network["dice"]["sd_seeds"] is not None]
    single = [f"{network['parameters']:,}" for network in found if network not in known]
    parts = [_varies(network) for network in known]
    text = [f"Over retraining seeds the Dice of the found network varies (sd) by {_listed(parts)}"] if parts else []
    text += [f"One seed at {_listed(single)} parameters says nothing about others"] if single else []
    return text


def _over_searches(statistics: Row | None) -> list[str]:
    rows = (statistics or {}).get("searches", ())
    known = [row for row in rows if row["decoded"]["sd"] is not None]
    parts = [
        f"{100 * row['decoded']['sd']:.2f} points for the budget {row['budget']:,}{_setting(row, rows)} "
        f"({row['decoded']['number']} seeds)"
        for row in known
    ]
    return [f"over search seeds that of what each search decoded varies by {_listed(parts)}"] if parts else []


def _setting(row: Row, rows: Sequence[Row]) -> str:
    """Named where there are several for the same budget."""
    return f", setting {row['setting']}" if sum(other["budget"] == row["budget"] for other in rows) > 1 else ""


def _varies(network: Row) -> str:
    dice = network["dice"]
    seeds = f"{len(dice['per_seed'])} seeds"
    return f"{100 * dice['sd_seeds']:.2f} points at {network['parameters']:,} parameters ({seeds})"


def _searches(stability: Row | None) -> str:
    if not stability or not stability["settings"]:
        return "the summary says nothing on how well searches agree"
    return "the searches " + _listed([_agreement(row) for row in stability["settings"]])


def _agreement(row: Row) -> str:
    searches, collapsed = len(row["seeds"]), len(row["collapsed"])
    end = f"{searches} for the budget {row['budget']:,}{f', of which {collapsed} collapsed' if collapsed else ''}"
    p = row["agreement"]["distance"]["chance"]["p"] if row["agreement"] else None
    if p is None:
        return f"cannot be compared with chance ({end})"
    more = "agree more than random genotypes do" if p < SIGNIFICANT else "are not shown to agree more than random genotypes do"
    return f"{more} (p {p:.3f}, {end})"


def _luck(name: str, network: Row, comparisons: Sequence[Comparison], statistics: Row | None) -> str:
    head = f"{name} of {network['parameters']:,} parameters"
    against = [c for c in comparisons if c.found == network["name"] and c.against.startswith("random_")]
    if not against:
        return f"{head} has no random genotypes of its size beside it, so luck cannot be judged"
    (comparison,) = against
    below, number = comparison.above or (0, 0)
    rival = f"the mean of {number} random genotypes of its size" if number > 1 else "the one random genotype of its size"
    place = f", above {below} of them" if number > 1 else ""
    text = f"{head} is {_verdict(comparison.verdict, _doubt(comparison), [rival])}{place}"
    if not statistics:
        return f"{text}; the summary has no statistics that say more"
    parts = [text]
    rows = statistics.get("searches", ())
    parts += [_search_seeds(row, rows) for row in rows if row["budget"] == comparison.budget and row["ci95"]]
    parts += [_probability(row) for row in statistics["luck"] if row["found"] == network["name"]]
    return "; ".join(parts)


def _search_seeds(row: Row, rows: Sequence[Row]) -> str:
    low, high = row["ci95"]
    word = "better than" if low > 0 else "worse than" if high < 0 else "undecided against"
    span = f"{signed_points(row['difference'])} points, 95 % interval {signed_points(low)} to {signed_points(high)}"
    setting = _setting(row, rows).replace(", setting", " of the setting")
    return f"what {row['decoded']['number']} searches{setting} decoded by themselves is {word} random genotypes ({span})"


def _probability(row: Row) -> str:
    if row["probability"] is None:
        few = "one is" if row["random"] == 1 else f"{row['random']} are"
        return f"{few} too few to say how likely a random search of equal cost does as well"
    low, high = row["ci95"]
    number = f"{row['probability']:.2f}, 95 % interval {low:.2f} to {high:.2f}"
    chance = f"a random search of equal cost does at least as well ({number})"
    if high < SIGNIFICANT:
        return f"it is unlikely that {chance}"
    return f"it is more likely than not that {chance}" if low > 0.5 else f"it is not ruled out that {chance}"
