"""Shows how far a run has come, where there is somebody to see it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import jax
import numpy as np
from tqdm.auto import tqdm

from jepbt.optional import optional
from jepbt.training.run import Run

Draw: TypeAlias = Callable[[Callable[[tqdm], Any]], None]
"""Applies a change to a bar, if it is shown."""


def is_terminal(stream: Any) -> bool | None:
    """Tells whether a stream is a terminal; `None` if it is closed, odd or missing."""
    try:
        return bool(stream.isatty())
    except Exception:  # whatever such an object makes of the question
        return None


@contextlib.contextmanager
def open_bar(is_wanted: bool, total: int, end: str, initial: int = 0) -> Iterator[Draw]:
    """Opens a bar over `total` generations, and yields what draws on it.

    `end` is the format of what stands behind the bar. It stays hidden where nobody
    would see it, and goes once it cannot be drawn.
    """
    in_terminal = is_terminal(sys.stderr)
    is_shown = is_wanted and jax.process_index() == 0 and in_terminal is not None
    bar = tqdm(disable=True)

    def draw(change: Callable[[tqdm], Any]) -> None:
        if bar.disable:
            return
        with optional("the progress bar has stopped") as attempt:
            change(bar)
        if attempt.failed:
            bar.disable = True

    with optional("there is no progress bar"):
        bar = tqdm(
            total=total,
            initial=initial,
            disable=None if is_shown else True,  # None: hidden unless in a terminal
            # A notebook draws the bar itself, in place of a plain {bar}.
            bar_format="{n_fmt}/{total_fmt} "
            + ("{bar:20}" if in_terminal else "{bar}")
            + end,
            ascii=" =",
            delay=1e-9,  # one that fails while it is made fails again when it is freed
        )
    draw(lambda bar: bar.refresh())
    try:
        yield draw
    finally:
        draw(lambda bar: bar.close())


@contextlib.contextmanager
def progress_bar(run: Run) -> Iterator[Callable[[], None]]:
    """Opens a bar over a run, and yields what shows the last generation on it."""

    def change(bar: tqdm) -> None:
        bar.set_description_str(_describe(run), refresh=False)
        bar.update(len(run.history) - bar.n)

    def show() -> None:
        if run.history.generations:
            draw(change)

    end = " {elapsed}  {desc}"
    with open_bar(run.config.progress, run.config.num_generations, end) as draw:
        yield show


def _describe(run: Run) -> str:
    report, config, best = run.last, run.config, run.best
    samples = config.population_size * config.steps_per_generation * config.batch_size
    live = report.fitness[~np.isnan(report.fitness)]
    return (
        f"best {best.fitness.mean if best else np.nan:.3f}  "
        f"median {np.median(live) if live.size else np.nan:.3f}  "
        f"{report.num_failed} failed  "  # a narrow terminal cuts off the end
        f"{len(run.history.surviving_founders)} founders left  "
        f"{samples / report.seconds['train'] / 1000:.1f}k samples/s"
    )
