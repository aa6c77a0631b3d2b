"""Finds the line of a user's code that the debugging switches of JAX ask for.

`jax_debug_nans` and `jax_debug_infs` stop a program whose results hold a nan or an inf.
A population has some of its own: the fitness of a member that was never evaluated, for
one. So jepbt's programs run with these switches off, and when a member fails, its
generation is repeated with the switches on, one step at a time.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jepbt.engine.evaluation import EVALUATION_BATCH
from jepbt.engine.state import Inputs, Spec
from jepbt.engine.steps import member_steps, share_steps
from jepbt.engine.switches import own_rules
from jepbt.hyperparameters import decode
from jepbt.population import (
    EVALUATE,
    Population,
    PyTree,
    count_rows,
    derive_key,
    take,
)


class Watch:
    """Remembers the population that a generation trains, to repeat one of its members.

    It reads the switches when it is made, and does nothing unless one is on.
    """

    def __init__(self, spec: Spec, inputs: Inputs) -> None:
        self._spec, self._inputs = spec, inputs
        self._switches = jax.config.jax_debug_nans, jax.config.jax_debug_infs
        is_on = any(self._switches) and jax.process_count() == 1
        self.is_on, self._before = is_on, None

    def remember(self, population: Population) -> None:
        """Copies a population, whose arrays its training overwrites."""
        if self.is_on:
            self._before = jax.tree.map(jnp.copy, population)

    def look(self, number: int, failed: list[int]) -> None:
        """Repeats the first member that failed.

        Raises:
            FloatingPointError: JAX's own, which names the line. If no nan or inf of the
                kind that is looked for turns up, there is none.
        """
        if not self.is_on or not failed:
            return
        nans, infs = self._switches
        with jax.debug_nans(nans), jax.debug_infs(infs):
            self._repeat(jnp.int32(number), failed[0])

    def _repeat(self, number: jax.Array, slot: int) -> None:
        """Trains and evaluates one member once more, one step at a time."""
        spec, inputs = self._spec, self._inputs
        with own_rules():
            before = self._before.state, self._before.hparams
            state, hparams = take(before, jnp.int32(slot))
            shared = share_steps(spec, inputs, number, self._before)
            step, counted = member_steps(
                spec, jnp.int32(slot), hparams, inputs, number, *shared
            )
        run, num_steps = jax.jit(step), spec.config.steps_per_generation
        done = 0
        try:
            for done in range(num_steps):
                state, _ = run(state, take(counted, done))
            done = num_steps
            self._evaluate(number, state, decode(hparams))
        except FloatingPointError as error:
            error.add_note(
                f"Member {slot} computes it in generation {number}, after {done} of "
                f"{num_steps} steps."
            )
            raise

    def _evaluate(self, number: jax.Array, state: PyTree, values: Any) -> None:
        """Scores a member on every batch of the validation split."""
        inputs = self._inputs
        key = derive_key(inputs.key, EVALUATE, number)
        evaluate, rows = jax.jit(self._spec.task.evaluate), inputs.validation
        if rows is None:
            evaluate(key, state, values, None, inputs.shared)
            return
        places = range(0, count_rows(rows), EVALUATION_BATCH)
        for slices in (slice(first, first + EVALUATION_BATCH) for first in places):
            evaluate(key, state, values, take(rows, slices), inputs.shared)
