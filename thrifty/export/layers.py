"""The classes of a generated network.py: layers of the ops and of the frame, the two cells, the network in straight lines."""

from __future__ import annotations

from thrifty.nets.ops import is_resized
from thrifty.space import ops
from thrifty.space.cost import HEAD, Lattice, lattice_of
from thrifty.space.genotype import CELL_TYPES, CellType, Genotype, role_of
from thrifty.space.ops import SQUEEZE_RATIO, Op
from thrifty.space.path import kept_up_nodes, row_neighbours

MODULE = '''\
class {name}(nn.Module):
    """{about}"""

    def __init__(self, {arguments}) -> None:
        super().__init__()
{init}

    def forward(self, {inputs}) -> {output}:
{forward}
'''


def _module(
    name: str,
    about: str,
    init: list[str],
    forward: list[str],
    arguments: str = "c_in: int, c_out: int",
    inputs: str = "x: Tensor",
    output: str = "Tensor",
) -> str:
    body = {
        key: "\n".join(" " * 8 + line if line else "" for line in lines) for key, lines in (("init", init), ("forward", forward))
    }
    return MODULE.format(name=name, about=about, arguments=arguments, inputs=inputs, output=output, **body)


# -- ops ------------------------------------------------------------------------------------------------------------------
def class_name(op: str, role: str) -> str:
    """'sep_conv_3' on a down edge is SepConv3Down; ops that keep the size have no ending."""
    return "".join(part.capitalize() for part in op.split("_")) + {"down": "Down", "up": "Up", "normal": ""}[role]


NORM = "self.norm = nn.BatchNorm2d(c_out)"
ADAPTER = "self.adapter = nn.Conv2d(c_in, c_out, 1, bias=False) if c_in != c_out else nn.Identity()"
AVERAGE = "F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)"


def op_class(op: Op, role: str) -> str:
    """The class of an op on an edge of a role."""
    name = class_name(op.name, role)
    size = {"down": " with stride 2", "up": ", transposed with stride 2", "normal": ""}[role]
    kernel = f"{op.kernel}x{op.kernel}" + (f" with dilation {op.dilation}" if op.dilation > 1 else "")
    if op.kind in ("free", "squeeze"):
        return _light_class(op, role, name)
    if op.kind in ("conv", "squeeze_conv"):
        squeeze = op.kind == "squeeze_conv"
        init = [f"self.conv = {_convolution(op, role, 'c_in', 'c_out')}", NORM]
        forward = ["return self.norm(self.conv(x))"]
        if squeeze:
            init.append("self.squeeze = SqueezeExcite(c_out)")
            forward = ["x = self.norm(self.conv(x))", "return x * self.squeeze(x)"]
        return _module(name, f"{kernel} convolution{size}, norm{', squeeze-excite' if squeeze else ''}.", init, forward)
    if op.kind == "dep_sep":
        init = [
            f"self.depthwise = {_convolution(op, role, 'c_in', 'c_in', 'groups=c_in, ')}",
            "self.norm1 = nn.BatchNorm2d(c_in)",
            "self.pointwise = nn.Conv2d(c_in, c_out, 1, bias=False)",
            NORM,
        ]
        about = f"Depth-wise {kernel}{size}, norm, ReLU, point-wise, norm."
        return _module(name, about, init, ["return self.norm(self.pointwise(torch.relu(self.norm1(self.depthwise(x)))))"])
    padding, stride = op.dilation * (op.kernel - 1) // 2, 2 if role == "down" else 1
    init = [
        f"self.kernel = nn.Parameter(torch.randn(c_in, 1, {op.kernel}, {op.kernel}) * {2**0.5 / op.kernel:.4f})",
        "self.pointwise = nn.Conv2d(c_in, c_out, 1, bias=False)",
        NORM,
    ]
    call = f"F.conv2d(x, self.kernel, stride={stride}, padding={padding}, dilation={op.dilation}, groups=self.kernel.shape[0])"
    about = f"Depth-wise {kernel}{size if role == 'down' else ''}, point-wise, norm."
    return _module(name, about, init, [f"x = {call}", "return self.norm(self.pointwise(x))"])


