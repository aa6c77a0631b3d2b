"""The files that a run leaves for others to use: `schedule.json` and `loss.py`."""

from __future__ import annotations

import pathlib

import numpy as np

from jepbt import run_directory
from jepbt.recorded import Recorded


def save(folder: pathlib.Path, run: Recorded) -> None:
    """Writes the winner's schedule so far, and its loss if one evolved.

    Each file is replaced whole. Before any member has a finite fitness there is no
    winner and nothing is written.

    Args:
        folder: of the run.
        run: to take them from.
    """
    if np.isnan(run.history.fitness).all():
        return
    run_directory.replace(folder / "schedule.json", run.schedule.to_json().encode())
    if run.has_loss:
        run_directory.replace(folder / "loss.py", run.evolved_loss.source().encode())
