"""Runs parts of a prepared run by themselves, so that each can be timed.

All that the benchmarks know about the engine's programs stands here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jepbt.config import Config
from jepbt.engine import RunState, make_phases
from jepbt.engine.devices import compiler_options
from jepbt.engine.member import decide_batch_size, trace_member
from jepbt.engine.memory import reserved_bytes
from jepbt.engine.programs import lower
from jepbt.population import STRATEGY, derive_key
from jepbt.strategies import Strategy
from jepbt.tasks import Task
from jepbt.training import Prepared

FIRST = np.int32(0)
SECOND = np.int32(1)


def step_flops(task: Task, strategy: Strategy, config: Config) -> float:
    """Counts the floating-point operations of one member's training step."""
    return trace_member(task, strategy, decide_batch_size(task, config)).step_flops


def first_generation(prepared: Prepared) -> RunState:
    """Makes a population, trains it for a generation, and evaluates it."""
    programs, inputs = prepared.programs, prepared.inputs
    state = programs.init(inputs)
    state, metrics = programs.train(inputs, FIRST, state)
    return jax.block_until_ready(programs.evaluate(inputs, FIRST, metrics, state))


def compile_train(
    prepared: Prepared, num_steps: int, chunk_size: int
) -> tuple[Any, int]:
    """Compiles a prepared run's training once more, with other steps or chunks.

    Returns:
        The program, and the bytes that it reserves on a device.
    """
    config = dataclasses.replace(prepared.config, steps_per_generation=num_steps)
    mesh = prepared.mesh
    phases = make_phases(
        prepared.task, prepared.strategy, config, mesh=mesh, chunk_size=chunk_size
    )
    lowered = lower(phases, prepared.inputs, mesh, ("train",)).train
    program = lowered.compile(compiler_options(mesh.devices.flat[0].platform))
    return program, reserved_bytes(program)


def compile_plan(prepared: Prepared, state: RunState) -> Callable[[], Any]:
    """Compiles the strategy's step alone, on the values of an evaluated state."""
    before = (state.strategy, state.population.hparams, state.evaluation)
    before = jax.tree.map(jax.numpy.copy, before)

    @jax.jit
    def plan(inputs, strategy_state, hparams, evaluation):
        key = derive_key(inputs.key, STRATEGY, 1)
        step = prepared.strategy.step
        return step(key, strategy_state, 1, hparams, evaluation)[1]

    return lambda: jax.block_until_ready(plan(prepared.inputs, *before))
