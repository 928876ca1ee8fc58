"""`thrifty select`: one Optuna study for each budget, over all its searches. optuna is imported here and in optuna_export.py.

Optuna chooses what matters (thrifty.proposals), the exact decoder fills in edges and ops. It starts from what the searches
decoded to, from decodings at several sizes and from the pool. Scores with inherited weights rank poorly, so the best few of each
budget are trained for a short while before one of them is chosen.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from thrifty.config import Select, Study
from thrifty.data.prepare import Prepared, prepare
from thrifty.errors import ThriftyError
from thrifty.evaluations import Candidate, Record, labelled_key, score_missing
from thrifty.finalists import write_outcome
from thrifty.manifest import only_driver
from thrifty.optuna_export import keep_study
from thrifty.pool import Pooled, gather_pool, write_pool
from thrifty.proposals import FREE, FRONT, MEAN, POOL, SCORES, Chosen, Group, History, propose
from thrifty.results import Run, read_json, read_jsonl
from thrifty.settled import settled
from thrifty.space.cost import Costs, count
from thrifty.space.distribution import Distribution
from thrifty.space.genotype import Genotype, from_json
from thrifty.space.limits import Limits
from thrifty.space.schema import run_space

if TYPE_CHECKING:
    import optuna

SIZES = (0.25, 0.5, 0.75)  # of the decodings that the study starts from, beside those at the whole budget


@dataclass(frozen=True)
class Asked:
    """One candidate of an Optuna study: the number of its trial, and what it was made from."""

    number: int
    group: Group
    chosen: Chosen
    genotype: Genotype


def run_stage(study: Study, run: Run) -> None:
    """Scores candidates and writes select/evaluations.jsonl as it grows; trains the best ones of each budget for a short while;
    then writes a genotype for every budget and pareto.json.

    Budgets that were chosen for before keep their genotype, whatever has been added to the study since (`thrifty.settled`).
    An interrupted selection goes on where it stopped: Optuna is asked again in the same order, what has been scored is
    read from evaluations.jsonl, and short trainings that have a result are not repeated.

    Raises:
        ThriftyError: the searches are not finished, no network keeps the limits, or short trainings failed.
    """
    wanted = {row["budget"] for row in read_jsonl(run.candidates) if "budget" in row}
    kept = settled(run)
    if run.pareto.is_file() and wanted <= kept.keys():
        return
    prepared = prepare(study, run)
    groups = [group for group in read_groups(study, run, prepared) if group.budget not in kept]
    with only_driver(run):
        record = Record(run)

        def score(asked: Sequence[Asked]) -> list[float]:
            score_missing(study, run, record, [_candidate(one) for one in asked])
            return [record.known[labelled_key(one.genotype)]["score"] for one in asked]

        for budget, of_budget in itertools.groupby(groups, key=lambda group: group.budget):
            keep_study(run, f"b{budget}", search_budget(study.select, list(of_budget), score), record.known)
    write_outcome(study, run, record.rows, kept)


def read_groups(study: Study, run: Run, prepared: Prepared) -> list[Group]:
    """The finished searches by budget and shape, the smallest budget first; writes the pool.

    Raises:
        ThriftyError: there is no candidates.jsonl, so the searches have not finished; or no network keeps the limits.
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
    pool = gather_pool(study, run)
    write_pool(run, pool)
    limits = limits_of(study, run)
    groups = []
    for budget, width, levels in sorted({(row["budget"], row["width"], row["levels"]) for row in candidates}):
        costs = Costs(space, width, levels, store.channels, store.classes, depth=study.search.depth)
        own = [row for row in candidates if (row["budget"], row["width"], row["levels"]) == (budget, width, levels)]
        trials = learnt[width, levels]
        of_shape = tuple(entry for entry in pool if any(origin.trial in trials for origin in entry.origins))
        within = replace(limits, parameters=budget)
        groups.append(Group(budget, costs, trials, _by_rule(study, own), of_shape, within))
    return _feasible(groups)


def limits_of(study: Study, run: Run) -> Limits:
    """The limits of a study on every candidate, but for the parameters."""
    from thrifty.latency import Latencies

    settings = study.select
    measure = None if settings.latency_ms is None else Latencies(study, run)
    return Limits(0, settings.macs, study.data.patch_size, settings.latency_ms, measure)


