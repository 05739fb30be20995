"""The names of __init__.py as editors and type checkers read them."""

from calex.comparison.paired import difference as paired_difference
from calex.comparison.pareto import at_budgets
from calex.comparison.pareto import front as pareto_front
from calex.deploy.attach import attach
from calex.deploy.cascade import Cascade
from calex.deploy.folder import read as load
from calex.deploy.onnx import read as load_onnx
from calex.errors import CalexError
from calex.features.store import open_store
from calex.policies.cpm import cpm_thresholds
from calex.report.inputs import read_points
from calex.simulation.cascade import leave, oracle, predict
from calex.simulation.cost import Costs
from calex.simulation.evaluation import measure
from calex.simulation.exits import Exits
from calex.simulation.exits import read as read_exits
from calex.simulation.scores import scores as exit_scores
from calex.weightings import effective_sample_size
from calex.weightings.survivors import survival_probability
from calex.weightings.survivors import weights as survivor_weights

__version__: str
__all__ = [
    "CalexError",
    "Cascade",
    "Costs",
    "Exits",
    "at_budgets",
    "attach",
    "cpm_thresholds",
    "effective_sample_size",
    "exit_scores",
    "leave",
    "load",
    "load_onnx",
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
