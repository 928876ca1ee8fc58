"""`thrifty select`: Optuna over all searches together, under the parameter budget. The only module that imports optuna.

One Optuna parameter for each op would be nearly blind under a hard budget. So Optuna chooses what matters: which search to
trust, how much of the budget to use, which cell path, how far to stray from what was learnt; the exact decoder fills in edges
and ops. The decodings of the searches themselves are the first candidates. Scores with inherited weights rank poorly, so the
best few of each budget are trained for a short while before one of them is chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from thrifty.config import Select, Study
from thrifty.data.prepare import Prepared, prepare
from thrifty.errors import ThriftyError
from thrifty.evaluations import Candidate, Record, score_missing
from thrifty.finalists import write_outcome
from thrifty.manifest import only_driver
from thrifty.optuna_export import keep_study
from thrifty.results import Run, read_json, read_jsonl
from thrifty.settled import settled
from thrifty.space.cost import Costs
from thrifty.space.decode import decode
from thrifty.space.distribution import Distribution
from thrifty.space.genotype import CELL_TYPES, Genotype, from_json
from thrifty.space.path import levels_of
from thrifty.space.schema import run_space

if TYPE_CHECKING:
    import optuna

MEAN = "mean"  # the source that averages all searches
FREE = "free"  # the path is left to the decoder


@dataclass(frozen=True)
class Group:
    """One budget setting, with all searches of its width and levels, whatever their budget: each can score any candidate."""

    key: str
    budget: int
    costs: Costs
    distributions: dict[str, Distribution]  # by trial
    by_rule: dict[str, Genotype]  # by trial, what the source's rule has decoded searches without a limit to

    @property
    def trials(self) -> list[str]:
        return sorted(self.distributions)

    def paths(self) -> dict[str, tuple[int, ...]]:
        """The cell paths that fit the budget, by the name they have in Optuna."""
        return {self._name(path): path for path in self.costs.paths() if self.smallest(path) <= self.budget}

    def _name(self, path: tuple[int, ...]) -> str:
        """'1-0'; where the depth is searched 'd4-1-0', with the levels in front."""
        levels = [] if self.costs.depth == "fixed" else [f"d{levels_of(path)}"]
        return "-".join([*levels, *map(str, path)])

    def smallest(self, path: tuple[int, ...]) -> int:
        return self.costs.smallest_of_path(path)


def run_stage(study: Study, run: Run) -> None:
    """Scores candidates and writes select/evaluations.jsonl as it grows; trains the best ones of each budget for a short while;
    then writes a genotype for every budget and pareto.json.

    Budgets that were chosen for before keep their genotype, whatever has been added to the study since (`thrifty.settled`).
    An interrupted selection goes on where it stopped: Optuna is asked again in the same order, what has been scored is
    read from evaluations.jsonl, and short trainings that have a result are not repeated.

    Raises:
        ThriftyError: the searches are not finished, or short trainings failed.
    """
    wanted = {row["budget"] for row in read_jsonl(run.candidates) if "budget" in row}
    kept = settled(run)
    if run.pareto.is_file() and wanted <= kept.keys():
        return
    prepared = prepare(study, run)
    groups = [group for group in read_groups(study, run, prepared) if group.budget not in kept]
    with only_driver(run):
        record = Record(run)
        for group in groups:
            _search_group(study, run, group, record)
    write_outcome(study, run, record.rows, kept)


def read_groups(study: Study, run: Run, prepared: Prepared) -> list[Group]:
    """The finished searches by budget setting.

    Raises:
        ThriftyError: there is no candidates.jsonl, so the searches have not finished.
    """
    candidates = read_jsonl(run.candidates)
    if not candidates:
        raise ThriftyError(f"{run.root} has no finished searches; run `thrifty search` with the same study first")
    space, store = run_space(study, run), prepared.store
    learnt: dict[tuple[int, int], dict[str, Distribution]] = {}
    needed = ("trial", "budget", "width", "levels", "genotype_hash")
    if lacking := {key for row in candidates for key in needed if key not in row}:
        raise ThriftyError(f"{run.candidates} has rows without {', '.join(sorted(lacking))}; `thrifty search` writes it anew")
    for row in candidates:
        distribution = Distribution.from_json(space, read_json(run.search_trial(row["trial"]).distribution))
        learnt.setdefault((row["width"], row["levels"]), {})[row["trial"]] = distribution
    groups = []
    for budget, width, levels in sorted({(row["budget"], row["width"], row["levels"]) for row in candidates}):
        costs = Costs(space, width, levels, store.channels, store.classes, depth=study.search.depth)
        own = [row for row in candidates if (row["budget"], row["width"], row["levels"]) == (budget, width, levels)]
        groups.append(Group(f"b{budget}_w{width}_d{levels}", budget, costs, learnt[width, levels], _by_rule(study, own)))
    return groups


def _by_rule(study: Study, candidates: Sequence[dict[str, Any]]) -> dict[str, Genotype]:
    if study.search.decoding != "source":
        return {}
    return {row["trial"]: from_json(row["genotype"], study.allow_code) for row in candidates if not row.get("bounded", True)}


def make_sampler(settings: Select) -> optuna.samplers.BaseSampler:
    """The sampler with its arguments pinned: their defaults change between versions of Optuna."""
    import optuna

    if settings.sampler == "random":
        return optuna.samplers.RandomSampler(seed=settings.seed)
    if settings.sampler == "nsga2":
        return optuna.samplers.NSGAIISampler(population_size=16, crossover_prob=0.9, swapping_prob=0.5, seed=settings.seed)
    return optuna.samplers.TPESampler(n_startup_trials=8, n_ei_candidates=24, multivariate=True, group=False, seed=settings.seed)


def _search_group(study: Study, run: Run, group: Group, record: Record) -> None:
    """All candidates of one budget setting: first the decodings of its searches, then what Optuna samples."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sources = [*group.trials, MEAN]
    opt = optuna.create_study(directions=["maximize", "minimize"], sampler=make_sampler(study.select))
    first = list(group.by_rule) or sources
    for source in first:
        opt.enqueue_trial({"source": source, "size": 1.0, "stray": 0.0, "path": FREE})
    total = len(first) + study.select.samples
    for start in range(0, total, study.select.batch):
        trials = [opt.ask() for _ in range(min(study.select.batch, total - start))]
        genotypes = [propose(group, trial, sources, study.select.seed) for trial in trials]
        score_missing(study, run, record, [_candidate(group, *asked) for asked in zip(trials, genotypes, strict=True)])
        for trial, genotype in zip(trials, genotypes, strict=True):
            row = record.find(genotype)
            assert row is not None
            trial.set_user_attr("labelled", row["labelled"])
            trial.set_constraint("parameters", row["parameters"] - group.budget)
            opt.tell(trial, [row["score"], row["parameters"]])
    keep_study(run, group.key, opt, record.known)


