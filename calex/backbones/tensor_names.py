"""Which tensor of a file is which tensor of a network: names compared as they are, then without what was put around them.

A library puts words before the names of a network's tensors (`module.` by data parallelism, `_orig_mod.` by
torch.compile, `model.` by Lightning, `backbone.` by many), or inside them, where a part of the network was wrapped.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

Shapes = Mapping[str, tuple[int, ...]]

# What torch's data-parallel wrappers and torch.compile put into names, as words between dots.
WRAPPERS = {"module", "_orig_mod"}
# Numbers that averaging (SWA) and profilers keep beside the tensors of any network.
COUNTERS = {"n_averaged", "total_ops", "total_params"}
# A counter that only some versions of torch save, and that evaluation mode never reads.
OPTIONAL = "num_batches_tracked"
# Modules of a training loop that have tensors of their own.
TRAINING_ONLY = re.compile(r"criteri|loss|metric|accuracy", re.IGNORECASE)


def without_wrappers(name: str) -> str:
    """`layer1._orig_mod.0.weight` → `layer1.0.weight`."""
    return ".".join(word for word in name.split(".") if word not in WRAPPERS)


@dataclass(frozen=True)
class Match:
    """A way to read a file's tensors as a network's.

    prefix: what stands before the names in the file, without its last dot. names: {the network's name: the file's}.
    left_out: names of the file that are not the network's. missing: names of the network that the file lacks.
    unknown: names of the file that should be the network's and are not. misfits: names of the network whose tensor has
    another shape in the file.
    """

    prefix: str
    names: dict[str, str]
    left_out: list[str]
    missing: list[str]
    unknown: list[str]
    misfits: list[str]

    @property
    def complete(self) -> bool:
        """Whether the file holds the whole network and nothing that should be of it."""
        return not (self.missing or self.unknown or self.misfits)


def matches(theirs: Shapes, ours: Shapes, replaced: Collection[str] = ()) -> list[Match]:
    """List every way in which the file holds the whole network; if there is none, the one way that comes closest.

    theirs, ours: {name: shape} of the file and of the network. replaced: names of the network that the file may lack or
    hold in another shape, because other tensors take their place.
    """
    closest: list[Match] = []
    for spelling in (str, without_wrappers):
        there, here = _spelled(theirs, spelling), _spelled(ours, spelling)
        if there is None or here is None:
            continue
        readings = list(_with_prefixes(there, here, theirs, ours, replaced))
        complete = [match for match in readings if match.complete]
        if complete:
            return complete
        closest += readings
    best = max(closest, key=lambda match: len(match.names), default=None)
    if best is None:
        return []
    return [best if len(best.names) > len(ours) / 2 else closest[0]]  # fewer are alike by chance


def _spelled(names: Shapes, spelling: Callable[[str], str]) -> dict[str, str] | None:
    """Return {a name's other spelling: the name}; None where two become one."""
    spelled = {spelling(name): name for name in names}
    return spelled if len(spelled) == len(names) else None


def _suffixes(name: str) -> Iterator[tuple[str, str]]:
    """`a.b.c` → (`a.`, `b.c`), (`a.b.`, `c`)."""
    for dot in re.finditer(r"\.", name):
        yield name[: dot.end()], name[dot.end() :]


def _with_prefixes(
    there: dict[str, str], here: dict[str, str], theirs: Shapes, ours: Shapes, replaced: Collection[str]
) -> Iterator[Match]:
    # (a prefix of the file, a prefix of all of the network): the names as they are, then the likeliest.
    counts: Counter[tuple[str, str]] = Counter()
    for own in ("", *(prefix for prefix, _ in _suffixes(next(iter(here), "")) if all(n.startswith(prefix) for n in here))):
        rests = {name.removeprefix(own) for name in here}
        counts.update((prefix, own) for name in there for prefix, rest in (("", name), *_suffixes(name)) if rest in rests)
    names = {pair: _names(there, here, *pair) for pair in [("", ""), *(pair for pair, _ in counts.most_common())]}
    needed = [name for name in ours if name not in replaced and not name.endswith(OPTIONAL)]
    whole = {pair: pairs for pair, pairs in names.items() if all(name in pairs for name in needed)}
    explained = {name for pairs in whole.values() for name in pairs.values()}
    modules = {name.split(".")[0] for name in here}
    for (prefix, _), pairs in (whole or names).items():
        used, left_out, unknown = set(pairs.values()), list[str](), list[str]()
        for spelled, name in there.items():
            word = spelled.removeprefix(prefix).split(".")[0]
            if name in used or spelled.rsplit(".", 1)[-1] in COUNTERS:
                continue
            elsewhere = not spelled.startswith(prefix) or name in explained
            (left_out if elsewhere or (TRAINING_ONLY.search(word) and word not in modules) else unknown).append(name)
        yield Match(
            prefix=prefix.removesuffix("."),
            names=pairs,
            left_out=left_out,
            missing=[name for name in needed if name not in pairs],
            unknown=unknown,
            misfits=[
                name for name, source in pairs.items() if name not in replaced and tuple(theirs[source]) != tuple(ours[name])
            ],
        )


def _names(there: dict[str, str], here: dict[str, str], strip: str, add: str) -> dict[str, str]:
    """Return {the network's name: the file's}, if the file's begin with `strip` where the network's begin with `add`."""
    pairs = {name: strip + spelled.removeprefix(add) for spelled, name in here.items() if spelled.startswith(add)}
    return {name: there[spelled] for name, spelled in pairs.items() if spelled in there}
