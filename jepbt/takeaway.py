"""The files that a run leaves for others to use: `schedule.json` and `loss.py`."""

from __future__ import annotations

import pathlib

import numpy as np

from jepbt import run_directory
from jepbt.recorded import Recorded


def save_schedule(folder: pathlib.Path, run: Recorded) -> None:
    """Writes the winner's schedule so far.

    The file is replaced whole. Before any member has a finite fitness there is no
    winner and nothing is written.

    Args:
        folder: of the run.
        run: to take it from.
    """
    if not np.isnan(run.history.fitness).all():
        run_directory.replace(folder / "schedule.json", run.schedule.to_json().encode())


def save_loss(folder: pathlib.Path, run: Recorded) -> None:
    """Writes the winner's loss so far, if one evolved; as `save_schedule` does."""
    if run.has_loss and not np.isnan(run.history.fitness).all():
        run_directory.replace(folder / "loss.py", run.evolved_loss.source().encode())