def _feasible(groups: Sequence[Group]) -> list[Group]:
    """Those with a network that keeps all limits.

    Raises:
        ThriftyError: a budget has none.
    """
    kept = [group for group in groups if group.smallest]
    for budget in sorted({group.budget for group in groups} - {group.budget for group in kept}):
        limits = next(group.within for group in groups if group.budget == budget)
        macs = [] if limits.macs is None else [f"select.macs={limits.macs:,}"]
        slow = [] if limits.latency_ms is None else [f"select.latency_ms={limits.latency_ms:g}"]
        raise ThriftyError(
            f"no network was found that has at most {budget:,} parameters and keeps {' and '.join(macs + slow)}; "
            "give a higher limit, or a smaller width to the searches"
        )
    return kept


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
    return optuna.samplers.TPESampler(
        n_startup_trials=8, n_ei_candidates=24, multivariate=True, group=False, constant_liar=True, seed=settings.seed
    )


def search_budget(
    settings: Select, groups: Sequence[Group], score: Callable[[Sequence[Asked]], Sequence[float]]
) -> optuna.study.Study:
    """All candidates of one budget. What is proposed depends on the settings, the groups and the scores alone.

    Args:
        groups: of one budget; each shape once.
        score: the scores of a batch of candidates; one that was scored before may come again.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    opt = optuna.create_study(directions=["maximize", "minimize"], sampler=make_sampler(settings))
    first = list(starts(groups, settings.pool))
    for params in first:
        opt.enqueue_trial(params)
    history, total = History(), len(first) + settings.samples
    for start in range(0, total, settings.batch):
        trials = [opt.ask() for _ in range(min(settings.batch, total - start))]
        asked = [_ask(groups, trial, history, settings.seed) for trial in trials]
        for trial, one, value in zip(trials, asked, score(asked), strict=True):
            for name, excess in one.group.within.excess(one.genotype).items():
                trial.set_constraint(name, excess)
            trial.set_user_attr("labelled", labelled_key(one.genotype))
            opt.tell(trial, [value, count(one.genotype)])
            history.add(one.group.shape, one.genotype, value)
    return opt


def starts(groups: Sequence[Group], pooled: int) -> Iterable[dict[str, Any]]:
    """Parameters of the first trials: what each search decoded to, their mean at several sizes, then the pool."""
    for group in groups:
        own = [k for k, trial in enumerate(group.trials) if trial in group.by_rule or not group.by_rule]
        for source in (_search(k) for k in own):
            yield _params(groups, group, source)
        for size in () if group.by_rule else (1.0, *SIZES):  # what the source's rule decodes stands for itself
            yield _params(groups, group, MEAN, size)
    free = [group for group in groups if not group.by_rule]
    ranked = sorted({entry.hash: entry for group in free for entry in group.pool}.values(), key=Pooled.rank)
    fitting = (g for entry in ranked for g in free if entry in g.pool and g.within.keep(entry.genotype))
    for group in itertools.islice(fitting, pooled):
        yield _params(groups, group, POOL)


def _params(groups: Sequence[Group], group: Group, source: str, size: float = 1.0) -> dict[str, Any]:
    return {"shape": group.shape, "source": source, "size": size, "stray": 0.0, _path(groups, group): FREE}


def _path(groups: Sequence[Group], group: Group) -> str:
    """What the choice of the cell path is called: shapes with other paths have one of their own."""
    return "path" if all(set(other.paths()) == set(group.paths()) for other in groups) else f"path_{group.shape}"


def _search(number: int) -> str:
    """What a search is called in the study: its number among those of the shape, so that shapes have the same sources."""
    return f"search_{number}"


def _ask(groups: Sequence[Group], trial: optuna.trial.Trial, history: History, seed: int) -> Asked:
    """The candidate of one Optuna trial. Its noise comes from (seed, trial number, budget)."""
    by_shape = {group.shape: group for group in groups}
    group = by_shape[trial.suggest_categorical("shape", list(by_shape))]
    searches = [_search(k) for k in range(max(len(g.trials) for g in groups))]
    source = trial.suggest_categorical("source", [*searches, MEAN, SCORES, FRONT, POOL])
    if source in searches:
        source = group.trials[searches.index(source) % len(group.trials)]
    size = trial.suggest_float("size", 0.0, 1.0)
    stray = trial.suggest_float("stray", 0.0, 1.0)
    path = trial.suggest_categorical(_path(groups, group), [FREE, *group.paths()])
    chosen = Chosen(group.shape, source, size, stray, path)
    rng = np.random.default_rng([seed, trial.number, group.budget])
    return Asked(trial.number, group, chosen, propose(group, chosen, history, rng))


def _candidate(asked: Asked) -> Candidate:
    group = asked.group
    return Candidate(group.key, asked.number, tuple(group.trials), asked.chosen.as_json(), asked.genotype)
