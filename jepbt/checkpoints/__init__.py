"""Checkpoints: a run's folder, its saved states, and how a run continues."""

from jepbt.checkpoints.checkpoint import Damaged
from jepbt.checkpoints.identity import differences, identify
from jepbt.checkpoints.keeper import Keeper
from jepbt.checkpoints.resume import RunFolder, open_folder

__all__ = [
    "Damaged",
    "Keeper",
    "RunFolder",
    "differences",
    "identify",
    "open_folder",
]
