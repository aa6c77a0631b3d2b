"""The phases of a run as programs for a mesh of devices: lowered, tuned, compiled."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jepbt.engine.devices import compiler_options, over_members, replicated
from jepbt.engine.generation import Phases
from jepbt.engine.state import Inputs, RunState, make_inputs
from jepbt.population import Member, take
from jepbt.tasks import Task


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
