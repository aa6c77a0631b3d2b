"""The run directory of the host loop: what it takes to go on, and the history.

`candidates.pkl` is a pickle of the user's own candidates, written whole or not at all
after every generation. Loading a pickle runs code: continue only runs of your own.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np

from jepbt.checkpoints import folder as run_directory
from jepbt.host.candidate import Candidate
from jepbt.hyperparameters import HyperParameters

_CONFIG = "config.json"
_HISTORY = "history.jsonl"
_CANDIDATES = "candidates.pkl"


@dataclasses.dataclass
class Pending:
    """A candidate that is still to be evaluated.

    Attributes:
        candidate: to evaluate.
        parent: the slot whose model it goes on from.
        failures: how often its evaluation has failed.
    """

    candidate: Candidate
    parent: int
    failures: int = 0


@dataclasses.dataclass
class Progress:
    """Where a run of the host loop stands; all that continuing it takes.

    Attributes:
        candidates: the last finished one of each of the `P` slots.
        hparams: theirs, as strategies see them, NumPy leaves `[P, ...]`.
        fitness: theirs, `f32[P]`.
        standard_error: of the fitness, `f32[P]`.
        pending: by slot, in the order of submission.
        strategy_state: the strategy's own, NumPy leaves.
        parents: the slot whose model each finished candidate went on from.
        ages: how many evaluations of each slot have ended.
        generation: how many generations have ended.
        best: the best so far, `None` before the first result.
    """

    candidates: list[Candidate]
    hparams: HyperParameters
    fitness: np.ndarray
    standard_error: np.ndarray
    pending: dict[int, Pending]
    strategy_state: Any
    parents: list[int]
    ages: list[int]
    generation: int = 0
    best: Candidate | None = None


def open_directory(
    path: str | os.PathLike, resume: bool, settings: Mapping[str, Any]
) -> tuple[pathlib.Path, Progress | None]:
    """Takes a folder for a run, or finds the run that it holds.

    Args:
        path: absent, or a folder.
        resume: whether a run in it is continued; otherwise it is refused.
        settings: what must not change within a run, JSON values.

    Returns:
        The folder, and where its run stands: `None` for a new one.

    Raises:
        ValueError: if the folder holds a run and `resume` is false, or one of other
            settings, or of another kind, or cannot be written to or read.
    """
    folder = pathlib.Path(path)
    if not resume and os.path.exists(folder / _CONFIG):
        raise ValueError(
            f"run_dir={str(path)!r} holds a run already, which stays as it is. "
            "Continue it with resume=True, or name another folder."
        )
    if not (resume and os.path.exists(folder / _CONFIG)):
        folder = run_directory.claim(folder)
        run_directory.write_config(folder, settings)
        return folder, None
    try:
        stored = json.loads((folder / _CONFIG).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"run_dir={str(path)!r}: {_CONFIG} cannot be read: {error}"
        ) from error
    if stored.get("loop") != settings["loop"]:
        raise ValueError(
            f"run_dir={str(path)!r} holds a run that jepbt.epbt did not make. Name "
            "another folder."
        )
    differences = [
        f"{name} was {stored.get(name)!r}, now {value!r}"
        for name, value in settings.items()
        if stored.get(name) != value
    ]
    if differences:
        raise ValueError(
            f"run_dir={str(path)!r} holds a run with other settings: "
            f"{'; '.join(differences)}. Continue with the old ones, or name another "
            "folder."
        )
    progress = _load(folder)
    _cut_history(folder, progress.generation if progress else 0)
    return folder, progress


def save(folder: pathlib.Path, progress: Progress) -> None:
    """Writes `candidates.pkl`, whole or not at all.

    Raises:
        TypeError: if a candidate cannot be pickled.
    """
    try:
        content = pickle.dumps(progress)
    except Exception as error:  # whatever the model's own pickling raises
        raise TypeError(
            f"a candidate cannot be pickled, which run_dir={str(folder)!r} needs: "
            f"{type(error).__name__}: {error}"
        ) from error
    temporary = folder / f".{_CANDIDATES}"
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / _CANDIDATES)


def _load(folder: pathlib.Path) -> Progress | None:
    if not (folder / _CANDIDATES).exists():
        return None  # stopped within its first generation
    try:
        progress = pickle.loads((folder / _CANDIDATES).read_bytes())
    except Exception as error:  # whatever the user's classes raise
        raise ValueError(
            f"run_dir={str(folder)!r}: {_CANDIDATES} cannot be read: "
            f"{type(error).__name__}: {error}. Have the candidates' classes moved?"
        ) from error
    if not isinstance(progress, Progress):
        raise ValueError(f"run_dir={str(folder)!r}: {_CANDIDATES} holds no run.")
    return progress


def _cut_history(folder: pathlib.Path, num_generations: int) -> None:
    """Drops generations that ended after the last save, and will run again."""
    history = folder / _HISTORY
    if history.exists():
        lines = history.read_bytes().splitlines(keepends=True)[:num_generations]
        temporary = folder / f".{_HISTORY}"
        temporary.write_bytes(b"".join(lines))
        temporary.replace(history)
