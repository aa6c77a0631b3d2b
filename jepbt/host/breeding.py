"""Breeds candidates with the strategies of the compiled program, on the CPU."""

import copy
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jepbt.engine.switches import on_cpu, own_rules
from jepbt.host.candidate import Candidate, decode_population, encode_population
from jepbt.host.progress import Pending, Progress
from jepbt.hyperparameters import encode
from jepbt.population import FIRST_HPARAMS, STRATEGY, derive_key, take
from jepbt.strategies import Evaluation, Plan, Strategy


def start(
    strategy: Strategy,
    seed: int,
    population: Sequence[Candidate],
    num_generations: int,
) -> Progress:
    """Makes the first population, with new draws for repeated hyperparameters."""
    num_members = len(population)
    # Tiny arrays stay off an accelerator, which another framework may be using.
    with on_cpu(), own_rules():
        state, drawn = strategy.init(
            derive_key(jax.random.key(seed), FIRST_HPARAMS),
            type(population[0].hparams),
            num_members,
            num_generations,
        )
    candidates = [copy.copy(candidate) for candidate in population]
    draws = decode_population(drawn)
    seen = set()
    for candidate, draw in zip(candidates, draws, strict=True):
        candidate.fitness = candidate.standard_error = math.nan
        leaves = jax.tree.leaves(encode(candidate.hparams))
        values = b"".join(np.asarray(leaf).tobytes() for leaf in leaves)
        if values in seen:
            candidate.hparams = draw
        seen.add(values)
    return Progress(
        candidates=candidates,
        parents=list(range(num_members)),
        ages=[0] * num_members,
        pending={slot: Pending(c, slot) for slot, c in enumerate(candidates)},
        strategy_state=jax.device_get(state),
    )


def breed(
    strategy: Strategy, seed: int, progress: Progress, slot: int | None = None
) -> None:
    """Fills every slot with its child, or only one slot.

    A step of the strategy always plans for all slots. For one slot, one row of the plan
    is adopted, and of the strategy's state the rows that belong to the slot
    (`Strategy.by_slot`): for the other slots, nothing has happened.
    """
    if slot is None:
        slots = list(range(len(progress.candidates)))
        state, plan = _step(strategy, seed, progress, progress.generation)
    else:

        def adopt_row(old, new):
            rows = np.array(old)
            rows[slot] = new[slot]
            return rows

        slots = [slot]
        state, plan = _step(strategy, seed, progress, progress.ages[slot], slot)
        state = jax.tree.map(
            lambda by_slot, old, new: (
                jax.tree.map(adopt_row, old, new) if by_slot else new
            ),
            strategy.by_slot,
            progress.strategy_state,
            state,
        )
    progress.strategy_state = state
    bred = decode_population(take(plan.hparams, np.array(slots)))
    for child_slot, hparams in zip(slots, bred, strict=True):
        parent = int(plan.parents[child_slot])
        child = copy.copy(progress.candidates[parent])
        child.hparams = hparams
        child.fitness = child.standard_error = math.nan
        if plan.fresh is not None and plan.fresh[child_slot]:
            child.model = None
        progress.pending[child_slot] = Pending(child, parent)


def _step(
    strategy: Strategy, seed: int, progress: Progress, *indices: int
) -> tuple[Any, Plan]:
    """Runs the strategy's step over all slots, with the key of these indices."""
    candidates = progress.candidates
    generation = math.ceil(sum(progress.ages) / len(candidates))
    # Tiny arrays stay off an accelerator, which another framework may be using.
    with on_cpu(), own_rules():
        step = strategy.step
        # An edited function may stay the same object, with other code.
        stepped = _compile(step, getattr(step, "__code__", None))(
            np.uint32(seed),
            tuple(map(np.int32, indices)),
            np.int32(generation),
            progress.strategy_state,
            encode_population(candidates),
            np.array([c.fitness for c in candidates], np.float32),
            np.array([c.standard_error for c in candidates], np.float32),
        )
    # Fetching what is still being computed would cost more than computing it, and
    # `jax.device_get`, which starts transfers, more than looking at what lies here.
    return jax.tree.map(np.asarray, jax.block_until_ready(stepped))


@functools.lru_cache(maxsize=16)
def _compile(step: Callable, code: Any) -> Callable:
    @jax.jit
    def evolve(seed, indices, generation, state, hparams, *measured):
        key = derive_key(jax.random.key(seed), STRATEGY, *indices)
        state, plan = step(key, state, generation, hparams, Evaluation(*measured))
        return state, plan._replace(info={})  # which nobody reads here

    return evolve
