"""A space: what may be searched, read from one YAML file in search_spaces/."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationInfo, field_validator, model_validator

from thrifty.config import PositiveInt, Section, Study, parse, read_yaml, say
from thrifty.errors import ThriftyError, nearest
from thrifty.results import Run, write_text
from thrifty.space import ops
from thrifty.space.frame import Frame
from thrifty.space.genotype import CellType, Genotype, role_of
from thrifty.space.path import Depth, all_paths, check_path, full_path, plain_path

SCHEMA = 1
Kernel = Literal[1, 3, 5, 7]
Conv = Literal["conv_1", "conv_3", "sep_3"]
Kept = Annotated[int, Field(ge=0, strict=True)]
CellPath = Annotated[
    Literal["searched", "plain", "full"] | tuple[Kept, ...],
    say("give searched, plain or full, or for each diagonal the number of nodes that it keeps, as in [0, 1]"),
]


class OpSets(Section):
    """The ops that each kind of edge may choose from, in canonical order."""

    down: tuple[str, ...]
    up: tuple[str, ...]
    normal: tuple[str, ...]

    @field_validator("down", "up", "normal")
    @classmethod
    def _legal(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if problems := _op_problems(str(info.field_name), value):
            raise ValueError("; ".join(problems))
        return value


class FrameKeys(Section):
    """The fixed parts, as in thrifty.space.frame.Frame."""

    stem_kernel: Kernel = 3
    stem_block: Conv = "sep_3"
    input_conv: Conv = "conv_1"
    output_conv: Conv = "conv_1"
    classifier_kernel: Kernel = 3
    classifier_bias: bool = False
    row_factors: tuple[Annotated[float, Field(gt=0)], ...] = ()


class Widths(Section):
    """The widths that may be derived from a budget."""

    smallest: PositiveInt = 4
    largest: PositiveInt = 128
    step: PositiveInt = 2

    @model_validator(mode="after")
    def _ordered(self) -> Widths:
        if self.smallest > self.largest:
            raise ValueError(f"widths.smallest is {self.smallest}, above widths.largest, which is {self.largest}")
        return self


class Space(Section):
    """One space. `levels` is the largest number of levels; small images take fewer."""

    schema_version: Literal[1] = Field(alias="schema")
    name: str
    about: str
    nodes: Annotated[int, Field(ge=1, le=5)]
    levels: Annotated[int, Field(ge=2, le=8)]
    path: CellPath = "searched"
    widths: Widths = Widths()
    ops: OpSets
    fixed: FrameKeys = FrameKeys()

    @field_validator("path")
    @classmethod
    def _fits_levels(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, tuple) and "levels" in info.data:
            try:
                check_path(value, info.data["levels"])
            except ThriftyError as error:
                raise ValueError(str(error)) from None
        return value

    @property
    def frame(self) -> Frame:
        return Frame(**self.fixed.model_dump())

    def ops_of(self, cell_type: CellType, source: int) -> tuple[str, ...]:
        """The ops of an edge in the supernet, in canonical order ('none' included where the space has it)."""
        return getattr(self.ops, role_of(cell_type, source))

    def paths(self, levels: int, depth: Depth = "fixed") -> list[tuple[int, ...]]:
        """The cell paths that may be chosen, in canonical order; with `depth` searched those of 2 .. `levels` levels, the
        shallowest first.

        Raises:
            ThriftyError: the depth is searched, but the space fixes the path.
        """
        if depth == "searched":
            if self.path != "searched":
                raise ThriftyError(
                    f"search.depth=searched needs a space whose cell path is searched, that of '{self.name}' is fixed; set "
                    "search.depth=fixed or give another space"
                )
            return [path for up_to in range(2, levels + 1) for path in all_paths(up_to)]
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


def _op_problems(role: str, op_names: tuple[str, ...]) -> list[str]:
    """Everything that is wrong with the ops of a role."""
    allowed = ops.names(role)
    own = [name for name in op_names if ":" in name and name not in allowed]
    wrong = [name for name in op_names if name not in (*allowed, *own)]
    problems = [f"the op '{name}' is code of the user's own: say allow_code: true in the study to run it" for name in own]
    problems += [f"'{name}' is no {role} op{nearest(name, allowed)}" for name in wrong]
    problems += [f"allowed are {', '.join(allowed)}"] if wrong or not op_names else []
    if len(set(op_names)) < len(op_names):
        problems.append("an op is named twice")
    if op_names and set(op_names) <= {"none"}:
        problems.append("there is only 'none', which no genotype can have")
    return problems


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
        _register_own(values, path)
    return parse(Space, values, str(path))


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


def _register_own(values: dict[str, Any], path: Path) -> None:
    sets, problems = values.get("ops"), []
    for op_names in sets.values() if isinstance(sets, dict) else ():
        for name in op_names if isinstance(op_names, list) else ():
            if isinstance(name, str) and ":" in name:
                try:
                    ops.register_own(name)
                except ThriftyError as error:
                    problems.append(str(error))
    if problems:
        raise ThriftyError(f"{path}: {'; '.join(dict.fromkeys(problems))}")


def shipped(kind: str) -> dict[str, Path]:
    """The YAML files that come with thrifty, by name; `kind` is 'search_spaces' or 'tune_runs'."""
    inside = Path(str(resources.files("thrifty"))) / "shipped" / kind  # in a wheel
    beside = Path(str(resources.files("thrifty"))).parent / kind  # in a checkout
    folder = inside if inside.is_dir() else beside
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
