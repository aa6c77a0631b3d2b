"""Looks at each generation of a run: shows it, writes it down, and judges it.

An observer is a function of the run so far. What an observer cannot write costs its
file, never the run.
"""

from __future__ import annotations

import json
import logging
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from tqdm.auto import tqdm

from jepbt.arguments import check_function
from jepbt.checkpoints import folder as run_directory
from jepbt.optional import optional, warn
from jepbt.results import Generation, describe, recorded
from jepbt.training.run import Run

logger = logging.getLogger("jepbt")

Callback: TypeAlias = Callable[[Generation], None]

SHARE = 0.05
"""The part of a run's time that writing its best member may take."""


def write_best(run: Run, *, is_last: bool = False) -> None:
    """Writes the best member, its schedule and its loss, as far as they are new.

    A member may be the best for a moment only, and a schedule grows with the run: after
    each writing comes a rest in which a new best waits, unless it is the last.
    """
    unwritten, started = _FILES.keys() - run.shown, time.monotonic()
    if run.run_dir is None or run.best is None or not unwritten:
        return
    if started < run.rests_until and not is_last:
        return
    # Each by itself: where one cannot be written, the others still are.
    for name in sorted(unwritten):
        path = run.run_dir / name
        with optional(f"{path} does not show the best", run.told) as attempt:
            _FILES[name](path, run)
        if not attempt.failed:
            run.shown.add(name)
    ended = time.monotonic()
    run.rests_until = ended + (ended - started) * (1 / SHARE - 1)


def log(run: Run) -> None:
    """Writes the last generation's line to the log.

    Where no logging is set up, Python would drop it: there it goes to standard error.
    """
    if not logger.isEnabledFor(logging.INFO):
        return
    number, count = run.last.number + 1, run.config.num_generations
    with optional("the log lacks lines on generations", run.told):
        line = f"generation {number}/{count}  {describe(run.last)}"
        if logger.hasHandlers():
            logger.info("%s", line)
        else:
            tqdm.write(line, file=sys.stderr)  # above a progress bar


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
    """Ends a run in debug mode at the first member that failed, and says which."""
    report = run.last
    if not run.config.debug or not report.num_failed:
        return
    slot = int(np.flatnonzero(np.isnan(report.fitness))[0])
    values = ", ".join(f"{name}={v[slot]}" for name, v in report.hparams.items())
    loss = report.metrics["loss"][slot]
    raise RuntimeError(
        f"debug: member {slot} failed in generation {report.number}: its mean training "
        f"loss is {loss}, its fitness nan. It trained with {values}."
    )


def is_extinct(run: Run) -> bool:
    """Tells whether all members have failed, and warns; raises if none ever lived."""
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


def _save_member(path: pathlib.Path, run: Run) -> None:
    best = run.best
    facts = {
        "fitness": best.fitness.mean,
        "standard_error": best.fitness.standard_error,
        "generation": best.generation,
        "slot": best.slot,
    }
    run_directory.save_member(path, best.state, best.hparams, facts)


def _save_schedule(path: pathlib.Path, run: Run) -> None:
    run_directory.replace(path, recorded.read(run).schedule.to_json().encode())


def _save_loss(path: pathlib.Path, run: Run) -> None:
    known = recorded.read(run)
    if known.has_loss:
        run_directory.replace(path, known.evolved_loss.source().encode())


def _save_confusions(path: pathlib.Path, run: Run) -> None:
    if run.best.confusions is not None:
        rows, columns = run.task.about.get("confusions", ("row", "column"))
        table = run.best.confusions.tolist()
        facts = {"rows": rows, "columns": columns, "table": table}
        run_directory.replace(path, json.dumps(facts, indent=1).encode())


_FILES: dict[str, Callable[[pathlib.Path, Run], None]] = {
    "best": _save_member,
    "confusions.json": _save_confusions,
    "schedule.json": _save_schedule,
    "loss.py": _save_loss,
}
