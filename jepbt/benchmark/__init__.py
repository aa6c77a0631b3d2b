"""Benchmarks: what a population costs by its size, and beside other ways."""

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
