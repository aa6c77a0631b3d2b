"""The phases of a run as programs for a mesh of devices: lowered, tuned, compiled."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jepbt.config import Config
from jepbt.execution import (
    compiler_options,
    make_mesh,
    over_members,
    replicated,
)
from jepbt.population import Member, Task
from jepbt.strategies import Strategy, take
from jepbt.training import Inputs, Phases, RunState, make_inputs, make_phases
from jepbt.tuning import (
    BUSY,
    ChunkChoice,
    choose_by_measuring,
    chunk_candidates,
    program_key,
)


class Programs(NamedTuple):
    """The phases of a generation as programs, lowered or compiled."""

    init: Any
    evolve: Any
    train: Any
    evaluate: Any
    pick: Any


def place_inputs(task: Task, seed: int, mesh: Mesh) -> Inputs:
    """Puts a copy of what all members read on every device of every process."""
    whole = replicated(mesh)
    # Only host arrays can be put on another process's devices: the key is made there.
    key = jax.jit(jax.random.key, out_shardings=whole)(np.uint32(seed))
    read = make_inputs((), task.data, task.shared)
    placed = jax.device_put(jax.tree.map(np.asarray, read), whole)
    return placed._replace(key=key)


def lower_tuned(
    task: Task,
    strategy: Strategy,
    config: Config,
    inputs: Inputs,
    mesh: Mesh,
    step_flops: float = 0.0,
) -> tuple[Programs, ChunkChoice]:
    """Lowers the programs with the chunk size given, or with the one measured best."""
    platform = mesh.devices.flat[0].platform
    candidates = chunk_candidates(config.population_size // mesh.size, platform)

    def lower_with(chunk_size, settings=config, only=Programs._fields):
        phases = make_phases(task, strategy, settings, mesh=mesh, chunk_size=chunk_size)
        return lower(phases, inputs, mesh, only)

    if config.chunk_size != "auto":
        return lower_with(config.chunk_size), ChunkChoice(config.chunk_size, "as given")
    lowered = lower_with(candidates[0])
    if jax.process_count() > 1:  # each would measure something else
        reason = "the default; measured only in a single process"
        return lowered, ChunkChoice(candidates[0], reason)
    if platform == "cpu" and step_flops >= BUSY:
        reason = f"a step of {step_flops / 1e6:.0f} MFLOP keeps a core busy by itself"
        return lowered, ChunkChoice(candidates[0], reason)
    options = compiler_options(platform)
    start = functools.cache(lambda: lowered.init.compile(options)(inputs))

    def make_call(chunk_size, num_steps):
        settings = dataclasses.replace(config, steps_per_generation=num_steps)
        program = lower_with(chunk_size, settings, ("train",)).train.compile(options)
        state = jax.tree.map(jnp.copy, start())

        def call():
            nonlocal state
            state, _ = jax.block_until_ready(program(inputs, np.int32(0), state))

        return call

    key = program_key(lowered.train.as_text(), list(mesh.devices.flat))
    choice = choose_by_measuring(candidates, make_call, key)
    if choice.size != candidates[0]:
        lowered = lower_with(choice.size)
    return lowered, choice


def lower_portable(
    task: Task,
    strategy: Strategy,
    config: Config,
    inputs: Inputs,
    mesh: Mesh,
    only: Sequence[str],
) -> Programs:
    """Lowers the programs for one device and chunks of one member.

    They are not run: their text tells whether another run computes the same, on however
    many devices.
    """
    phases = make_phases(task, strategy, config, chunk_size=1)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), inputs)
    return lower(phases, shapes, make_mesh(mesh.local_devices[:1]), only)


def compile_all(lowered: Programs, mesh: Mesh) -> Programs:
    """Compiles programs side by side: XLA leaves Python's lock while it works."""
    options = compiler_options(mesh.devices.flat[0].platform)
    with ThreadPoolExecutor(len(lowered)) as pool:
        return Programs(*pool.map(lambda program: program.compile(options), lowered))


def lower(
    phases: Phases, inputs: Inputs, mesh: Mesh, only: Sequence[str] = Programs._fields
) -> Programs:
    """Traces phases, with the places that their arguments and results have."""
    whole = replicated(mesh)
    population = Member(state=over_members(mesh), hparams=whole, fitness=whole)
    carried = RunState(population, evaluation=whole, best=whole, strategy=whole)
    number = jax.ShapeDtypeStruct((), jnp.int32)
    state = jax.eval_shape(phases.init, inputs)
    _, metrics = jax.eval_shape(phases.train, inputs, number, state)
    slots = jax.ShapeDtypeStruct((2,), jnp.int32)

    def place(function, args, shardings, out, donate=()):
        jitted = jax.jit(
            function, in_shardings=shardings, out_shardings=out, donate_argnums=donate
        )
        return jitted.lower(*args)

    step = ((inputs, number, state), (whole, whole, carried))
    makers = {
        "init": lambda: place(phases.init, (inputs,), (whole,), carried),
        "evolve": lambda: place(phases.evolve, *step, (carried, whole), (2,)),
        "train": lambda: place(phases.train, *step, (carried, whole), (2,)),
        "evaluate": lambda: place(
            phases.evaluate,
            (inputs, number, metrics, state),
            (whole, whole, whole, carried),
            carried,
            (3,),
        ),
        "pick": lambda: place(
            take, (state.population, slots), (population, whole), whole
        ),
    }
    return Programs(**{n: makers[n]() if n in only else None for n in makers})
