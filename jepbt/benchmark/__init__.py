"""Measures populations by their size, and beside other ways to train them."""

from jepbt.benchmark.reports import ScalingReport, ScalingRow, Spread
from jepbt.benchmark.scaling import scaling

__all__ = ["ScalingReport", "ScalingRow", "Spread", "scaling"]
