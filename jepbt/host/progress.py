"""Keeps track of a run of the host loop, in memory and in its folder.

`candidates.pkl` is a pickle of the user's own candidates, written whole or not at all
after every generation. Loading a pickle runs code: continue only runs of your own.
"""

import contextlib
import dataclasses
import os
import pathlib
import pickle
from collections.abc import Callable, Mapping
from typing import Any

from jepbt.checkpoints import differences
from jepbt.checkpoints import folder as run_directory
from jepbt.checkpoints.identity import versions
from jepbt.checkpoints.resume import take
from jepbt.engine.member import hash_parts, trace_evolution, trace_start
from jepbt.engine.switches import own_rules
from jepbt.host.candidate import Candidate
from jepbt.host.evaluation import one_line, pickled
from jepbt.optional import optional
from jepbt.results import Generation
from jepbt.strategies import Strategy

_CANDIDATES = "candidates.pkl"


@dataclasses.dataclass
class Pending:
    """A candidate that waits for its evaluation."""

    candidate: Candidate
    parent: int  # the slot whose model it continues
    failures: int = 0  # the number of its evaluations that have failed


@dataclasses.dataclass
class Progress:
    """Everything that a run of the host loop needs in order to continue.

    Attributes:
        candidates: the last finished candidate of each of the `P` slots.
        parents: the slot whose model each finished candidate continued.
        ages: the number of finished evaluations of each slot.
        pending: unfinished candidates by slot, in the order of submission.
        strategy_state: the strategy's state, with NumPy leaves.
        best: the best candidate so far, `None` before the first result.
    """

    candidates: list[Candidate]
    parents: list[int]
    ages: list[int]
    pending: dict[int, Pending]
    strategy_state: Any
    best: Candidate | None = None

    @property
    def generation(self) -> int:
        """Counts finished generations, each of as many results as there are slots."""
        return sum(self.ages) // len(self.ages)

    def finish(self, slot: int, result: Candidate) -> None:
        """Puts the result of a pending candidate in its slot."""
        self.parents[slot] = self.pending.pop(slot).parent
        self.candidates[slot] = result
        self.ages[slot] += 1
        if self.best is None or self.best < result:
            self.best = result


@own_rules()
def identify(
    strategy: Strategy, hparams_type: type, num_members: int, num_generations: int
) -> dict[str, Any]:
    """Describes what a strategy does, its settings included, in JSON values."""
    started = trace_start(strategy, hparams_type, num_members, num_generations)
    stepped = trace_evolution(strategy, started, num_members)
    return {
        "num_generations": num_generations,
        "programs": hash_parts({"evolve": [started, stepped]}),
        "versions": versions(),
    }


def open_run(
    path: str | os.PathLike,
    resume: bool,
    settings: Mapping[str, Any],
    describe: Callable[[int], Mapping[str, Any]],
    num_generations: int,
    resources: contextlib.ExitStack,
) -> tuple[pathlib.Path, Progress | None]:
    """Takes a folder for a run until `resources` closes, and loads the run in it.

    `describe` is `identify` for a number of generations: a run that goes on for more
    of them than were planned is compared by the plan.
    """
    held = take(path, resume=resume)
    resources.callback(held.release)
    folder = held.path
    try:
        if run_directory.holds_run(folder):
            return folder, _load(folder, settings, describe)
        identity = describe(num_generations)
        run_directory.write_config(folder, {**settings, "identity": identity})
    except OSError as error:
        raise run_directory.not_writable(folder, error) from error
    return folder, None


def save(
    folder: pathlib.Path,
    progress: Progress,
    reports: list[Generation],
    told: set[str],
) -> None:
    """Writes reports on generations, and everything that the next ones need.

    What cannot be written, on a full disk for example, stays in `reports`, to be
    written with the next generation. The run goes on.

    Raises:
        TypeError: if a candidate cannot be pickled.
    """
    content = pickled(progress, "a candidate", f"run_dir={str(folder)!r}")
    missing = f"run_dir={str(folder)!r} lacks generations"
    with optional(missing, told) as attempt:
        while reports:
            run_directory.append_history(folder, reports[0])
            reports.pop(0)
        run_directory.replace(folder / _CANDIDATES, content, sync=True)
    if not attempt.failed:
        told.discard(missing)  # the next time is news again


def _load(
    folder: pathlib.Path,
    settings: Mapping[str, Any],
    describe: Callable[[int], Mapping[str, Any]],
) -> Progress | None:
    """Reads how far a run has come; `None` if it has not finished a generation."""
    stored = run_directory.read_config(folder)
    if stored.get("loop") != settings["loop"]:
        raise ValueError(
            f"run_dir={str(folder)!r} holds a run that jepbt.epbt did not make. Name "
            "another folder."
        )
    known, wanted = {}, {}
    match stored.pop("identity", None):  # runs of earlier versions have none
        # Another version of JAX writes the same strategy in other words.
        case {"num_generations": int(planned), "versions": then} as known:
            wanted = describe(planned) if then == versions() else known
    before, now = (  # `differences` words hyperparameters in their own way
        {
            "settings": {**each, "hparams": None},
            "hparams": each.get("hparams"),
            **identity,
        }
        for each, identity in ((stored, known), (settings, wanted))
    )
    found = differences(before, now)
    if found:
        raise ValueError(
            f"run_dir={str(folder)!r} holds a run with other settings: "
            f"{'; '.join(found)}. Continue with the old ones, or name another folder."
        )
    progress = _read_candidates(folder)
    history = folder / run_directory.HISTORY
    if history.exists():
        # Generations that ended after the last save will run again.
        num_kept = progress.generation if progress else 0
        lines = history.read_bytes().splitlines(keepends=True)[:num_kept]
        run_directory.replace(history, b"".join(lines))
    return progress


def _read_candidates(folder: pathlib.Path) -> Progress | None:
    path = folder / _CANDIDATES
    if not path.exists():
        return None
    try:
        progress = pickle.loads(path.read_bytes())
    except Exception as error:  # whatever the user's classes raise
        raise ValueError(
            f"run_dir={str(folder)!r}: {_CANDIDATES} cannot be read: "
            f"{one_line(error)}. Have the candidates' classes moved?"
        ) from error
    if not isinstance(progress, Progress):
        raise ValueError(f"run_dir={str(folder)!r}: {_CANDIDATES} holds no run.")
    return progress