def propose(group: Group, trial: optuna.trial.Trial, sources: Sequence[str], seed: int) -> Genotype:
    """The genotype of one Optuna trial; it never exceeds the budget. Its noise comes from (seed, trial number, budget)."""
    paths = group.paths()
    source = trial.suggest_categorical("source", list(sources))
    size = trial.suggest_float("size", 0.5, 1.0)
    stray = trial.suggest_float("stray", 0.0, 2.0)
    path = trial.suggest_categorical("path", [FREE, *paths])
    if (size, stray, path) == (1.0, 0.0, FREE) and source in group.by_rule:
        return group.by_rule[source]
    learnt = mean_distribution([group.distributions[t] for t in group.trials]) if source == MEAN else group.distributions[source]
    noisy = perturb(learnt, stray, np.random.default_rng([seed, trial.number, group.budget]))
    allowed = list(paths.values()) if path == FREE else [paths[path]]
    room = max(int(size * group.budget), min(group.smallest(p) for p in allowed))
    return decode(noisy, group.costs, room, allowed).genotype


def mean_distribution(distributions: Sequence[Distribution]) -> Distribution:
    """The mean of the log-probabilities (a product of experts); decoding does not need it normalised."""
    first = distributions[0]
    ops = {
        t: tuple(np.mean(np.stack(edge), axis=0) for edge in zip(*(d.ops[t] for d in distributions), strict=True))
        for t in CELL_TYPES
    }
    pairs = {
        t: tuple(np.mean(np.stack(node), axis=0) for node in zip(*(d.pairs[t] for d in distributions), strict=True))
        for t in CELL_TYPES
    }
    gates = tuple(np.mean(np.stack(gate), axis=0) for gate in zip(*(d.gates for d in distributions), strict=True))
    depths = [d.depth for d in distributions if d.depth is not None]
    return replace(first, ops=ops, pairs=pairs, gates=gates, depth=np.mean(np.stack(depths), axis=0) if depths else None)


def perturb(distribution: Distribution, stray: float, rng: np.random.Generator) -> Distribution:
    """Gumbel noise of scale `stray` on every choice: the decoding then is a sample around what was learnt
    (perturb-and-MAP, Papandreou 2011, sec. 3); with 0 it is the most likely genotype itself."""
    ops = {t: tuple(edge + stray * rng.gumbel(size=edge.shape) for edge in distribution.ops[t]) for t in CELL_TYPES}
    pairs = {t: tuple(node + stray * rng.gumbel(size=node.shape) for node in distribution.pairs[t]) for t in CELL_TYPES}
    gates = tuple(gate + stray * rng.logistic(size=gate.shape) for gate in distribution.gates)
    depth = distribution.depth
    if depth is not None:
        depth = depth + stray * rng.gumbel(size=depth.shape)
    return replace(distribution, ops=ops, pairs=pairs, gates=gates, depth=depth)


def _candidate(group: Group, trial: optuna.trial.Trial, genotype: Genotype) -> Candidate:
    return Candidate(group.key, trial.number, tuple(group.trials), dict(trial.params), genotype)
