"""Draws pictures of a run's history or a report, one function each."""

from jepbt.plots.animation import animate
from jepbt.plots.comparison import comparison
from jepbt.plots.confusions import confusions
from jepbt.plots.history import describe_lineage, fitness, hparam_schedules, lineage
from jepbt.plots.losses import attraction, evolved_loss
from jepbt.plots.scaling import scaling

__all__ = [
    "animate",
    "attraction",
    "comparison",
    "confusions",
    "describe_lineage",
    "evolved_loss",
    "fitness",
    "hparam_schedules",
    "lineage",
    "scaling",
]
