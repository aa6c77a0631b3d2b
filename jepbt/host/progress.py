"""Keeps track of a run of the host loop, in memory and in its folder.

`candidates.pkl` is a pickle of the user's own candidates, written whole or not at all
after every generation. Loading a pickle runs code: continue only runs of your own.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import pickle
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jepbt.checkpoints import differences
from jepbt.checkpoints import folder as run_directory
from jepbt.host.candidate import Candidate
from jepbt.results import Generation

if TYPE_CHECKING:
    import filelock

_CANDIDATES = "candidates.pkl"


@dataclasses.dataclass
class Pending:
    """A candidate that waits for its evaluation.

    Attributes:
        candidate: the candidate to evaluate.
        parent: the slot whose model it continues.
        failures: the number of its evaluations that have failed.
    """

    candidate: Candidate
    parent: int
    failures: int = 0


@dataclasses.dataclass
class Progress:
    """Everything that a run of the host loop needs in order to continue.

    Attributes:
        candidates: the last finished candidate of each of the `P` slots.
        parents: the slot whose model each finished candidate continued.
        ages: the number of finished evaluations of each slot.
        pending: unfinished candidates by slot, in the order of submission.
        strategy_state: the strategy's state, with NumPy leaves.
        generation: the number of finished generations.
        best: the best candidate so far, `None` before the first result.
    """

    candidates: list[Candidate]
    parents: list[int]
    ages: list[int]
    pending: dict[int, Pending]
    strategy_state: Any
    generation: int = 0
    best: Candidate | None = None

    def finish(self, slot: int, result: Candidate) -> None:
        """Puts the result of a pending candidate in its slot."""
        self.parents[slot] = self.pending.pop(slot).parent
        self.candidates[slot] = result
        self.ages[slot] += 1
        if self.best is None or self.best < result:
            self.best = result


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """The folder of a run, which this process alone may write to.

    Attributes:
        folder: the path of the folder.
        lock: the lock that keeps other runs out.
    """

    folder: pathlib.Path
    lock: filelock.BaseFileLock | None

    def save(self, progress: Progress, report: Generation) -> None:
        """Writes a generation's report and everything that the next ones need.

        Raises:
            TypeError: if a candidate cannot be pickled.
            ValueError: if the folder cannot be written to.
        """
        try:
            content = pickle.dumps(progress)
        except Exception as error:  # whatever the model's own pickling raises
            raise TypeError(
                f"a candidate cannot be pickled, which run_dir={str(self.folder)!r} "
                f"needs: {type(error).__name__}: {error}"
            ) from error
        try:
            run_directory.append_history(self.folder, report)
            run_directory.replace(self.folder / _CANDIDATES, content, sync=True)
        except OSError as error:
            raise run_directory.not_writable(self.folder, error) from error

    def close(self) -> None:
        """Lets other runs use the folder."""
        if self.lock is not None:
            self.lock.release()


def open_run(
    path: str | os.PathLike, resume: bool, settings: Mapping[str, Any]
) -> tuple[RunFiles, Progress | None]:
    """Takes a folder for a run, and loads the run that it holds.

    Args:
        path: the folder, made if it is missing.
        resume: `True` to continue the run in the folder, `False` to refuse it.
        settings: the settings that must not change within a run, as JSON values.

    Returns:
        The folder, and the progress of its run: `None` for a run that starts.

    Raises:
        ValueError: if the folder cannot be used, or holds another run.
    """
    folder = run_directory.claim(path, resume=resume)
    files = RunFiles(folder, run_directory.lock(folder))
    try:
        # Another run may have come between the first look and the lock.
        run_directory.claim(path, resume=resume)
        if run_directory.holds_run(folder):
            return files, _load(folder, settings)
        run_directory.write_config(folder, settings)
        return files, None
    except BaseException:
        files.close()
        raise


def _load(folder: pathlib.Path, settings: Mapping[str, Any]) -> Progress | None:
    """Reads how far a run has come; `None` if it has not finished a generation."""
    stored = run_directory.read_config(folder)
    if stored.get("loop") != settings["loop"]:
        raise ValueError(
            f"run_dir={str(folder)!r} holds a run that jepbt.epbt did not make. Name "
            "another folder."
        )
    found = differences(_group(stored), _group(settings))
    if found:
        raise ValueError(
            f"run_dir={str(folder)!r} holds a run with other settings: "
            f"{'; '.join(found)}. Continue with the old ones, or name another folder."
        )
    progress = _read_candidates(folder)
    _cut_history(folder, progress.generation if progress else 0)
    return progress


def _group(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Groups settings as `differences` reads them."""
    others = {name: value for name, value in settings.items() if name != "hparams"}
    return {"settings": others, "hparams": settings.get("hparams")}


def _read_candidates(folder: pathlib.Path) -> Progress | None:
    path = folder / _CANDIDATES
    if not path.exists():
        return None
    try:
        progress = pickle.loads(path.read_bytes())
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
    history = folder / "history.jsonl"
    if history.exists():
        lines = history.read_bytes().splitlines(keepends=True)[:num_generations]
        run_directory.replace(history, b"".join(lines))
