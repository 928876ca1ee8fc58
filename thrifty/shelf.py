"""The shipped spaces and studies: finding, listing, showing and copying them; and genotype files, shown."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from thrifty.config import Study, read_study, read_yaml, results_folder
from thrifty.errors import ThriftyError, nearest, one_line
from thrifty.results import Run, check_run, growth_of, open_run, remove, write_text

if TYPE_CHECKING:
    from thrifty.space.genotype import Genotype

KINDS = {"tune_runs": "study", "search_spaces": "space"}


def find_study(name_or_path: str) -> Path:
    """
    Raises:
        ThriftyError: neither a file nor the name of a shipped study.
    """
    from thrifty.space.schema import shipped

    path = Path(name_or_path).expanduser()
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return path
    known = shipped("tune_runs")
    if name_or_path not in known:
        hint = nearest(name_or_path, known)
        raise ThriftyError(f"there is no study '{name_or_path}'{hint} (shipped: {', '.join(known)}; or give a .yaml file)")
    return known[name_or_path]


def resolve_study(name_or_path: str, overrides: Iterable[str]) -> Study:
    return read_study(find_study(name_or_path), overrides)


@contextlib.contextmanager
def opened(study: Study) -> Iterator[Run]:
    """The run folder of a study, with run.yaml, space.yaml and env.json written.

    An error of the input inside the `with` takes back a run that began here: the corrected study would be another one, which
    its folder refuses. An interrupt leaves it.

    Raises:
        ThriftyError: mistakes in the study's space; a run folder of another study.
    """
    from thrifty.environment import write_environment
    from thrifty.space.schema import load_space, pin_space

    load_space(study.space, study.allow_code)  # its mistakes are told before anything is written
    root = results_folder(study.name)
    check_run(root, study)
    if growth_of(root, study):
        with _grown(root, study) as run:
            yield run
        return
    is_new = not (root / "run.yaml").is_file()
    made = [folder for folder in (root, *root.parents) if not folder.exists()]
    try:
        run = open_run(root, study)
        pin_space(study, run)
        write_environment(run)
        yield run
    except ThriftyError:
        if is_new:
            _take_back(Run(root), made)
        raise


@contextlib.contextmanager
def _grown(root: Path, study: Study) -> Iterator[Run]:
    """A run folder that takes up more seeds, budgets or baselines; an error of the input inside the `with` takes that back.

    Raises:
        ThriftyError: another process works on this run.
    """
    from thrifty.environment import write_environment
    from thrifty.manifest import only_driver

    run = Run(root)
    before = run.study.read_text(encoding="utf-8")
    with only_driver(run):
        print(f"the study grows: {'; '.join(growth_of(root, study))}", flush=True)
        open_run(root, study)
    try:
        write_environment(run)
        yield run
    except ThriftyError:
        write_text(run.study, before)
        raise


def _take_back(run: Run, made: Iterable[Path]) -> None:
    """Removes what is written before the first trial, then the folders of `made`, deepest first, as far as they are empty."""
    for path in (run.study, run.space, run.environment, run.splits):
        remove(path)
    shutil.rmtree(run.data, ignore_errors=True)
    with contextlib.suppress(OSError):  # not empty: someone else uses it
        for folder in made:
            folder.rmdir()


def listing() -> str:
    """The shipped files, each with the first sentence about it."""
    from thrifty.space.schema import shipped

    lines = []
    for kind, word in KINDS.items():
        files = shipped(kind)
        lines.append(f"{kind} ({word}):")
        width = max((len(name) for name in files), default=0)
        lines += [f"  {name:<{width}}  {_about(path)}".rstrip() for name, path in files.items()]
    return "\n".join(lines)


def find(name: str) -> Path:
    """A shipped file by its name; a space and a study of one name are told apart by the folder, as in tune_runs/paper.

    Raises:
        ThriftyError: no such name, or one that a space and a study share.
    """
    from thrifty.space.schema import shipped

    folder, _, stem = name.rpartition("/")
    kinds = [kind for kind in KINDS if folder in ("", kind)]
    stem = stem.removesuffix(".yaml")
    found = {kind: shipped(kind)[stem] for kind in kinds if stem in shipped(kind)}
    if len(found) > 1:
        raise ThriftyError(f"'{name}' is a space and a study; say which: {' or '.join(f'{kind}/{stem}' for kind in found)}")
    if not found:
        known = {f"{kind}/{key}" for kind in KINDS for key in shipped(kind)} | {key for kind in KINDS for key in shipped(kind)}
        raise ThriftyError(f"nothing shipped is called '{name}'{nearest(name, known)}; `thrifty ls` lists what is")
    return next(iter(found.values()))


def text_of(name: str) -> str:
    return find(name).read_text(encoding="utf-8")


def copy(name: str, target: Path) -> Path:
    """Copies a shipped file to a new file or into a folder; never over a file.

    Raises:
        ThriftyError: the target exists, or cannot be written.
    """
    source = find(name)
    path = target / source.name if target.is_dir() else target
    if path.exists():
        raise ThriftyError(f"{path} exists already and is not overwritten; give another name")
    write_text(path, source.read_text(encoding="utf-8"))
    return path


def show_genotype(path: Path, svg: Path | None = None, size: int = 64, allow_code: bool = False) -> str:
    """Cells, cell path, parameters, multiply-adds of one square image of `size` pixels and DOT text; draws where asked to.

    Raises:
        ThriftyError: no genotype in the file, or the drawing cannot be written.
    """
    from thrifty.space.cost import count
    from thrifty.space.dot import dot, source_name
    from thrifty.space.genotype import CELL_TYPES, genotype_hash, load

    genotype = load(path, allow_code)
    lines = [
        f"genotype {genotype_hash(genotype)[:12]} of space '{genotype.space}'",
        f"width {genotype.width}, {genotype.levels} levels, {genotype.channels} channels in, {genotype.classes} classes",
        f"cell path {list(genotype.path)} (nodes kept on diagonals 1 to {genotype.levels - 2})",
    ]
    for cell_type in CELL_TYPES:
        lines.append(f"{cell_type} cell")
        for k, pair in enumerate(genotype.cell(cell_type).nodes):
            lines.append(f"  node {k}: " + ", ".join(f"{edge.op} from {source_name(edge.source)}" for edge in pair))
    lines.append(f"parameters {count(genotype):,}")
    lines.append(f"MACs {_macs(genotype, size):,} (one image of {size} x {size} pixels)")
    if svg is not None:
        from thrifty.plots.lattice import draw_genotype

        draw_genotype(genotype, svg)
        lines.append(f"drawn in {svg}")
    return "\n".join([*lines, "", dot(genotype).rstrip()])


def _macs(genotype: Genotype, size: int) -> int:
    """By formula, which needs no torch; measured where an op of the user's own has none."""
    from thrifty.space.cost import count_macs, has_macs

    if has_macs(genotype):
        return count_macs(genotype, (size, size))
    from thrifty.nets.build import genotype_spec
    from thrifty.summary import macs

    return macs(genotype_spec("shown", genotype, None), (size, size))


def _about(path: Path) -> str:
    """The `about` of a space; the head comment of a study, up to its first full stop."""
    text = path.read_text(encoding="utf-8")
    comment = one_line(" ".join(line.removeprefix("#") for line in _head(text)))
    about = str(read_yaml(path).get("about") or comment)
    return about.split(". ")[0].rstrip(".")


def _head(text: str) -> list[str]:
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line)
    return lines
