"""A frozen network cut into stages at its taps, so that what follows a tap runs on the images that go on and on no others.

The network's graph is traced by torch.fx, or by torch.export where that cannot follow its code. Whatever the graph computes
up to a tap is one stage; what a later stage needs of it is carried over. A stage says of each carried value whether it has a
row for each image, is the number of images, or is the same for any images; a network that carries something else is refused.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from calex.backbones.build import uncompiled
from calex.backbones.trace import modules_of
from calex.deploy.carrying import COUNT, ROWS, SAME, carry
from calex.errors import CalexError, one_line
from calex.system.flops import unfused

TOLERANCE = 1e-3  # of values computed in pieces and whole, as a share of the largest


class CannotCut(Exception):
    """Why one way of tracing does not fit a network."""


@dataclass(frozen=True)
class Traced:
    """A network's graph, and of each tap its node and the number of nodes up to the end of its module."""

    root: nn.Module
    graph: fx.Graph
    taps: list[tuple[fx.Node, int]]


class Stage(nn.Module):
    """A piece of a network: (carried values) → (the tap's output or the logits, values carried on).

    carried: of each value that it takes, `rows` (a row for each image), `count` (the number of images) or `same`.
    """

    def __init__(self, graph: fx.GraphModule, carried: Sequence[str] = (ROWS,)) -> None:
        super().__init__()
        self.graph, self.carried = graph, tuple(carried)

    def forward(self, *values: Any) -> tuple[Any, ...]:
        """Compute what the class says from what was carried."""
        return self.graph(*values)


def cut(model: nn.Module, taps: Sequence[str], shape: tuple[int, int, int], network: str, check: bool = True) -> list[Stage]:
    """Cut a network into a stage for each tap and one for what is left.

    Parameters
    ----------
    model : torch.nn.Module
        Frozen; the stages share its weights.
    taps : sequence of str
        Names of its modules, in the order in which a forward pass reaches them.
    shape : (C, H, W)
        Of one image, as the network reads it.
    network : str
        What errors call it.
    check : bool
        Whether to compare the stages with the whole network, on images that leave one after the other.

    Returns
    -------
    list of Stage
        Of K + 1.

    Raises
    ------
    CalexError
        If neither way of tracing gives stages that compute what the network does; with each one's reason.
    """
    modules_of(model, taps)
    reasons = []
    for name, tracing in (("torch.fx", _by_fx), ("torch.export", _by_export)):
        try:
            with uncompiled(), unfused(), torch.no_grad():
                stages = _stages(tracing(model, taps, shape), shape)
                if check:
                    _compare(model, taps, stages, shape)
            return stages
        except Exception as error:  # the network's code, or a tracer's: anything can happen
            reasons.append(f"{name}: {str(error).splitlines()[0] if isinstance(error, CannotCut) else one_line(error)}")
    raise CalexError(f"network: {network} cannot be cut at its taps ({'; '.join(reasons)}); tap other modules")


class _Tracer(fx.Tracer):
    """Notes what the tapped modules give, and how far the graph is by then."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names, self.ends = set(names), dict[str, tuple[fx.Node, int]]()

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        output = super().call_module(m, forward, args, kwargs)
        name = self.path_of_module(m)
        if name in self.names and isinstance(output, fx.Proxy):
            self.ends[name] = (output.node, len(self.graph.nodes))
        return output


@contextmanager
def _length_traced(model: nn.Module) -> Iterator[None]:
    """Inside the block, `len(images)` in the network's own modules is a node of the graph: Python itself allows no such answer."""

    def length(value: Any) -> Any:
        return value.size(0) if isinstance(value, fx.Proxy) else len(value)

    owners = {type(module).__module__ for module in model.modules()}
    spaces = [vars(sys.modules[name]) for name in owners if not name.startswith("torch.") and name in sys.modules]
    spaces = [space for space in spaces if "len" not in space]
    for space in spaces:
        space["len"] = length
    try:
        yield
    finally:
        for space in spaces:
            del space["len"]


def _by_fx(model: nn.Module, taps: Sequence[str], shape: tuple[int, int, int]) -> Traced:
    tracer = _Tracer(taps)
    others = list(inspect.signature(model.forward).parameters.values())[1:]
    with _length_traced(model):
        graph = tracer.trace(model, {each.name: each.default for each in others if each.default is not each.empty} or None)
    for name in taps:
        if name not in tracer.ends:
            raise CannotCut(f"'{name}' lies inside a module that is traced as a whole")
    return Traced(model, graph, [tracer.ends[name] for name in taps])


class _WithTaps(nn.Module):
    """A network that gives its taps before its logits."""

    def __init__(self, model: nn.Module, taps: Sequence[str]) -> None:
        super().__init__()
        self.model, self.taps = model, tuple(taps)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs: dict[str, torch.Tensor] = {}

        def keep(name: str) -> Callable[..., None]:
            # The next module may work in place, and what it overwrites is the tap.
            return lambda module, inputs, output: outputs.__setitem__(name, output.clone())

        handles = [
            module.register_forward_hook(keep(name))
            for name, module in zip(self.taps, modules_of(self.model, self.taps), strict=True)
        ]
        try:
            logits = self.model(images)
        finally:
            for handle in handles:
                handle.remove()
        return (*(outputs[name] for name in self.taps), logits)


