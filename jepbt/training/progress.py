"""Shows how far a run has come, where there is somebody to see it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from tqdm.auto import tqdm

from jepbt.optional import optional
from jepbt.training.observers import Observer, Run


def is_terminal(stream: Any) -> bool | None:
    """Tells whether a stream, such as `sys.stderr`, is a terminal.

    Returns:
        `None` if it cannot tell: a closed stream, one of the user's own, or none.

    Example:
        >>> is_terminal(None) is None
        True
    """
    try:
        return bool(stream.isatty())
    except Exception:  # whatever such an object makes of the question
        return None


@contextlib.contextmanager
def progress_bar(run: Run) -> Iterator[Observer]:
    """Opens a bar, and yields what shows a run's last generation on it.

    It stays hidden where nobody would see it, and goes once it cannot be drawn.
    """
    bar = tqdm(disable=True)
    with optional("there is no progress bar"):
        bar = _make_bar(run)

    @contextlib.contextmanager
    def drawn() -> Iterator[None]:
        with optional("the progress bar has stopped") as attempt:
            yield
        if attempt.failed:
            bar.disable = True

    def show(run: Run) -> None:
        if run.history.generations and not bar.disable:
            with drawn():
                bar.set_description_str(_describe(run), refresh=False)
                bar.update(len(run.history) - bar.n)

    with drawn():
        bar.refresh()
    try:
        yield show
    finally:
        with drawn():
            bar.close()


def _make_bar(run: Run) -> tqdm:
    config = run.prepared.config
    in_terminal = is_terminal(sys.stderr)
    is_shown = config.progress and jax.process_index() == 0 and in_terminal is not None
    width = "{bar:20}" if in_terminal else "{bar}"
    return tqdm(
        total=config.num_generations,
        disable=None if is_shown else True,  # None: hidden unless in a terminal
        # A notebook draws the bar itself, in place of a plain {bar}.
        bar_format="{n_fmt}/{total_fmt} " + width + " {elapsed}  {desc}",
        ascii=" =",
        delay=1e-9,  # a bar that fails while it is made fails again when it is freed
    )


def _describe(run: Run) -> str:
    report, config, best = run.last, run.prepared.config, run.best
    samples = config.population_size * config.steps_per_generation * config.batch_size
    live = report.fitness[~np.isnan(report.fitness)]
    return (
        f"best {best.fitness.mean if best else np.nan:.3f}  "
        f"median {np.median(live) if live.size else np.nan:.3f}  "
        f"{report.num_failed} failed  "  # a narrow terminal cuts off the end
        f"{len(run.history.surviving_founders)} founders left  "
        f"{samples / report.seconds['train'] / 1000:.1f}k samples/s"
    )
