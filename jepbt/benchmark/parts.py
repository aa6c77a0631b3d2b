"""Runs the parts of a prepared run by themselves, so that each can be timed.

All that the benchmarks know about the engine's programs stands here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jepbt.engine import RunState
from jepbt.engine.devices import compiler_options, is_host
from jepbt.engine.generation import generation, make_phases
from jepbt.engine.memory import reserved_bytes
from jepbt.engine.programs import lower_each
from jepbt.population import STRATEGY, derive_key
from jepbt.training import Prepared

BRIEF = 2
"""The steps of the shortest generation that is timed: one step would be no loop."""


def first_generation(prepared: Prepared) -> RunState:
    """Makes a population, trains it for a generation, and evaluates it."""
    programs, inputs = prepared.programs, prepared.inputs
    state = programs.init(inputs)
    state, _ = generation(programs, inputs, np.int32(0), state, evolves=False)
    return jax.block_until_ready(state)


class Parts:
    """A population of one size, with calls that each run one part of a generation."""

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self.state = first_generation(prepared)
        programs = prepared.programs
        self.calls = {
            "train": self._call(programs.train, 0),
            "brief": self.train_otherwise(BRIEF, prepared.chunk.size)[0],
            "evolve": self._call(programs.evolve, 1),
            "plan": self._compile_plan(),
        }

    def train_otherwise(
        self, num_steps: int, chunk_size: int
    ) -> tuple[Callable[[], None], int]:
        """Compiles the training with other steps or chunks: a call, and its bytes."""
        prepared, mesh = self.prepared, self.prepared.mesh
        config = dataclasses.replace(prepared.config, steps_per_generation=num_steps)
        phases = make_phases(
            prepared.task, prepared.strategy, config, mesh=mesh, chunk_size=chunk_size
        )
        parts = lower_each(phases, prepared.inputs, mesh)
        lowered = next(program for name, program in parts if name == "train")
        device = mesh.devices.flat[0]
        program = lowered.compile(compiler_options(device.platform))
        sharing = mesh.size if is_host(device) else 1  # all devices share one memory
        return self._call(program, 0), sharing * reserved_bytes(program)

    def _call(self, program: Any, generation: int) -> Callable[[], None]:
        """Makes a call that runs a program on the state and keeps the new one."""

        def call():
            number = np.int32(generation)
            self.state, _ = program(self.prepared.inputs, number, self.state)
            jax.block_until_ready(self.state)

        return call

    def _compile_plan(self) -> Callable[[], Any]:
        """Compiles the strategy's step alone, on the values of this evaluated state."""
        state, inputs = self.state, self.prepared.inputs
        before = (state.strategy, state.population.hparams, state.evaluation)
        before = jax.tree.map(jnp.copy, before)

        @jax.jit
        def plan(inputs, strategy_state, hparams, evaluation):
            key = derive_key(inputs.key, STRATEGY, 1)
            step = self.prepared.strategy.step
            return step(key, strategy_state, 1, hparams, evaluation)[1]

        return lambda: jax.block_until_ready(plan(inputs, *before))
