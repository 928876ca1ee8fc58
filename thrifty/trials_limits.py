"""Limits that a driver watches over: hours of the whole study, and trials that take much longer than others."""

from __future__ import annotations

from statistics import median
from typing import Any

from thrifty.config import Resources
from thrifty.console import format_seconds
from thrifty.ledger import spent_hours
from thrifty.manifest import Manifest
from thrifty.results import Run

GO_ON = "run the same command to go on"
STRAGGLES = 3.0  # times the median of the finished trials
LEAST_FINISHED = 3
LEAST_SECONDS = 60.0
NAMED = 5


class Limits:
    """What has been spent by all stages, with the trials of the running stage counted by its manifest as they run."""

    def __init__(self, run: Run, resources: Resources, manifest: Manifest) -> None:
        self.resources, self.manifest = resources, manifest
        cpu, gpu = spent_hours(run) if self._is_limited() else (0.0, 0.0)
        self.before = {"cpu": cpu - self._own("cpu"), "gpu": gpu - self._own("gpu")}
        self.named: set[str] = set()

    def _is_limited(self) -> bool:
        return self.resources.max_cpu_hours is not None or self.resources.max_gpu_hours is not None

    def _own(self, kind: str) -> float:
        return sum(row[f"{kind}_hours"] for row in self.manifest.rows.values())

    def exceeded(self) -> str | None:
        """Which limit of hours is used up, and what is missing."""
        for kind, limit in (("cpu", self.resources.max_cpu_hours), ("gpu", self.resources.max_gpu_hours)):
            spent = self.before[kind] + self._own(kind)
            if limit is not None and spent >= limit:
                return (
                    f"resources.max_{kind}_hours={limit:g} is used up ({spent:.3g} {kind.upper()}-hours of all stages so far): "
                    f"stopped; {self._missing()}; raise it and {GO_ON}"
                )
        return None

    def _missing(self) -> str:
        rows = list(self.manifest.rows.values())
        names = [row["name"] for row in rows if row["status"] not in ("done", "dropped")]
        more = f" (+{len(names) - NAMED} more)" if len(names) > NAMED else ""
        finished = sum(row["status"] == "done" for row in rows)
        done = f"{finished} of {len(rows)} trials of {self.manifest.stage} are done"
        return f"{done}, missing are {', '.join(names[:NAMED])}{more} and the stages after it"

    def stragglers(self) -> list[str]:
        """A line for each running trial that takes much longer than the finished ones did; each is named once."""
        finished = [row["seconds"] for row in self.manifest.rows.values() if row["status"] == "done" and row["seconds"]]
        if len(finished) < LEAST_FINISHED:
            return []
        usual = median(finished)
        late = [row for row in self.manifest.rows.values() if self._is_late(row, usual)]
        self.named |= {row["name"] for row in late}
        return [
            f"straggler: {row['name']} has run for {format_seconds(row['seconds'])}, the {len(finished)} finished trials took "
            f"{format_seconds(usual)} (median)"
            for row in late
        ]

    def _is_late(self, row: dict[str, Any], usual: float) -> bool:
        late = row["status"] == "running" and row["seconds"] > max(STRAGGLES * usual, LEAST_SECONDS)
        return late and row["name"] not in self.named
