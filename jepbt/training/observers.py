"""Looks at each generation of a run: shows it, writes it down, and judges it.

An observer is a function of the run so far. What an observer cannot write costs its
file, never the run.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import numpy as np

from jepbt.arguments import check_function
from jepbt.checkpoints import folder as run_directory
from jepbt.engine import RunState
from jepbt.optional import optional, warn
from jepbt.results import Generation, History, Recorded, describe
from jepbt.results.recorded import from_memory
from jepbt.training.outcome import as_winner
from jepbt.training.preparation import Prepared
from jepbt.training.winner import Winner

logger = logging.getLogger("jepbt")

Callback: TypeAlias = Callable[[Generation], None]

SHARE = 0.05
"""The part of a run's time that writing its best member may take."""


@dataclasses.dataclass
class Run:
    """A run while it goes on.

    Attributes:
        prepared: the checked and compiled run.
        history: the generations so far.
        best: the best member so far, on the host; `None` while nobody has a fitness.
        unwritten: the files, by name, that do not show the best member yet.
        told: the sentences on what is missing, each of which is said once a run.
        rests_until: the time before which those files are not written again.
    """

    prepared: Prepared
    history: History = dataclasses.field(default_factory=History)
    best: Winner | None = None
    unwritten: set[str] = dataclasses.field(default_factory=set)
    told: set[str] = dataclasses.field(default_factory=set)
    rests_until: float = -float("inf")
    _is_beaten: bool = False

    @property
    def last(self) -> Generation:
        """The generation that has just ended."""
        return self.history.generations[-1]

    def add(self, report: Generation) -> None:
        """Takes a generation in.

        Raises:
            RuntimeError: if the strategy copied a failed member while others lived.
        """
        if self.history.generations:
            _check_parents(report, self.last)
        self.history.generations.append(report)
        highest = np.fmax.reduce(report.fitness, initial=-np.inf)
        self._is_beaten |= self.best is None or bool(highest > self.best.fitness.mean)

    def update_best(self, state: RunState) -> None:
        """Fetches the best member if a generation since has beaten the one known."""
        if self._is_beaten:
            self.fetch_best(state)

    def fetch_best(self, state: RunState) -> None:
        """Copies the best member ever to the host."""
        self.best = as_winner(jax.device_get(state.best), self.prepared.task)
        self._is_beaten = False
        if self.best is not None:
            self.unwritten = set(_FILES)

    def recorded(self) -> Recorded:
        """The run as its files will know it."""
        prepared = self.prepared
        table = None if self.best is None else self.best.confusions
        return from_memory(
            self.history, prepared.task, prepared.config, prepared.folder, table
        )


Observer: TypeAlias = Callable[[Run], None]


def write_best(run: Run, *, is_last: bool = False) -> None:
    """Writes the best member, its schedule and its loss, as far as they are new.

    A member may be the best for a moment only, and a schedule grows with the run: after
    each writing comes a rest in which a new best waits, unless it is the last.
    """
    folder, started = run.prepared.folder, time.monotonic()
    if folder is None or run.best is None or not run.unwritten:
        return
    if started < run.rests_until and not is_last:
        return
    # Each by itself: where one cannot be written, the others still are.
    for name in sorted(run.unwritten):
        with optional(f"{folder / name} does not show the best", run.told) as attempt:
            _FILES[name](folder, run)
        if not attempt.failed:
            run.unwritten.remove(name)
    ended = time.monotonic()
    run.rests_until = ended + (ended - started) * (1 / SHARE - 1)


def log(run: Run) -> None:
    """Writes the generation's line to the log."""
    if not logger.isEnabledFor(logging.INFO):
        return
    number, count = run.last.number + 1, run.prepared.config.num_generations
    with optional("the log lacks lines on generations", run.told):
        logger.info("generation %d/%d  %s", number, count, describe(run.last))


def call(
    callbacks: Sequence[Callback], reports: Sequence[Generation]
) -> Exception | SystemExit | None:
    """Shows callbacks generations, and returns their error for when all is saved."""
    try:
        for report in reports:
            for callback in callbacks:
                callback(report)
    except (Exception, SystemExit) as error:
        return error
    return None


