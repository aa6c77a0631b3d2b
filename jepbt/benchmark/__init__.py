"""Measures populations by their size, and beside other ways to train them."""

from jepbt.benchmark.reports import (
    ScalingReport,
    ScalingRow,
    SpeedReport,
    SpeedRow,
    Spread,
)
from jepbt.benchmark.scaling import scaling

__all__ = [
    "ScalingReport",
    "ScalingRow",
    "SpeedReport",
    "SpeedRow",
    "Spread",
    "scaling",
]
