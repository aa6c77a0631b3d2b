"""Checkpoints: a run's folder, its saved states, and how a run continues."""

from jepbt.checkpoints.identity import differences, identify
from jepbt.checkpoints.keeper import Keeper
from jepbt.checkpoints.resume import RunFolder

__all__ = [
    "Keeper",
    "RunFolder",
    "differences",
    "identify",
]