def _light_class(op: Op, role: str, name: str) -> str:
    """Pooling (down) or nothing, squeeze-excite or not, norm."""
    pool = "F.max_pool2d(x, 3, 2, 1)" if op.name == "max_pool" else AVERAGE
    pooling = {"max_pool": "3x3 max-pooling with stride 2, "}.get(op.name, "3x3 average pooling with stride 2, ")
    init, forward = [ADAPTER], [f"x = self.adapter({pool if role == 'down' else 'x'})"]
    about = pooling if role == "down" else "The input itself, "
    if op.kind == "squeeze":
        init.append("self.squeeze = SqueezeExcite(c_out)")
        forward.append("x = x * self.squeeze(x)")
        about += "squeeze-excite, "
    return _module(name, f"{about}norm.", [*init, NORM], [*forward, "return self.norm(x)"])


def _convolution(op: Op, role: str, c_in: str, c_out: str, groups: str = "") -> str:
    rest = f"padding={op.dilation * (op.kernel - 1) // 2}, dilation={op.dilation}, {groups}bias=False"
    if role == "up":
        return f"nn.ConvTranspose2d({c_in}, {c_out}, {op.kernel}, stride=2, output_padding=1, {rest})"
    return f"nn.Conv2d({c_in}, {c_out}, {op.kernel}, stride={2 if role == 'down' else 1}, {rest})"


SQUEEZE = _module(
    "SqueezeExcite",
    "Squeeze-excite without bias: a factor (B, c, 1, 1) for each channel.",
    [
        f"hidden = max(1, channels // {SQUEEZE_RATIO})",
        "self.reduce = nn.Linear(channels, hidden, bias=False)",
        "self.expand = nn.Linear(hidden, channels, bias=False)",
    ],
    ["return torch.sigmoid(self.expand(torch.relu(self.reduce(x.mean((2, 3))))))[:, :, None, None]"],
    arguments="channels: int",
)

# -- frame ----------------------------------------------------------------------------------------------------------------
FRAME = {
    "conv_1": ("Pointwise", "1x1 convolution.", ["self.body = nn.Conv2d(c_in, c_out, 1, bias=False)"]),
    "conv_3": ("Dense3", "3x3 convolution.", ["self.body = nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)"]),
    "sep_3": (
        "Separable3",
        "Depth-wise 3x3, then point-wise.",
        [
            "depthwise = nn.Conv2d(c_in, c_in, 3, padding=1, groups=c_in, bias=False)",
            "self.body = nn.Sequential(depthwise, nn.Conv2d(c_in, c_out, 1, bias=False))",
        ],
    ),
}


def frame_class(kind: str) -> str:
    name, about, init = FRAME[kind]
    return _module(name, about, init, ["return self.body(x)"])


def _stem_class(kind: str, kernel: int, changes: bool) -> str:
    block = FRAME[kind][0]
    init = [
        f"self.conv = nn.Conv2d(channels, full, {kernel}, padding={kernel // 2}, bias=False)",
        "self.norm = nn.BatchNorm2d(full)",
        f"self.block1, self.norm1 = {block}(full, first), nn.BatchNorm2d(first)",
        f"self.block2, self.norm2 = {block}(first, first), nn.BatchNorm2d(first)",
        *(["self.skip = nn.Conv2d(full, first, 1, bias=False)"] if changes else []),
    ]
    forward = [
        "stem0 = torch.relu(self.norm(self.conv(images)))",
        "pooled = F.max_pool2d(stem0, 3, 2, 1)",
        "block = self.norm2(self.block2(torch.relu(self.norm1(self.block1(pooled)))))",
        f"return stem0, torch.relu(block + {'self.skip(pooled)' if changes else 'pooled'})",
    ]
    about = "Images to stem0 at full size, and half of it: max-pooling and a residual block."
    return _module(
        "Stem", about, init, forward, "channels: int, full: int, first: int", "images: Tensor", "tuple[Tensor, Tensor]"
    )


