"""Trains and evolves a population of neural networks as one JAX program.

Example:
    >>> import jepbt
    >>> task = jepbt.classification("fashion_mnist")
    >>> result = jepbt.train_population(task)  # doctest: +SKIP
"""

from jepbt import augment, datasets, losses, models, nn, operators, plots, strategies
from jepbt.benchmark import scaling
from jepbt.comparison import Arm, Comparison, compare
from jepbt.config import VERSION, Config
from jepbt.engine import make_run, use_all_cpu_cores
from jepbt.host import Candidate, epbt, field_dict
from jepbt.hyperparameters import HyperParameters, Loss, choose, hparam, taylor_hparam
from jepbt.losses import taylorglo
from jepbt.results import load_history
from jepbt.tasks import (
    Splits,
    Task,
    adapt,
    classification,
    distillation,
    regression,
)
from jepbt.training import (
    Interrupted,
    Result,
    load,
    may_fail,
    replay,
    train_population,
)

__version__ = VERSION

__all__ = [
    "Arm",
    "Candidate",
    "Comparison",
    "Config",
    "HyperParameters",
    "Interrupted",
    "Loss",
    "Result",
    "Splits",
    "Task",
    "adapt",
    "augment",
    "choose",
    "classification",
    "compare",
    "datasets",
    "distillation",
    "epbt",
    "field_dict",
    "hparam",
    "load",
    "load_history",
    "losses",
    "make_run",
    "may_fail",
    "models",
    "nn",
    "operators",
    "plots",
    "regression",
    "replay",
    "scaling",
    "strategies",
    "taylor_hparam",
    "taylorglo",
    "train_population",
    "use_all_cpu_cores",
]
