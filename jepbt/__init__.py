"""Trains and evolves a population of neural networks as one JAX program.

Example:
    >>> import jepbt
    >>> task = jepbt.classification("fashion_mnist")
    >>> result = jepbt.train_population(task)  # doctest: +SKIP
"""

from jepbt import augment, datasets, losses, models, nn, plots, strategies, taylorglo
from jepbt.benchmark import scaling
from jepbt.candidate import Candidate, field_dict
from jepbt.config import Config
from jepbt.execution import use_all_cpu_cores
from jepbt.history import load_history
from jepbt.host import epbt
from jepbt.hyperparameters import (
    HyperParameters,
    Loss,
    choose,
    hparam,
    taylor_hparam,
)
from jepbt.interruption import Interrupted
from jepbt.population import Splits, Task
from jepbt.regression import regression
from jepbt.replaying import replay
from jepbt.result import Result
from jepbt.task import classification
from jepbt.teaching import distillation
from jepbt.train import train_population
from jepbt.training import make_run

__version__ = "0.1.0"

__all__ = [
    "Candidate",
    "Config",
    "HyperParameters",
    "Interrupted",
    "Loss",
    "Result",
    "Splits",
    "Task",
    "augment",
    "choose",
    "classification",
    "datasets",
    "distillation",
    "epbt",
    "field_dict",
    "hparam",
    "load_history",
    "losses",
    "make_run",
    "models",
    "nn",
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
