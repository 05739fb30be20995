"""The names of __init__.py as editors and type checkers read them."""

from calex.cascade import leave, oracle, predict
from calex.cost import Costs
from calex.errors import CalexError
from calex.evaluation import measure
from calex.exits import Exits
from calex.exits import read as read_exits
from calex.features.store import open_store
from calex.paired import difference as paired_difference
from calex.pareto import at_budgets
from calex.pareto import front as pareto_front
from calex.policies.cpm import cpm_thresholds
from calex.report.inputs import read_points
from calex.scores import scores as exit_scores
from calex.weightings import effective_sample_size
from calex.weightings.survivors import survival_probability
from calex.weightings.survivors import weights as survivor_weights

__version__: str
__all__ = [
    "CalexError",
    "Costs",
    "Exits",
    "at_budgets",
    "cpm_thresholds",
    "effective_sample_size",
    "exit_scores",
    "leave",
    "measure",
    "open_store",
    "oracle",
    "paired_difference",
    "pareto_front",
    "predict",
    "read_exits",
    "read_points",
    "survival_probability",
    "survivor_weights",
]
