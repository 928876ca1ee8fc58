"""Pictures: what they show (read back from the SVG or the pixels), the same bytes each time, refusals."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from thrifty.errors import ThriftyError
from thrifty.plots.cases import Example, displayed, draw_cases, overlay
from thrifty.plots.curves import draw_searches, series
from thrifty.plots.figure import COLOURS
from thrifty.plots.lattice import draw_genotype
from thrifty.plots.pareto import KINDS, Point, draw_pareto, short
from thrifty.plots.selection import draw_selection
from thrifty.space.dot import lattice_nodes
from thrifty.space.frame import Frame
from thrifty.space.genotype import Cell, Edge, Genotype

DOWN = Cell(((Edge(0, "avg_pool"), Edge(1, "dep_sep_conv_3")), (Edge(1, "dep_sep_conv_5"), Edge(2, "identity"))))
UP = Cell(((Edge(0, "identity"), Edge(1, "up_sample")), (Edge(0, "dep_sep_conv_3"), Edge(2, "identity"))))
GENOTYPE = Genotype(DOWN, UP, (1, 1), 8, 4, 1, 2, "tiny", Frame())
POINTS = [
    Point("found", 29_000, 0.86, 0.84, 0.88, 30_000),
    Point("random", 28_000, 0.84, 0.82, 0.86, 30_000),
    Point("scaled U-Net", 29_500, 0.85, None, None, 30_000),
    Point("U-Net", 7_760_000, 0.87, 0.85, 0.88),
]


def comments(path: Path) -> list[str]:
    """matplotlib writes every text of an SVG that is drawn as outlines into a comment beside it."""
    parser = ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
    root = ElementTree.parse(path, parser).getroot()
    return [(node.text or "").strip() for node in root.iter() if node.tag is ElementTree.Comment]


def test_genotype_drawing_names_every_op_and_node(tmp_path: Path) -> None:
    draw_genotype(GENOTYPE, tmp_path / "g.svg")
    texts = comments(tmp_path / "g.svg")
    for cell in (DOWN, UP):
        for _, edge in cell.edges():
            expected = sum(e.op == edge.op for c in (DOWN, UP) for _, e in c.edges())
            assert texts.count(edge.op) == expected
    for node in lattice_nodes(GENOTYPE):
        assert node.name.removeprefix("X(").removesuffix(")") in texts
    assert texts.count("in0") == texts.count("in1") == texts.count("out") == 2
    assert any("cell path [1, 1], width 8" in text for text in texts)


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_same_picture_same_bytes(tmp_path: Path, suffix: str) -> None:
    for name in ("a", "b"):
        draw_genotype(GENOTYPE, tmp_path / f"{name}{suffix}")
        draw_pareto(POINTS, tmp_path / f"{name}_pareto{suffix}")
    for stem in ("{}", "{}_pareto"):
        first, second = ((tmp_path / f"{stem.format(name)}{suffix}").read_bytes() for name in "ab")
        assert first == second


def test_png_has_ink_and_other_genotypes_look_different(tmp_path: Path) -> None:
    from skimage.io import imread

    other = Genotype(DOWN, UP, (0, 2), 8, 4, 1, 2, "tiny", Frame())
    draw_genotype(GENOTYPE, tmp_path / "a.png")
    draw_genotype(other, tmp_path / "b.png")
    first, second = (imread(tmp_path / name)[..., :3] for name in ("a.png", "b.png"))
    assert first.shape == second.shape and 0.01 < (first < 128).any(axis=2).mean() < 0.5
    changed = np.argwhere((first != second).any(axis=2))
    assert changed[:, 0].min() > first.shape[0] // 2, "the cells are equal, only the lattice differs"


def chain(source: int, op: str, inputs: int) -> str:
    return op if source < inputs else "identity"


@pytest.mark.parametrize(("nodes", "levels"), [(1, 2), (5, 6)])
def test_smallest_and_largest_genotype_are_drawn(tmp_path: Path, nodes: int, levels: int) -> None:
    down = Cell(tuple((Edge(k, chain(k, "avg_pool", 2)), Edge(k + 1, chain(k + 1, "avg_pool", 2))) for k in range(nodes)))
    up = Cell(tuple((Edge(k, ("identity", "up_sample")[k == 1]), Edge(k + 1, chain(k, "up_sample", 1))) for k in range(nodes)))
    draw_genotype(Genotype(down, up, tuple(range(1, levels - 1)), 4, levels, 1, 2, "tiny", Frame()), tmp_path / "g.svg")
    assert f"{levels - 1},0" in comments(tmp_path / "g.svg")


def test_unknown_suffix_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ThriftyError, match=r"g\.gif.*\.svg, \.png"):
        draw_genotype(GENOTYPE, tmp_path / "g.gif")
    assert list(tmp_path.iterdir()) == []


def test_pareto_names_kinds_and_axis(tmp_path: Path) -> None:
    draw_pareto(POINTS, tmp_path / "p.svg")
    texts = comments(tmp_path / "p.svg")
    assert {"found", "random", "scaled U-Net", "U-Net", "100 k", "1 M"} <= set(texts)
    assert "UNet++" not in texts


def test_equal_networks_of_one_budget_stand_side_by_side(tmp_path: Path) -> None:
    """Two decoded networks with the parameters and the Dice of the found and the random one: one in the legend, two to see."""
    place = (29_000, 0.86, 0.84, 0.88, 30_000)
    kinds = ("found", "random", "random", "decoded", "decoded")
    draw_pareto([Point("decoded", *place)], tmp_path / "alone.png")
    draw_pareto([Point(kind, *place) for kind in kinds], tmp_path / "all.png")
    alone, together = (ink(tmp_path / name, COLOURS[KINDS.index("decoded")]) for name in ("alone.png", "all.png"))
    assert together >= 1.2 * alone > 0


def ink(path: Path, colour: str) -> int:
    """Pixels of exactly that colour."""
    from skimage.io import imread

    return int((imread(path)[..., :3] == [int(colour[k : k + 2], 16) for k in (1, 3, 5)]).all(axis=2).sum())


def test_pareto_of_a_single_network(tmp_path: Path) -> None:
    draw_pareto(POINTS[2:3], tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 5_000


def test_short_numbers() -> None:
    assert [short(v) for v in (500, 30_000, 7_760_097)] == ["500", "30 k", "7.76 M"]


def test_series_counts_epochs_from_one_and_leaves_gaps() -> None:
    epochs, values = series([{"epoch": 0, "dice": None}, {"epoch": 1, "dice": 0.5}, {"epoch": 2}], "dice")
    assert epochs == [1, 2, 3] and values[1] == 0.5 and np.isnan([values[0], values[2]]).all()


def test_search_curves_name_seeds_and_budget(tmp_path: Path) -> None:
    rows = [{"epoch": e, "expected_parameters": 9e3 - e, "dice": 0.1 * e, "parameter_free": 0.2} for e in range(3)]
    draw_searches({"seed 0": rows, "seed 7": rows[:1]}, 8_000, tmp_path / "s.svg")
    texts = comments(tmp_path / "s.svg")
    assert {"seed 0", "seed 7", "epoch"} <= set(texts) and any("8,000" in text for text in texts)


def test_overlay_colours_only_the_foreground() -> None:
    picture = np.full((4, 4, 3), 0.5)
    labels = np.zeros((4, 4), np.uint8)
    labels[1, 2], labels[3, 3] = 1, 2
    result = overlay(picture, labels)
    changed = (result != picture).any(axis=2)
    assert np.array_equal(changed, labels > 0) and not np.array_equal(result[1, 2], result[3, 3])
    assert (picture == 0.5).all()


def test_displayed_rgb_as_it_is_and_16_bit_stretched() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (3, 5, 6), dtype=np.uint8)
    assert np.allclose(displayed(rgb), rgb.transpose(1, 2, 0) / 255)
    deep = np.linspace(1000, 3000, 200).reshape(1, 10, 20).astype(np.uint16)
    shown = displayed(deep)
    assert shown.shape == (10, 20, 3) and shown.min() == 0 and shown.max() == 1
    assert np.isfinite(displayed(np.full((1, 3, 3), 7, np.int16))).all(), "a constant image is no division by zero"


def test_cases_picture_has_the_truth_s_outline(tmp_path: Path) -> None:
    image = np.zeros((1, 20, 20), np.uint8)
    truth = np.zeros((20, 20), np.uint8)
    truth[5:15, 5:15] = 1
    for name, mask in (("with", truth), ("without", np.zeros_like(truth))):
        draw_cases([Example("worst", image, mask, np.zeros_like(truth))], ("background", "cell"), tmp_path / f"{name}.png")
    from skimage.io import imread

    with_outline, without = (imread(tmp_path / f"{name}.png")[..., :3].astype(int) for name in ("with", "without"))
    right = with_outline[:, 2 * with_outline.shape[1] // 3 :]
    assert (right != without[:, 2 * without.shape[1] // 3 :]).any()
    draw_cases([Example("worst", image, truth, truth)] * 3, ("background", "cell"), tmp_path / "c.svg")
    assert {"input", "truth", "prediction", "cell", "worst"} <= set(comments(tmp_path / "c.svg"))


def test_no_matplotlib_before_something_is_drawn() -> None:
    code = "import sys, thrifty.report, thrifty.space.dot; sys.exit(bool({'matplotlib', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[2]).returncode == 0


def candidates() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    sizes = np.concatenate([rng.integers(6_000, 10_000, 15), rng.integers(18_000, 30_000, 20)])
    groups = ["b10000_w8_d4"] * 15 + ["b30000_w16_d4"] * 20
    rows = zip(groups, sizes, strict=True)
    return [{"group": g, "parameters": int(n), "dice": 0.5 + n / 1e5 + 0.05 * rng.normal(), "hash": str(n)} for g, n in rows]


TRAINED = [
    Point("finalist", 9_000, 0.79),
    Point("finalist", 28_000, 0.81),
    Point("found", 28_000, 0.86),
    Point("random", 27_000, 0.85),
    Point("scaled U-Net", 28_500, 0.70),
    Point("U-Net", 7_760_000, 0.83),
    Point("UNet++", 9_040_000, 0.84),
]


def draw(path: Path, trained: list[Point]) -> list[str]:
    rows = sorted(candidates(), key=lambda row: row["parameters"])
    front = [row for k, row in enumerate(rows) if all(row["dice"] > other["dice"] for other in rows[:k])]
    chosen = {10_000: max(rows[:15], key=lambda row: row["dice"]), 30_000: front[-1]}
    draw_selection(rows, front, chosen, trained, path)
    return comments(path)


def test_the_selection_is_drawn_beside_what_was_trained(tmp_path: Path) -> None:
    texts = draw(tmp_path / "s.svg", TRAINED)
    inherited = {f"inherited, by the searches {group}" for group in ("b10000_w8_d4", "b30000_w16_d4")}
    names = ("found", "random", "scaled U-Net", "U-Net (7.76 M)", "UNet++ (9.04 M)")
    retrained = {f"{name}, retrained" for name in names}
    assert inherited | retrained | {"finalists, short training", "front", "chosen", "budget"} <= set(texts)
    assert {"Dice, selection cases", "10 k"} <= set(texts)
    assert "1 M" not in texts, "what is far larger is a line across and does not squeeze the candidates"
    assert (tmp_path / "s.svg").read_bytes() == (draw(tmp_path / "t.svg", TRAINED), (tmp_path / "t.svg").read_bytes())[1]


def test_the_selection_alone_has_no_other_names(tmp_path: Path) -> None:
    texts = draw(tmp_path / "s.svg", [])
    assert "inherited Dice, selection cases" in texts and not any("trained" in text for text in texts)
