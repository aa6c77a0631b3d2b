"""Results: what happened in a run, and what came out of it."""

from jepbt.results.ensembles import Ensemble
from jepbt.results.history import (
    Generation,
    History,
    Score,
    describe,
    load_history,
    make_generation,
    to_json,
)
from jepbt.results.recorded import Recorded, find_loss
from jepbt.results.schedules import Schedules, load_schedules, make_schedules

__all__ = [
    "Ensemble",
    "Generation",
    "History",
    "Recorded",
    "Schedules",
    "Score",
    "describe",
    "find_loss",
    "load_history",
    "load_schedules",
    "make_generation",
    "make_schedules",
    "to_json",
]