def _by_export(model: nn.Module, taps: Sequence[str], shape: tuple[int, int, int]) -> Traced:
    images = torch.zeros(3, *shape, device=next(model.parameters()).device)
    batch = torch.export.Dim("batch", max=1 << 20)
    program = torch.export.export(_WithTaps(model, taps), (images,), dynamic_shapes=({0: batch},), strict=False)
    root = program.module(check_guards=False) if _has_guards(program) else program.module()
    nodes = list(root.graph.nodes)
    *ends, logits = nodes[-1].args[0]
    nodes[-1].args = (logits,)
    return Traced(root, root.graph, [(node, nodes.index(node) + 1) for node in ends])


def _has_guards(program: Any) -> bool:
    return "check_guards" in inspect.signature(program.module).parameters


def _stages(traced: Traced, shape: tuple[int, int, int]) -> list[Stage]:
    """Build the stages, and find out by two batches what they carry."""
    graphs = _split(traced)
    device = next((tensor.device for tensor in traced.root.parameters()), torch.device("cpu"))
    two, three = (_carried(graphs, torch.zeros(images, *shape, device=device)) for images in (2, 3))
    kinds = [[_kind(*pair) for pair in zip(*values, strict=True)] for values in zip(two, three, strict=True)]
    return [Stage(graph, carried) for graph, carried in zip(graphs, [[ROWS], *kinds], strict=True)]


def _split(traced: Traced) -> list[fx.GraphModule]:
    """One graph for each stage; a constant of the network is read where it is used."""
    nodes = list(traced.graph.nodes)
    ends = [end for _, end in traced.taps]
    if sorted(ends) != ends:
        raise CannotCut("the graph reaches the taps in another order")
    stage_of = {node: sum(place >= end for end in ends) for place, node in enumerate(nodes)}
    graphs, carried = [], [node for node in nodes if node.op == "placeholder" and node.users][:1]
    for k in range(len(ends) + 1):
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {node: graph.placeholder(node.name) for node in carried}

        def copied(node: fx.Node, graph: fx.Graph = graph, copies: dict[fx.Node, fx.Node] = copies) -> fx.Node:
            if node not in copies:
                if node.op != "get_attr":
                    raise CannotCut(f"'{node.name}' is used before it is computed")
                copies[node] = graph.node_copy(node)
            return copies[node]

        for node in nodes:
            if stage_of[node] == k and node.op not in ("placeholder", "output", "get_attr"):
                copies[node] = graph.node_copy(node, copied)
        if k == len(ends):
            (logits,) = nodes[-1].args
            graph.output((copied(logits) if isinstance(logits, fx.Node) else _first(logits, copied),))
        else:
            carried = [
                node
                for node in nodes
                if stage_of[node] <= k and node.op != "get_attr" and any(stage_of[user] > k for user in node.users)
            ]
            graph.output((copied(traced.taps[k][0]), *map(copied, carried)))
        graphs.append(fx.GraphModule(traced.root, graph))
    return graphs


def _first(output: Any, copied: Callable[[fx.Node], fx.Node]) -> fx.Node:
    if isinstance(output, tuple | list) and output and isinstance(output[0], fx.Node):
        return copied(output[0])
    raise CannotCut("the network gives no tensor of logits")


@torch.no_grad()
def _carried(graphs: Sequence[nn.Module], images: torch.Tensor) -> list[list[Any]]:
    """What is carried over after each stage but the last, for some images."""
    values: Sequence[Any] = (images,)
    carried = []
    for graph in graphs:
        _, *values = graph(*values)
        carried.append(list(values))
    return carried[:-1]


def _kind(two: Any, three: Any) -> str:
    """What a value is that was carried for two images, and for three."""
    if isinstance(two, torch.Tensor) and isinstance(three, torch.Tensor):
        if two.shape[:1] == (2,) and three.shape[:1] == (3,) and two.shape[1:] == three.shape[1:]:
            return ROWS
        if two.shape == three.shape:
            return SAME
        raise CannotCut(f"what is carried past a tap, {tuple(two.shape)} for two images, has not one row for each")
    if type(two) is type(three) is int and (two, three) == (2, 3):
        return COUNT
    if isinstance(two, bool | int | float | str | torch.Size | tuple | type(None)) and two == three:
        return SAME
    raise CannotCut(f"a {type(two).__name__} is carried past a tap, which is no tensor with a row for each image")


def _compare(model: nn.Module, taps: Sequence[str], stages: Sequence[Stage], shape: tuple[int, int, int]) -> None:
    """See that the stages give the network's taps and logits, while after each of them an image is taken out."""
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    images = torch.randn((len(stages) + 1, *shape), generator=torch.Generator().manual_seed(0)).to(device)
    *outputs, logits = _WithTaps(model, taps)(images.clone())
    expected = [*outputs, logits[0] if isinstance(logits, tuple) else logits]
    values: Sequence[Any] = (images,)
    for place, (stage, whole) in enumerate(zip(stages, expected, strict=True)):
        if place:
            values = carry(values, stage.carried, slice(1, None), len(images) - place)
        output, *values = stage(*values)
        wanted = whole[place:]
        if output.shape != wanted.shape or not torch.allclose(
            output, wanted, atol=TOLERANCE * float(wanted.abs().max()), rtol=0
        ):
            what = "logits" if place == len(taps) else f"values at '{taps[place]}'"
            raise CannotCut(f"in stages it gives other {what} than whole")
