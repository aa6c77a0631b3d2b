"""Makes the result of a run out of what it held at its end."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping

import numpy as np

from jepbt.config import Config
from jepbt.engine import Best
from jepbt.hyperparameters import to_python
from jepbt.optional import optional
from jepbt.population import Member, Population, take
from jepbt.results import Generation, History, Score
from jepbt.tasks import Task
from jepbt.training.result import Result
from jepbt.training.winner import Winner


def make_result(
    task: Task,
    config: Config,
    history: History,
    population: Population,
    pick: Callable[[np.ndarray], Population],
    *,
    best: Winner | None,
    first: Best,
    seconds: Mapping[str, float],
    run_dir: pathlib.Path | None,
) -> Result:
    """Collects what a run hands back, when it ends or is loaded.

    Args:
        task: the task that was trained.
        config: the run's settings.
        history: all of its generations.
        population: the last population.
        pick: `(slots i32[K]) -> Population` of these members, on the host.
        best: the best member ever, if any had a fitness.
        first: the best of the first generation.
        seconds: the time spent outside of generations, by phase.
        run_dir: the run's folder, or `None`.
    """
    last = history.generations[-1]
    slots = _best_and_median(last)
    final_best = median = best
    if slots.size:
        picked = pick(slots)
        final_best, median = (
            _make_winner(
                take(picked, i), last.standard_error[slot], last.number, int(slot), task
            )
            for i, slot in enumerate(slots)
        )
    spent = {
        phase: sum(report.seconds[phase] for report in history.generations)
        for phase in ("evolve", "train", "evaluate")
    }
    return Result(
        best=best,
        final_best=final_best,
        median=median,
        first_best=as_winner(first, task) or best,
        history=history,
        population=population,
        config=config,
        seconds={**seconds, **spent},
        run_dir=run_dir,
    )


def as_winner(best: Best, task: Task) -> Winner | None:
    """Turns the best member ever, fetched to the host, into what people read."""
    if best.slot < 0:
        return None
    place = int(best.generation), int(best.slot)
    return _make_winner(best.member, best.standard_error, *place, task)


def _best_and_median(last: Generation) -> np.ndarray:
    """Finds a generation's best and its median member, if any lives: `i32[2 or 0]`."""
    num_live = last.fitness.size - last.num_failed
    ranked = np.argsort(-last.fitness, kind="stable")[:num_live]
    return np.array([ranked[0], ranked[ranked.size // 2]] if num_live else [], np.int32)


def _make_winner(
    member: Member, standard_error, generation: int, slot: int, task: Task
) -> Winner:
    table = None
    if task.confusions is not None:
        with optional("the winner's confusions are missing"):
            table = np.asarray(task.confusions(member.state))
    return Winner(
        state=member.state,
        hparams=to_python(member.hparams),
        fitness=Score(float(member.fitness), float(standard_error)),
        generation=generation,
        slot=slot,
        task=task,
        confusions=table,
    )
