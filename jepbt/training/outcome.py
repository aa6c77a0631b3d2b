"""Makes the result of a run out of what its devices hold at the end."""

from __future__ import annotations

import jax
import numpy as np

from jepbt.engine import Best, RunState
from jepbt.hyperparameters import to_python
from jepbt.optional import optional
from jepbt.population import Member, Population, take
from jepbt.results import Generation, History, Score
from jepbt.tasks import Task
from jepbt.training.preparation import Prepared
from jepbt.training.result import Result
from jepbt.training.winner import Winner


def make_result(
    prepared: Prepared,
    state: RunState,
    history: History,
    best: Winner | None,
    first: Best,
) -> Result:
    """Collects what a run hands back."""
    last, task = history.generations[-1], prepared.task
    slots = best_and_median(last)
    final_best = median = best
    if slots.size:
        picked = jax.device_get(prepared.programs.pick(state.population, slots))
        final_best, median = make_winners(picked, slots, last, task)
    return Result(
        best=best,
        final_best=final_best,
        median=median,
        first_best=as_winner(first, task) or best,
        history=history,
        population=state.population,
        config=prepared.config,
        seconds={"compile": prepared.compile_seconds, **spent(history)},
        run_dir=prepared.folder,
    )


def as_winner(best: Best, task: Task) -> Winner | None:
    """Turns the best member ever, fetched to the host, into what people read."""
    if best.slot < 0:
        return None
    place = int(best.generation), int(best.slot)
    return _make_winner(best.member, best.standard_error, *place, task)


def best_and_median(last: Generation) -> np.ndarray:
    """Finds a generation's best and its median member, if any lives: `i32[2 or 0]`."""
    num_live = last.fitness.size - last.num_failed
    ranked = np.argsort(-last.fitness, kind="stable")[:num_live]
    return np.array([ranked[0], ranked[ranked.size // 2]] if num_live else [], np.int32)


def make_winners(
    picked: Population, slots: np.ndarray, last: Generation, task: Task
) -> list[Winner]:
    """Turns members of the last generation, on the host, into what people read."""
    return [
        _make_winner(
            take(picked, i), last.standard_error[slot], last.number, int(slot), task
        )
        for i, slot in enumerate(slots)
    ]


def spent(history: History) -> dict[str, float]:
    """Sums the seconds of each phase of a generation."""
    return {
        phase: sum(report.seconds[phase] for report in history.generations)
        for phase in ("evolve", "train", "evaluate")
    }


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