def _down_input_class() -> str:
    init = ["self.conv = nn.Conv2d(c_in, c_out, 1, stride=2, bias=False) if c_in != c_out else None", NORM]
    forward = [f"return self.norm({AVERAGE} if self.conv is None else self.conv(x))"]
    return _module(
        "DownInput",
        "in0 of a down cell at the size of in1: average pooling (1x1 with stride 2 where the width changes), norm.",
        init,
        forward,
    )


def _up_input_classes(kind: str) -> list[str]:
    about = "in0 of an up cell: the nodes to the left in its row, concatenated, to the width of the row; norm."
    if kind != "sep_3":
        kernel = 3 if kind == "conv_3" else 1
        init = [f"self.conv = nn.Conv2d(c_in, c_out, {kernel}, padding={kernel // 2}, bias=False)", NORM]
        return [_module("UpInput", about, init, ["return self.norm(self.conv(x))"])]
    row = _module(
        "RowConv",
        "Depth-wise 3x3, then point-wise.",
        [
            "self.depthwise = nn.Parameter(torch.randn(c_in, 1, 3, 3) * 0.4714)",
            "self.weight = nn.Parameter(torch.randn(c_out, c_in, 1, 1) * (2 / c_in) ** 0.5)",
        ],
        ["x = F.conv2d(x, self.depthwise, padding=1, groups=self.depthwise.shape[0])", "return F.conv2d(x, self.weight)"],
    )
    return [row, _module("UpInput", about, ["self.conv = RowConv(c_in, c_out)", NORM], ["return self.norm(self.conv(x))"])]


def _output_class(kind: str) -> str:
    about = "The inner nodes, concatenated, to the width of the row; norm, ReLU."
    return _module(
        "CellOutput", about, [f"self.conv = {FRAME[kind][0]}(c_in, c_out)", NORM], ["return torch.relu(self.norm(self.conv(x)))"]
    )


def layer_classes(genotype: Genotype) -> list[str]:
    """Every layer that the network of a genotype has, each once."""
    frame, lattice = genotype.frame, lattice_of(genotype)
    used = {(e.op, role_of(t, e.source)) for t in CELL_TYPES for _, e in genotype.cell(t).edges()}
    squeezes = any(ops.find(op).kind in ("squeeze", "squeeze_conv") for op, _ in used)
    classes = [frame_class(kind) for kind in FRAME if kind in (frame.stem_block, frame.output_conv)]
    classes.append(_stem_class(frame.stem_block, frame.stem_kernel, lattice.row_width(HEAD) != lattice.row_width(0)))
    classes += [_down_input_class(), *_up_input_classes(frame.input_conv), _output_class(frame.output_conv)]
    classes += [SQUEEZE] if squeezes else []
    return classes + [op_class(ops.find(op), role) for op, role in sorted(used)]


# -- cells and network ----------------------------------------------------------------------------------------------------
def cell_class(genotype: Genotype, cell_type: CellType) -> str:
    """DownCell or UpCell: the two edges of each inner node, a line for a node."""
    init, forward, doubled = ["self.edges = nn.ModuleDict("], [], False
    init.append("    {")
    for node, pair in enumerate(genotype.cell(cell_type).nodes):
        terms = []
        for edge in pair:
            role = role_of(cell_type, edge.source)
            widths = "other, here" if role != "normal" else "here, here"
            init.append(f'        "{node}_{edge.source}": {class_name(edge.op, role)}({widths}),')
            source = ("in0", "in1", *(f"node{k}" for k in range(node)))[edge.source]
            if is_resized(ops.find(edge.op), role):
                source, doubled = "doubled", True
            terms.append(f'self.edges["{node}_{edge.source}"]({source})')
        forward.append(f"node{node} = torch.relu({' + '.join(terms)})")
    nodes = ", ".join(f"node{k}" for k in range(genotype.nodes))
    init += ["    }", ")", f"self.output = CellOutput({genotype.nodes} * here, here)"]
    if doubled:
        forward.insert(0, 'doubled = F.interpolate(in1, scale_factor=2.0, mode="bilinear", align_corners=False)')
    forward.append(f"return self.output(torch.cat([{nodes}], dim=1))")
    about = {
        "down": "in0 and in1 (`other` channels) to half their size (`here` channels).",
        "up": "in0 (`here` channels) and in1 (`other` channels, half the size) to the size of in0 (`here` channels).",
    }[cell_type]
    name = {"down": "DownCell", "up": "UpCell"}[cell_type]
    return _module(name, about, init, forward, "other: int, here: int", "in0: Tensor, in1: Tensor")


