"""Training: a run from its first check to its result."""

from jepbt.training.interruption import Interrupted
from jepbt.training.load import load
from jepbt.training.observers import Callback, may_fail
from jepbt.training.preparation import Prepared, prepare
from jepbt.training.replay import replay
from jepbt.training.result import Result
from jepbt.training.train import execute, train_population
from jepbt.training.winner import Winner

__all__ = [
    "Callback",
    "Interrupted",
    "Prepared",
    "Result",
    "Winner",
    "execute",
    "load",
    "may_fail",
    "prepare",
    "replay",
    "train_population",
]
