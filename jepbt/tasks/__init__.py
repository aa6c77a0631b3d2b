"""Defines tasks, the problems that a population learns to solve."""

from jepbt.tasks.adaptation import Adaptation, Adapted, adapt
from jepbt.tasks.classification import StandardHyperParameters, classification
from jepbt.tasks.distillation import Distillation, distillation
from jepbt.tasks.regression import RegressionHyperParameters, regression, squared_error
from jepbt.tasks.supervised import Learner, Supervised
from jepbt.tasks.task import Blend, Inference, Splits, Task, shrink_and_perturb

__all__ = [
    "Adaptation",
    "Adapted",
    "Blend",
    "Distillation",
    "Inference",
    "Learner",
    "RegressionHyperParameters",
    "Splits",
    "StandardHyperParameters",
    "Supervised",
    "Task",
    "adapt",
    "classification",
    "distillation",
    "regression",
    "shrink_and_perturb",
    "squared_error",
]
