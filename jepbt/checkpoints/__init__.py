"""Checkpoints: a run's folder, what is saved in it, and how a run goes on."""

from jepbt.checkpoints.checkpoint import Damaged
from jepbt.checkpoints.identity import differences, identify
from jepbt.checkpoints.resume import RunFolder, open_folder
from jepbt.checkpoints.writer import Keeper

__all__ = [
    "Damaged",
    "Keeper",
    "RunFolder",
    "differences",
    "identify",
    "open_folder",
]
