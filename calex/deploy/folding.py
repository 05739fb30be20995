"""BatchNorm folded into the convolution before it: fewer passes over memory, the same function up to the order of sums."""

from __future__ import annotations

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold(graph: fx.GraphModule) -> int:
    """Fold, in a stage's graph, each BatchNorm that alone reads a convolution; gives how many.

    The folded convolutions are new modules: the network that the graph was cut from stays as it is.
    """
    modules = dict(graph.named_modules())
    folded = 0
    for node in list(graph.graph.nodes):
        if not _is(node, modules, nn.BatchNorm2d):
            continue
        (before,) = node.args
        if not isinstance(before, fx.Node) or not _is(before, modules, nn.Conv2d) or len(before.users) != 1:
            continue
        name = f"folded{folded}"
        graph.add_module(name, fuse_conv_bn_eval(modules[str(before.target)], modules[str(node.target)]))
        with graph.graph.inserting_before(before):
            both = graph.graph.call_module(name, before.args)
        node.replace_all_uses_with(both)
        graph.graph.erase_node(node)
        graph.graph.erase_node(before)
        folded += 1
    graph.delete_all_unused_submodules()
    graph.recompile()
    return folded


def _is(node: fx.Node, modules: dict[str, nn.Module], kind: type[nn.Module]) -> bool:
    return node.op == "call_module" and type(modules[str(node.target)]) is kind and len(node.args) == 1 and not node.kwargs
