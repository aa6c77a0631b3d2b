"""Makes the result of a run out of what its devices hold at the end."""

from __future__ import annotations

import jax
import numpy as np

from jepbt.engine import Best, RunState
from jepbt.hyperparameters import to_python
from jepbt.population import Member, take
from jepbt.results import Generation, History, Score
from jepbt.training.preparation import Prepared
from jepbt.training.result import Result, Winner


def make_result(
    prepared: Prepared,
    state: RunState,
    history: History,
    best: Winner | None,
    first: Best,
) -> Result:
    """Collects what a run hands back."""
    final_best, median = _pick(prepared, state, history.generations[-1])
    spent = {
        phase: sum(report.seconds[phase] for report in history.generations)
        for phase in ("evolve", "train", "evaluate")
    }
    return Result(
        best=best,
        final_best=final_best or best,
        median=median or best,
        first_best=as_winner(first) or best,
        history=history,
        population=state.population,
        task=prepared.task,
        config=prepared.config,
        seconds={"compile": prepared.compile_seconds, **spent},
        run_dir=prepared.folder,
    )


def as_winner(best: Best) -> Winner | None:
    """Turns the best member ever, fetched to the host, into what people read."""
    if best.slot < 0:
        return None
    return _make_winner(
        best.member, best.standard_error, int(best.generation), int(best.slot)
    )


def _make_winner(member: Member, standard_error, generation: int, slot: int) -> Winner:
    return Winner(
        state=member.state,
        hparams=to_python(member.hparams),
        fitness=Score(float(member.fitness), float(standard_error)),
        generation=generation,
        slot=slot,
    )


def _pick(prepared: Prepared, state: RunState, last: Generation):
    """Fetches the last generation's best and its median member, if any lives."""
    num_live = last.fitness.size - last.num_failed
    if not num_live:
        return None, None
    ranked = np.argsort(-last.fitness, kind="stable")[:num_live]
    slots = np.array([ranked[0], ranked[ranked.size // 2]], np.int32)
    picked = jax.device_get(prepared.programs.pick(state.population, slots))
    return tuple(
        _make_winner(take(picked, i), last.standard_error[slot], last.number, int(slot))
        for i, slot in enumerate(slots)
    )
