"""A stage made faster: BatchNorm folded into the convolution before it, and on a CPU what follows done in the same kernel.

The function is the same up to the order of sums. On a CPU oneDNN's fused convolution adds, and takes ReLU and its like, while
values are in registers. For a single image its weights are kept in the order that the kernel reads, where otherwise they are
put in order at each call: in a deep stage that takes as long as the convolution itself. Which order that is depends on the map.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

# What may follow a convolution in its kernel: the kernel's name and numbers for each module, and for each function.
MODULES: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.SiLU: ("swish", []),
    nn.Hardswish: ("hardswish", []),
}
RELU = (nn.functional.relu, torch.relu, torch.relu_)
PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "hardtanh": nn.functional.relu6,
    "swish": nn.functional.silu,
    "hardswish": nn.functional.hardswish,
    "none": lambda values: values,
}
ADD = (operator.add, torch.add)  # torch.fx writes `a += b` as the first of them


class FusedConvolution(nn.Module):
    """act(convolution(x) + other) in one kernel; on another device, in another precision or when compiled, as usual.

    act: a name of `PLAIN`, with its numbers. other: (B, C, H, W) or None.
    """

    def __init__(self, convolution: nn.Conv2d, act: str, numbers: list[float]) -> None:
        super().__init__()
        self.convolution, self.act, self.numbers = convolution, act, numbers
        # The weights as the kernel reads them for an image of a shape; made when they are first needed.
        self.ordered: tuple[torch.Size, Tensor] | None = None

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Compute what the class says."""
        # The kernel adds maps of its own shape; that of torch 2.6 none that hold one value a channel.
        adds = other is None or (other.shape == self.shape(x) and other.numel() != other.shape[1])
        floats = x.dtype == self.convolution.weight.dtype == torch.float32
        if not (x.device.type == "cpu" and floats and adds and usable()):
            out = self.convolution(x)
            return PLAIN[self.act](out if other is None else out + other)
        of = self.convolution
        how: Any = (of.padding, of.stride, of.dilation, of.groups)
        weight: Tensor = of.weight
        if len(x) == 1:
            if self.ordered is None or self.ordered[0] != x.shape:
                order: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
                self.ordered = x.shape, order(of.weight.to_mkldnn(), *how, list(x.shape))
            weight = self.ordered[1]
        kernel = torch.ops.mkldnn._convolution_pointwise
        if other is None:
            return kernel(x, weight, of.bias, *how, self.act, self.numbers, "")
        act = None if self.act == "none" else self.act
        return kernel.binary(x, other, weight, of.bias, *how, "add", 1.0, act, self.numbers, "")

    def shape(self, x: Tensor) -> tuple[int, ...]:
        """Return the shape (B, C, H, W) of the convolution's output."""
        of = self.convolution
        each: Any = zip(x.shape[2:], of.padding, of.dilation, of.kernel_size, of.stride, strict=True)
        sides = (
            (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1 for side, padding, dilation, kernel, stride in each
        )
        return (len(x), of.out_channels, *sides)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "ordered": None}  # such tensors cannot be copied


def usable() -> bool:
    """Whether oneDNN's fused kernel may run now; under autocast and the compiler it may not."""
    return bool(
        torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled  # type: ignore[attr-defined]
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    )


def fuse(graph: fx.GraphModule) -> int:
    """Fuse a stage's graph; gives how many convolutions now do the work of what followed them.

    The new convolutions are new modules: the network that the graph was cut from stays as it is.
    """
    changed = 0
    for node in list(graph.graph.nodes):
        if (of := _convolution(graph, node)) is None:
            continue
        nodes, convolution = [node], of
        if (norm := _alone_after(nodes)) is not None and _module(graph, norm, nn.BatchNorm2d):
            convolution = fuse_conv_bn_eval(of, graph.get_submodule(str(norm.target)))  # type: ignore[arg-type]
            nodes.append(norm)
        other = None
        if (added := _alone_after(nodes)) is not None and (other := _other(added, nodes[-1])) is not None:
            nodes.append(added)
        act = ("none", list[float]())
        if (after := _alone_after(nodes)) is not None and (follows := _act(graph, after)) is not None:
            act = follows
            nodes.append(after)
        changed += len(nodes) > 1
        _replace(graph, nodes, FusedConvolution(convolution, *act), other)
    graph.delete_all_unused_submodules()
    graph.recompile()
    return changed


def _replace(graph: fx.GraphModule, nodes: list[fx.Node], module: nn.Module, other: fx.Node | None) -> None:
    """Put one module where the last of some nodes is, and take the nodes out."""
    name = f"fused_{nodes[0].name}"
    graph.add_module(name, module)
    with graph.graph.inserting_before(nodes[-1]):
        one = graph.graph.call_module(name, (nodes[0].args[0], *([] if other is None else [other])))
    nodes[-1].replace_all_uses_with(one)
    for node in reversed(nodes):
        graph.graph.erase_node(node)


def _convolution(graph: fx.GraphModule, node: fx.Node) -> nn.Conv2d | None:
    """Return the node's convolution, if it is one that the kernel knows."""
    if not _module(graph, node, nn.Conv2d):
        return None
    of = graph.get_submodule(str(node.target))
    assert isinstance(of, nn.Conv2d)
    return of if isinstance(of.padding, tuple) and of.padding_mode == "zeros" else None


def _module(graph: fx.GraphModule, node: fx.Node, kind: type[nn.Module]) -> bool:
    called = node.op == "call_module" and len(node.args) == 1 and not node.kwargs
    return called and type(graph.get_submodule(str(node.target))) is kind


def _alone_after(nodes: list[fx.Node]) -> fx.Node | None:
    """Return the only node that reads the last of some."""
    users = list(nodes[-1].users)
    return users[0] if len(users) == 1 else None


def _other(added: fx.Node, summand: fx.Node) -> fx.Node | None:
    """Return what is added to a node, if two maps are; `x + x` and a number are not."""
    if added.op != "call_function" or added.target not in ADD or len(added.args) != 2 or added.kwargs:
        return None
    others = [each for each in added.args if each is not summand]
    if len(others) != 1 or not isinstance(others[0], fx.Node):
        return None
    return others[0]


def _act(graph: fx.GraphModule, node: fx.Node) -> tuple[str, list[float]] | None:
    """Return the kernel's name and numbers of a function that follows."""
    if node.op == "call_module" and len(node.args) == 1 and not node.kwargs:
        return MODULES.get(type(graph.get_submodule(str(node.target))))
    is_relu = (node.op == "call_function" and node.target in RELU) or (
        node.op == "call_method" and node.target in ("relu", "relu_")
    )
    return ("relu", []) if is_relu and len(node.args) == 1 else None
