"""Early exits for frozen image classifiers: features once, then branches, thresholds and honest curves.

`attach` gives a network of your own early exits; `load` opens a finished cascade (`Cascade`), which answers pictures,
and `load_onnx` one that needs no torch.

While it is trained and compared, a cascade is a set of files, one for each branch, that say what the branch predicts for every
image (`Exits`). From there on everything is arrays, and nothing imports torch:

- `open_store` opens the frozen network's features; `read_exits` reads what trained branches predict.
- `exit_scores` turns probabilities into the scores that thresholds are compared with.
- `cpm_thresholds` chooses thresholds on validation images; `leave` and `predict` apply them, `oracle` is the bound that
  needs the labels, `measure` gives accuracy and cost.
- `survival_probability` and `survivor_weights` say how much each training image counts for the next branch.
- `read_points` reads the operating points of a finished comparison; `at_budgets` chooses the ones to deploy,
  `pareto_front` those that no other beats, and `paired_difference` compares two of them image by image.

`python -m calex` runs each step of the workflow by hand.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Where each name is defined. Imported when it is first asked for: a step imports what it needs and nothing else.
# __init__.pyi says the same to editors and type checkers.
_DEFINED = {
    "Cascade": ("calex.deploy.cascade", "Cascade"),
    "CalexError": ("calex.errors", "CalexError"),
    "Costs": ("calex.simulation.cost", "Costs"),
    "Exits": ("calex.simulation.exits", "Exits"),
    "attach": ("calex.deploy.attach", "attach"),
    "at_budgets": ("calex.comparison.pareto", "at_budgets"),
    "cpm_thresholds": ("calex.policies.cpm", "cpm_thresholds"),
    "effective_sample_size": ("calex.weightings", "effective_sample_size"),
    "exit_scores": ("calex.simulation.scores", "scores"),
    "load": ("calex.deploy.folder", "read"),
    "load_onnx": ("calex.deploy.onnx", "read"),
    "leave": ("calex.simulation.cascade", "leave"),
    "measure": ("calex.simulation.evaluation", "measure"),
    "open_store": ("calex.features.store", "open_store"),
    "oracle": ("calex.simulation.cascade", "oracle"),
    "paired_difference": ("calex.comparison.paired", "difference"),
    "pareto_front": ("calex.comparison.pareto", "front"),
    "predict": ("calex.simulation.cascade", "predict"),
    "read_exits": ("calex.simulation.exits", "read"),
    "read_points": ("calex.report.inputs", "read_points"),
    "survival_probability": ("calex.weightings.survivors", "survival_probability"),
    "survivor_weights": ("calex.weightings.survivors", "weights"),
}

__all__ = sorted(_DEFINED)


def __getattr__(name: str) -> Any:
    if name not in _DEFINED:
        raise AttributeError(f"module 'calex' has no attribute '{name}'")
    module, attribute = _DEFINED[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *_DEFINED})
