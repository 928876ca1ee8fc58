"""A space: what may be searched, read from one YAML file in search_spaces/."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, model_validator

from thrifty.config import PositiveInt, Section, Study, parse, read_yaml
from thrifty.errors import ThriftyError, nearest
from thrifty.results import Run, write_text
from thrifty.space import ops
from thrifty.space.frame import Frame
from thrifty.space.genotype import CellType, Genotype, role_of
from thrifty.space.path import all_paths, check_path, full_path, plain_path

SCHEMA = 1
Names = Annotated[tuple[str, ...], Field(min_length=1)]


class OpSets(Section):
    """The ops that each kind of edge may choose from, in canonical order."""

    down: Names
    up: Names
    normal: Names


class FrameKeys(Section):
    """The fixed parts, as in thrifty.space.frame.Frame."""

    stem_kernel: PositiveInt = 3
    stem_block: str = "sep_3"
    input_conv: str = "conv_1"
    output_conv: str = "conv_1"
    classifier_kernel: PositiveInt = 3
    row_factors: tuple[float, ...] = ()


class Widths(Section):
    """The widths that may be derived from a budget."""

    smallest: PositiveInt = 4
    largest: PositiveInt = 128
    step: PositiveInt = 2


class Space(Section):
    """One space. `levels` is the largest number of levels; small images take fewer."""

    schema_version: Literal[1] = Field(alias="schema")
    name: str
    about: str
    nodes: Annotated[int, Field(ge=1, le=5)]
    levels: Annotated[int, Field(ge=2, le=8)]
    path: Literal["searched", "plain", "full"] | tuple[int, ...] = "searched"
    widths: Widths = Widths()
    ops: OpSets
    fixed: FrameKeys = FrameKeys()

    @model_validator(mode="after")
    def _legal(self) -> Space:
        Frame(**self.fixed.model_dump())
        for role in ops.ROLES:
            _check_ops(role, getattr(self.ops, role))
        if self.widths.smallest > self.widths.largest:
            raise ValueError("widths.smallest is above widths.largest")
        if isinstance(self.path, tuple):
            check_path(self.path, self.levels)
        return self

    @property
    def frame(self) -> Frame:
        return Frame(**self.fixed.model_dump())

    def ops_of(self, cell_type: CellType, source: int) -> tuple[str, ...]:
        """The ops of an edge in the supernet, in canonical order ('none' included where the space has it)."""
        return getattr(self.ops, role_of(cell_type, source))

    def paths(self, levels: int) -> list[tuple[int, ...]]:
        """The cell paths that may be chosen, in canonical order."""
        if self.path == "searched":
            return list(all_paths(levels))
        if self.path == "plain":
            return [plain_path(levels)]
        if self.path == "full":
            return [full_path(levels)]
        return [check_path(self.path, levels)]

    def width_choices(self) -> range:
        return range(self.widths.smallest, self.widths.largest + 1, self.widths.step)

    def check_genotype(self, genotype: Genotype) -> None:
        """
        Raises:
            ThriftyError: the genotype is legal as such but not in this space.
        """
        if genotype.frame != self.frame or genotype.nodes != self.nodes:
            raise ThriftyError(f"the genotype of space '{genotype.space}' has other fixed parts than the space '{self.name}'")
        if genotype.path not in self.paths(genotype.levels):
            raise ThriftyError(f"the cell path {list(genotype.path)} is not in the space '{self.name}'")
        for cell_type in ("down", "up"):
            for _, edge in genotype.cell(cell_type).edges():
                if edge.op not in self.ops_of(cell_type, edge.source):
                    raise ThriftyError(f"the op '{edge.op}' is not in the space '{self.name}'")


def decodable(names: Sequence[str]) -> list[bool]:
    """Which ops a genotype may have: all but 'none'."""
    return [ops.find(name).kind != "none" for name in names]


def _check_ops(role: str, op_names: tuple[str, ...]) -> None:
    if len(set(op_names)) != len(op_names):
        raise ThriftyError(f"ops.{role} names an op twice: {', '.join(op_names)}")
    for name in op_names:
        if role not in ops.find(name).roles:
            raise ThriftyError(f"ops.{role}: '{name}' is no {role} op; allowed are {', '.join(ops.names(role))}")
    if not any(decodable(op_names)):
        raise ThriftyError(f"ops.{role} has only 'none', which no genotype can have")


def load_space(name_or_path: str, allow_code: bool = False) -> Space:
    """The space called `name_or_path` among the shipped ones, or read from a YAML file.

    Raises:
        ThriftyError: there is none, or it has mistakes (all of them on one line).
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        known = shipped("search_spaces")
        if name_or_path not in known:
            hint = nearest(name_or_path, known)
            raise ThriftyError(f"there is no space '{name_or_path}'{hint} (shipped: {', '.join(known)}; or give a .yaml file)")
        path = known[name_or_path]
    values = read_yaml(path)
    if allow_code:
        _register_own(values)
    try:
        return parse(Space, values, str(path))
    except ThriftyError as error:
        raise ThriftyError(str(error) if str(path) in str(error) else f"{path}: {error}") from None


def pin_space(study: Study, run: Run) -> Space:
    """Keeps the study's space in the run folder, so that trials on any machine and at any later time see the same one.

    Raises:
        ThriftyError: as `load_space`; or the space has changed since the run began.
    """
    space = load_space(study.space, study.allow_code)
    if not run.space.is_file():
        write_text(run.space, yaml.safe_dump(space.model_dump(mode="json", by_alias=True), sort_keys=False))
    elif space != run_space(study, run):
        raise ThriftyError(
            f"the space '{study.space}' has changed since {run.root} began; give this study another name=, or put the space back"
        )
    return space


def run_space(study: Study, run: Run) -> Space:
    """The space of a run; the study's own where none was kept yet."""
    return load_space(str(run.space) if run.space.is_file() else study.space, study.allow_code)


def _register_own(values: dict[str, Any]) -> None:
    sets = values.get("ops")
    for op_names in sets.values() if isinstance(sets, dict) else ():
        for name in op_names if isinstance(op_names, list) else ():
            if isinstance(name, str) and ":" in name:
                ops.register_own(name)


def shipped(kind: str) -> dict[str, Path]:
    """The YAML files that come with thrifty, by name; `kind` is 'search_spaces' or 'tune_runs'."""
    inside = Path(str(resources.files("thrifty"))) / "shipped" / kind  # in a wheel
    beside = Path(str(resources.files("thrifty"))).parent / kind  # in a checkout
    folder = inside if inside.is_dir() else beside
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
