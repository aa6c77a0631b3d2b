"""Shows, saves and judges each generation of a run."""

from __future__ import annotations

import pathlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import jax
import numpy as np
from tqdm.auto import tqdm

from jepbt.checkpoints import folder as run_directory
from jepbt.config import Config
from jepbt.results import Generation, History, Recorded
from jepbt.training.preparation import Prepared
from jepbt.training.result import Result, Winner

Callback = Callable[[Generation], None]


def _call(
    callbacks: Sequence[Callback], report: Generation
) -> Exception | SystemExit | None:
    """Shows callbacks a generation; their error waits until the run is saved."""
    try:
        for callback in callbacks:
            callback(report)
    except (Exception, SystemExit) as error:
        return error
    return None


def _hand_over(error: Exception | SystemExit, result: Result) -> NoReturn:
    """Raises a callback's error with what was trained until then."""
    error.result = result
    go_on = "; resume=True with the same run_dir goes on" if result.run_dir else ""
    error.add_note(
        f"A callback raised this after {len(result.history)} generations; what was "
        f"trained is in the error's `.result`{go_on}."
    )
    raise error


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


def _winners_files(best: Winner, run: Recorded) -> Sequence[tuple[Callable, Any]]:
    """Each to be written by itself: where one cannot be, the others still are."""
    return (
        (_save, best),
        (run_directory.save_schedule, run),
        (run_directory.save_loss, run),
    )


def _save(folder: pathlib.Path, best: Winner) -> None:
    facts = {
        "fitness": best.fitness.mean,
        "standard_error": best.fitness.standard_error,
        "generation": best.generation,
        "slot": best.slot,
    }
    run_directory.save_member(folder / "best", best.state, best.hparams, facts)


def _stop_at_failure(report: Generation) -> NoReturn:
    slot = int(np.flatnonzero(np.isnan(report.fitness))[0])
    values = ", ".join(f"{name}={v[slot]}" for name, v in report.hparams.items())
    loss = report.metrics["loss"][slot]
    raise RuntimeError(
        f"debug: member {slot} failed in generation {report.number}: its mean training "
        f"loss is {loss}, its fitness nan. It trained with {values}."
    )


def _report_extinction(report: Generation, best: Winner | None) -> None:
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
    warnings.warn(
        f"{message} The run stops; the best member of generation {best.generation} is "
        "kept.",
        RuntimeWarning,
        stacklevel=4,
    )


def _hides_progress(config: Config) -> bool | None:
    """`None` lets tqdm hide the bar where the output is no terminal."""
    return None if config.progress and jax.process_index() == 0 else True


def _show(bar: tqdm, prepared: Prepared, history: History, best: Winner | None) -> None:
    report = history.generations[-1]
    config = prepared.config
    batch_size = config.batch_size or prepared.task.batch_size
    samples = config.population_size * config.steps_per_generation * batch_size
    live = report.fitness[~np.isnan(report.fitness)]
    bar.set_description_str(
        f"best {best.fitness.mean if best else np.nan:.3f}  "
        f"median {np.median(live) if live.size else np.nan:.3f}  "
        f"{report.num_failed} failed  "  # a narrow terminal cuts off the end
        f"{len(history.surviving_founders)} founders left  "
        f"{samples / report.seconds['train'] / 1000:.1f}k samples/s",
        refresh=False,
    )
    bar.update()