def network_class(genotype: Genotype) -> str:
    """Network: the lattice, node by node. x10 is X(1, 0): column 1, row 0."""
    lattice, levels = lattice_of(genotype), genotype.levels
    inputs, cells = _parts(genotype, lattice)
    full, kernel, bias = lattice.row_width(HEAD), genotype.frame.classifier_kernel, genotype.frame.classifier_bias
    init = [
        f"self.stem = Stem({genotype.channels}, {full}, {lattice.row_width(0)})",
        *_dictionary("inputs", inputs),
        *_dictionary("cells", cells),
        f"self.classifier = nn.Conv2d({full}, {genotype.classes}, {kernel}, padding={kernel // 2}, bias={bias})",
    ]
    forward = ["inputs, cells = self.inputs, self.cells", "stem0, x00 = self.stem(images)"]
    for j in range(1, levels):
        in0 = "stem0" if j == 1 else f"x0{j - 2}"
        forward.append(f'x0{j} = cells["down_{j}"](inputs["down_{j}"]({in0}), x0{j - 1})')
    for i, j in kept_up_nodes(genotype.path, levels):
        left = [f"x{m}{j}" for m in row_neighbours(genotype.path, levels, i, j)]
        row = left[0] if len(left) == 1 else f"torch.cat([{', '.join(left)}], dim=1)"
        forward.append(f'x{i}{j} = cells["up_{i}_{j}"](inputs["up_{i}_{j}"]({row}), x{i - 1}{j + 1})')
    forward.append(f'head = cells["head"](inputs["head"](stem0), x{levels - 1}0)')
    forward.append("return self.classifier(head)")
    about = f"Images (B, {genotype.channels}, H, W) -> logits (B, {genotype.classes}, H, W); H and W multiples of {2**levels}."
    text = _module("Network", about, init, forward, "", "images: Tensor")
    return text.replace("def __init__(self, )", "def __init__(self)")


def _parts(genotype: Genotype, lattice: Lattice) -> tuple[dict[str, str], dict[str, str]]:
    """The input and the cell of every node, by name."""
    width, levels = lattice.row_width, genotype.levels
    inputs, cells = {}, {}
    for j in range(1, levels):
        inputs[f"down_{j}"] = f"DownInput({width(j - 2)}, {width(j - 1)})"
        cells[f"down_{j}"] = f"DownCell({width(j - 1)}, {width(j)})"
    for i, j in kept_up_nodes(genotype.path, levels):
        slots = len(row_neighbours(genotype.path, levels, i, j))
        inputs[f"up_{i}_{j}"] = f"UpInput({slots * width(j)}, {width(j)})"
        cells[f"up_{i}_{j}"] = f"UpCell({width(j + 1)}, {width(j)})"
    inputs["head"] = f"UpInput({width(HEAD)}, {width(HEAD)})"
    cells["head"] = f"UpCell({width(0)}, {width(HEAD)})"
    return inputs, cells


def _dictionary(name: str, parts: dict[str, str]) -> list[str]:
    return [f"self.{name} = nn.ModuleDict(", "    {", *(f'        "{key}": {call},' for key, call in parts.items()), "    }", ")"]