def may_fail(callback: Callback) -> Callback:
    """Makes a callback that a run can do without: its error does not end the run.

    The first error becomes a warning, and the callback is not called again, so that a
    tracker without a network does not make every generation wait. `KeyboardInterrupt`
    and `SystemExit` pass through. Without `may_fail` an error of a callback ends the
    run, after everything has been saved.

    Args:
        callback: a function of a `Generation`.

    Returns:
        A callback for `train_population`.

    Raises:
        TypeError: if `callback` is not a function of one argument.

    Warns:
        RuntimeWarning: when the callback fails, with the reason.

    Example:
        >>> import warnings
        >>> def track(generation):
        ...     raise ConnectionError("no network")
        >>> callback = may_fail(track)
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     for generation in range(3):
        ...         callback(generation)
        >>> len(caught), str(caught[0].message).split(" (")[0]
        (1, 'the callback track is not called again')
    """
    check_function("may_fail", "callback", callback, "generation", "print")
    name = getattr(callback, "__name__", type(callback).__name__)
    has_failed = False

    def call_until_it_fails(generation: Generation) -> None:
        nonlocal has_failed
        if has_failed:
            return
        with optional(f"the callback {name} is not called again") as attempt:
            callback(generation)
        has_failed = attempt.failed

    return call_until_it_fails


def stop_at_failure(run: Run) -> None:
    """Ends a run in debug mode at the first member that failed.

    Raises:
        RuntimeError: says which member, and what it trained with.
    """
    report = run.last
    if not run.prepared.config.debug or not report.num_failed:
        return
    slot = int(np.flatnonzero(np.isnan(report.fitness))[0])
    values = ", ".join(f"{name}={v[slot]}" for name, v in report.hparams.items())
    loss = report.metrics["loss"][slot]
    raise RuntimeError(
        f"debug: member {slot} failed in generation {report.number}: its mean training "
        f"loss is {loss}, its fitness nan. It trained with {values}."
    )


def is_extinct(run: Run) -> bool:
    """Tells whether all members have failed, and says so.

    Raises:
        RuntimeError: if no member ever had a fitness.

    Warns:
        RuntimeWarning: if an earlier generation's best member is left.
    """
    report, best = run.last, run.best
    if report.num_failed < report.fitness.size:
        return False
    ranges = ", ".join(
        f"{name} {value.min():.3g} to {value.max():.3g}"
        for name, value in report.hparams.items()
        if value.ndim == 1 and value.dtype.kind in "fi"
    )
    message = (
        f"all members failed in generation {report.number}: their training loss or "
        f"validation score is nan or inf. They trained with {ranges}."
    )
    if best is None:
        raise RuntimeError(
            f"{message} Nothing was learned. Lower the bounds, the learning rate's "
            "first of all, or check the data and the loss."
        )
    warn(
        f"{message} The run stops; the best member of generation {best.generation} is "
        "kept."
    )
    return True


def _check_parents(report: Generation, before: Generation) -> None:
    """Stops a strategy that copies failed members while others live."""
    slots = np.arange(report.parents.size)
    dead = np.isnan(before.fitness)
    wrong = (report.parents < 0) | (report.parents >= slots.size)
    moved = report.parents != slots
    wrong |= moved & dead[np.clip(report.parents, 0, slots.size - 1)] & ~dead.all()
    if wrong.any():
        slot = int(np.flatnonzero(wrong)[0])
        raise RuntimeError(
            f"the strategy made slot {slot} a child of {report.parents[slot]} in "
            f"generation {report.number}, which is no live member. A Strategy's "
            "Plan.parents must name slots whose fitness is not nan."
        )


def _save_member(folder: pathlib.Path, run: Run) -> None:
    best = run.best
    facts = {
        "fitness": best.fitness.mean,
        "standard_error": best.fitness.standard_error,
        "generation": best.generation,
        "slot": best.slot,
    }
    run_directory.save_member(folder / "best", best.state, best.hparams, facts)


def _save_schedule(folder: pathlib.Path, run: Run) -> None:
    content = run.recorded().schedule.to_json().encode()
    run_directory.replace(folder / "schedule.json", content)


def _save_loss(folder: pathlib.Path, run: Run) -> None:
    recorded = run.recorded()
    if recorded.has_loss:
        content = recorded.evolved_loss.source().encode()
        run_directory.replace(folder / "loss.py", content)


def _save_confusions(folder: pathlib.Path, run: Run) -> None:
    if run.best.confusions is not None:
        meaning = run.prepared.task.about.get("confusions", ("row", "column"))
        facts = dict(zip(("rows", "columns"), meaning, strict=True))
        facts["table"] = run.best.confusions.tolist()
        content = json.dumps(facts, indent=1).encode()
        run_directory.replace(folder / "confusions.json", content)


_FILES: dict[str, Callable[[pathlib.Path, Run], None]] = {
    "best": _save_member,
    "confusions.json": _save_confusions,
    "schedule.json": _save_schedule,
    "loss.py": _save_loss,
}
