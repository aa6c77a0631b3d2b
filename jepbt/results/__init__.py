"""Results: what happened in a run, and what came out of it."""

from jepbt.results.ensembles import Ensemble
from jepbt.results.history import (
    Generation,
    History,
    Score,
    describe,
    make_generation,
)
from jepbt.results.json_lines import load_history, to_json
from jepbt.results.recorded import Recorded
from jepbt.results.schedules import Schedules, load_schedules

__all__ = [
    "Ensemble",
    "Generation",
    "History",
    "Recorded",
    "Schedules",
    "Score",
    "describe",
    "load_history",
    "load_schedules",
    "make_generation",
    "to_json",
]
