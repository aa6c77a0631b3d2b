"""Looks at each generation of a run: shows it, writes it down, and judges it.

An observer is a function of the run so far. What an observer cannot write costs its
file, never the run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import pathlib
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import jax
import numpy as np
from tqdm.auto import tqdm

from jepbt.checkpoints import folder as run_directory
from jepbt.engine import RunState
from jepbt.results import Generation, History, Recorded, describe
from jepbt.results.recorded import from_memory
from jepbt.training.outcome import as_winner
from jepbt.training.preparation import Prepared
from jepbt.training.result import Winner

logger = logging.getLogger("jepbt")

Callback: TypeAlias = Callable[[Generation], None]


@dataclasses.dataclass
class Run:
    """A run while it goes on.

    Attributes:
        prepared: the checked and compiled run.
        history: the generations so far.
        best: the best member so far, on the host; `None` while nobody has a fitness.
        has_new_best: True from when a new best member comes until it is written.
    """

    prepared: Prepared
    history: History = dataclasses.field(default_factory=History)
    best: Winner | None = None
    has_new_best: bool = False

    @property
    def last(self) -> Generation:
        """The generation that has just ended."""
        return self.history.generations[-1]

    def add(self, report: Generation, state: RunState) -> None:
        """Takes a generation in, and fetches its best member if that is a new best.

        Raises:
            RuntimeError: if the strategy copied a failed member while others lived.
        """
        if self.history.generations:
            _check_parents(report, self.last)
        self.history.generations.append(report)
        highest = np.nanmax([*report.fitness, -np.inf])
        if self.best is None or highest > self.best.fitness.mean:
            self.fetch_best(state)

    def fetch_best(self, state: RunState) -> None:
        """Copies the best member ever to the host."""
        before, self.best = self.best, as_winner(jax.device_get(state.best))
        self.has_new_best = self.best is not before

    def recorded(self) -> Recorded:
        """The run as its files will know it."""
        prepared = self.prepared
        return from_memory(
            self.history, prepared.task, prepared.config, prepared.folder
        )


Observer: TypeAlias = Callable[[Run], None]


def make_observers(bar: tqdm) -> Sequence[Observer]:
    """Lists what looks at every generation, in this order: files, bar, log."""
    return (write_best, lambda run: show(bar, run), log)


def write_best(run: Run) -> None:
    """Writes the best member, its schedule and its loss, if there is a new one."""
    if run.prepared.folder is None or not run.has_new_best or run.best is None:
        return
    recorded = run.recorded()
    run.has_new_best = False
    for write, content in (
        (_save_member, run.best),
        (_save_schedule, recorded),
        (_save_loss, recorded),
    ):  # each by itself: where one cannot be written, the others still are
        run_directory.write_safely(write, run.prepared.folder, content)


def log(run: Run) -> None:
    """Writes the generation's line to the log."""
    number, count = run.last.number + 1, run.prepared.config.num_generations
    logger.info("generation %d/%d  %s", number, count, describe(run.last))


@contextlib.contextmanager
def progress_bar(run: Run) -> Iterator[tqdm]:
    """Opens the bar; it stays hidden where nobody would see it."""
    config = run.prepared.config
    is_shown = config.progress and jax.process_index() == 0
    width = "{bar:20}" if sys.stderr.isatty() else "{bar}"
    with tqdm(
        total=config.num_generations,
        disable=None if is_shown else True,  # None: hidden unless in a terminal
        # A notebook draws the bar itself, in place of a plain {bar}.
        bar_format="{n_fmt}/{total_fmt} " + width + " {elapsed}  {desc}",
        ascii=" =",
    ) as bar:
        yield bar


def show(bar: tqdm, run: Run) -> None:
    """Moves the bar on by a generation."""
    if bar.disable:
        return
    report, config, best = run.last, run.prepared.config, run.best
    samples = config.population_size * config.steps_per_generation * config.batch_size
    live = report.fitness[~np.isnan(report.fitness)]
    bar.set_description_str(
        f"best {best.fitness.mean if best else np.nan:.3f}  "
        f"median {np.median(live) if live.size else np.nan:.3f}  "
        f"{report.num_failed} failed  "  # a narrow terminal cuts off the end
        f"{len(run.history.surviving_founders)} founders left  "
        f"{samples / report.seconds['train'] / 1000:.1f}k samples/s",
        refresh=False,
    )
    bar.update()


def call(
    callbacks: Sequence[Callback], report: Generation
) -> Exception | SystemExit | None:
    """Shows callbacks a generation, and returns their error for when all is saved."""
    try:
        for callback in callbacks:
            callback(report)
    except (Exception, SystemExit) as error:
        return error
    return None


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
    warnings.warn(
        f"{message} The run stops; the best member of generation {best.generation} is "
        "kept.",
        RuntimeWarning,
        stacklevel=4,
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


def _save_member(folder: pathlib.Path, best: Winner) -> None:
    facts = {
        "fitness": best.fitness.mean,
        "standard_error": best.fitness.standard_error,
        "generation": best.generation,
        "slot": best.slot,
    }
    run_directory.save_member(folder / "best", best.state, best.hparams, facts)


def _save_schedule(folder: pathlib.Path, run: Recorded) -> None:
    content = run.schedule.to_json().encode()
    run_directory.replace(folder / "schedule.json", content)


def _save_loss(folder: pathlib.Path, run: Recorded) -> None:
    if run.has_loss:
        content = run.evolved_loss.source().encode()
        run_directory.replace(folder / "loss.py", content)
