"""The host loop's evolutions: the strategies of the compiled program, on the CPU."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jepbt.host.candidate import Candidate, decode_population, encode_population
from jepbt.host.files import Pending, Progress
from jepbt.population import FIRST_HPARAMS, STRATEGY, derive_key
from jepbt.strategies import Evaluation, Plan, Strategy


def start(
    strategy: Strategy,
    seed: int,
    population: Sequence[Candidate],
    num_generations: int,
) -> Progress:
    """Makes the first population: as given, with draws for repeated hyperparameters.

    Args:
        strategy: whose `init` draws.
        seed: of the run.
        population: checked; left as it is.
        num_generations: of the run.

    Returns:
        A run with every slot pending.
    """
    num_members = len(population)
    with _on_cpu():
        state, drawn = strategy.init(
            derive_key(jax.random.key(seed), FIRST_HPARAMS),
            type(population[0].hparams),
            num_members,
            num_generations,
        )
    given = jax.tree.leaves(encode_population(population))
    rows = np.concatenate(
        [leaf.reshape(num_members, -1).astype(np.float64) for leaf in given], axis=1
    )
    first = set(np.unique(rows, axis=0, return_index=True)[1].tolist())
    candidates = [copy.copy(candidate) for candidate in population]
    for slot, draw in enumerate(decode_population(jax.device_get(drawn))):
        candidates[slot].fitness = candidates[slot].standard_error = math.nan
        if slot not in first:
            candidates[slot].hparams = draw
    return Progress(
        candidates=candidates,
        hparams=encode_population(candidates),
        fitness=np.full(num_members, np.nan, np.float32),
        standard_error=np.full(num_members, np.nan, np.float32),
        pending={slot: Pending(c, slot) for slot, c in enumerate(candidates)},
        strategy_state=jax.device_get(state),
        parents=list(range(num_members)),
        ages=[0] * num_members,
    )


def breed(
    strategy: Strategy, seed: int, progress: Progress, one_by_one: bool
) -> list[int]:
    """Fills idle slots with children, which become pending.

    A step always plans for all slots. Together, the idle slots, which are all, adopt
    one plan, with the key of the generation. One by one, each idle slot adopts its own
    row of a plan of its own, with the key of its age and slot.

    Args:
        strategy: whose `step` plans.
        seed: of the run.
        progress: of the run; changed.
        one_by_one: for asynchronous runs.

    Returns:
        The slots that were idle.
    """
    num_members = len(progress.candidates)
    idle = [slot for slot in range(num_members) if slot not in progress.pending]
    if idle and not one_by_one:
        progress.strategy_state, plan = _step(
            strategy, seed, progress, progress.generation
        )
        _adopt(progress, plan, idle)
    elif one_by_one:
        for slot in idle:
            state, plan = _step(strategy, seed, progress, progress.ages[slot], slot)
            _adopt(progress, plan, [slot])
            progress.strategy_state = jax.tree.map(
                functools.partial(_replace_row, slot, num_members),
                progress.strategy_state,
                state,
            )
    return idle


def _step(strategy: Strategy, seed: int, progress: Progress, *indices: int):
    """The strategy's step over all slots, with the key that belongs to `indices`."""
    with _on_cpu():
        stepped = _compile(strategy.step)(
            np.uint32(seed),
            tuple(map(np.int32, indices)),
            np.int32(1 + (sum(progress.ages) - 1) // len(progress.ages)),
            progress.strategy_state,
            progress.hparams,
            progress.fitness,
            progress.standard_error,
        )
    # Fetching what is still being computed would cost more than computing it, and
    # `jax.device_get`, which starts transfers, more than looking at what lies here.
    return jax.tree.map(np.asarray, jax.block_until_ready(stepped))


@functools.lru_cache(maxsize=16)
def _compile(step: Callable) -> Callable:
    @jax.jit
    def evolve(seed, indices, generation, state, hparams, *measured):
        key = derive_key(jax.random.key(seed), STRATEGY, *indices)
        state, plan = step(key, state, generation, hparams, Evaluation(*measured))
        return state, plan._replace(info={})  # which nobody reads here

    return evolve


def _adopt(progress: Progress, plan: Plan, slots: list[int]) -> None:
    """Lets a plan's rows become the children of some slots."""
    rows = jax.tree.map(lambda leaf: leaf[slots], plan.hparams)
    for slot, hparams in zip(slots, decode_population(rows), strict=True):
        parent = int(plan.parents[slot])
        child = copy.copy(progress.candidates[parent])
        child.hparams, child.fitness = hparams, math.nan
        child.standard_error = math.nan
        if plan.fresh is not None and plan.fresh[slot]:
            child.model = None
        progress.pending[slot] = Pending(child, parent)


def _replace_row(slot: int, num_members: int, old: Any, new: Any) -> Any:
    """Of a strategy's state: a slot's own row, or the whole if it has no rows."""
    if np.shape(old)[:1] != (num_members,):
        return new
    old = np.array(old)
    old[slot] = new[slot]
    return old


def _on_cpu():
    """The arrays are tiny: no accelerator is faster, and another may be using it."""
    return jax.default_device(jax.local_devices(backend="cpu")[0])
