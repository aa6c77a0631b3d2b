"""Makes a whole run one pure function."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jepbt.config import Config, check
from jepbt.engine.checks import batch_shapes, first_difference
from jepbt.engine.devices import check_chunk
from jepbt.engine.forks import check_fork
from jepbt.engine.generation import Phases, generation, make_phases
from jepbt.engine.member import decide_batch_size, trace_steps
from jepbt.engine.state import Best, Inputs, Record, RunState, make_inputs
from jepbt.engine.switches import own_rules
from jepbt.population import Population, outline
from jepbt.strategies import Plan, Strategy, resolve_strategy
from jepbt.tasks import Splits, Task
from jepbt.tasks.task import check_arrays


def make_run(
    task: Task, strategy: str | Strategy, config: Config
) -> Callable[[jax.Array, Splits | None], tuple[Population, Best, Record]]:
    """Makes a whole run one pure function: jit it, or vmap it over keys.

    `train_population` computes the same generations, and adds devices, files and
    progress.

    Args:
        task: the task of one member.
        strategy: the strategy between members, such as `strategies.epbt()`, or its
            name.
        config: the run's settings; limits, files and `"auto"` (here: 1) do not apply.

    Returns:
        `run(key, data) -> (population, best, history)`, with `data` like the task's,
        NumPy's arrays or JAX's, and a history of leaves `[G, P]`.

    Raises:
        TypeError: if the task or the strategy is of another type.
        ValueError: if a field of the config, or a strategy's name, is not allowed.
        RuntimeError: in a forked process whose parent has used JAX.

    Example:
        Three seeds of two members that climb `-x²`, as one program:

        >>> from dataclasses import dataclass
        >>> import jax, jax.numpy as jnp
        >>> import jepbt
        >>> @dataclass
        ... class Hyper(jepbt.HyperParameters):
        ...     rate: float = jepbt.hparam(0.01, min=1e-3, max=0.5, log=True)
        >>> task = jepbt.Task(
        ...     hparams=Hyper,
        ...     init=lambda key, h: jnp.float32(1.0),
        ...     train_step=lambda key, x, h, batch, shared: (
        ...         x - h.rate * 2 * x,
        ...         {"loss": x**2},
        ...     ),
        ...     evaluate=lambda key, x, h, batch, shared: -(x**2)[None],
        ... )
        >>> config = jepbt.Config(
        ...     population_size=2, num_generations=5, steps_per_generation=4
        ... )
        >>> run = jepbt.make_run(task, jepbt.strategies.pbt(), config)
        >>> keys = jax.random.split(jax.random.key(0), 3)
        >>> _, best, history = jax.jit(jax.vmap(run, (0, None)))(keys, None)
        >>> history.fitness.shape, bool((best.member.fitness > -1).all())
        ((3, 5, 2), True)
    """
    check_fork("make_run")
    check(config)
    strategy = resolve_strategy(strategy)
    check_chunk(config.chunk_size, config.population_size)
    config = decide_batch_size(task, config)
    chunk_size = 1 if config.chunk_size == "auto" else config.chunk_size

    @own_rules()
    def run(key, data):
        check_fork("run(key, data)")
        _check_inputs(key, data, task, config)
        # The task's own arrays may be NumPy's, whose rows a traced index cannot pick.
        data, shared = jax.tree.map(jnp.asarray, (data, task.shared))
        current = trace_steps(dataclasses.replace(task, data=data), config).task
        phases = make_phases(current, strategy, config, chunk_size=chunk_size)
        inputs = make_inputs(key, data, shared)
        after_first = phases._replace(evolve=functools.partial(_evolve_later, phases))
        state, history = jax.lax.scan(
            lambda state, number: generation(after_first, inputs, number, state),
            phases.init(inputs),
            jnp.arange(config.num_generations, dtype=jnp.int32),
        )
        return state.population, state.best, history

    return run


def _check_inputs(key: jax.Array, data: Any, task: Task, config: Config) -> None:
    """Refuses what is no random key, and data that are unlike the task's."""
    has_none = data is None and task.data is None
    if not has_none and not isinstance(data, Splits):
        raise TypeError(
            "run(key, data): data must be a jepbt.Splits such as task.data"
            f"{', or None' if task.data is None else ''}, got {type(data).__name__}."
        )
    try:
        jax.eval_shape(jax.random.fold_in, key, 0)
    except (TypeError, ValueError) as error:
        raise TypeError(
            "run(key, data): key must be one random key, such as jax.random.key(0), "
            f"got {outline(key)}. For several keys, jax.vmap(run, (0, None))."
        ) from error
    check_arrays(dataclasses.replace(task, data=data))
    if task.data is None:
        return
    given, wanted = (Splits(*batch_shapes(each, config)) for each in (data, task.data))
    difference = first_difference(given, wanted)
    if difference is not None:
        path, has, needs = difference
        raise ValueError(
            f"run(key, data): a batch of data{path} is {has}, of task.data {needs}: "
            "data must be like the task's, in any number of examples."
        )


def _evolve_later(
    phases: Phases, inputs: Inputs, number: jax.Array, state: RunState
) -> tuple[RunState, Plan]:
    """Evolves a population, but not before its first generation has been evaluated."""

    def stay(state):
        _, plan = jax.eval_shape(phases.evolve, inputs, number, state)
        plan = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), plan)
        slots = jnp.arange(plan.parents.size, dtype=plan.parents.dtype)
        return state, plan._replace(parents=slots)

    def evolve(state):
        return phases.evolve(inputs, number, state)

    return jax.lax.cond(number > 0, evolve, stay, state)
