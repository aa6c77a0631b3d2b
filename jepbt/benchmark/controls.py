"""Other ways to train the same population in JAX: the controls of the benchmark.

Each starts from the same weights, takes the same steps on the same batches, staged on
the device beforehand, donates its state, and waits once, at the end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jepbt.benchmark.workloads import Workload, make_flax_task, make_task
from jepbt.engine.batches import batch_indices
from jepbt.hyperparameters import decode
from jepbt.population import BATCHES, derive_key, take
from jepbt.tasks import Task
from jepbt.training import Prepared

PyTree = Any


class Control(NamedTuple):
    """One way to train a population.

    Attributes:
        run: trains every member `num_steps` further, and returns when that is done.
        params: `() -> ` the members' weights in jepbt's layout, NumPy `[P, ...]`.
        num_steps: of each member in a run.
    """

    run: Callable[[], None]
    params: Callable[[], PyTree]
    num_steps: int


class Start(NamedTuple):
    """What all controls start from, as NumPy arrays.

    Attributes:
        params: `[P, ...]` the members' weights.
        learning_rate: `f32[P]`.
        batches: `[S, B, ...]` images and labels.
    """

    params: PyTree
    learning_rate: np.ndarray
    batches: dict[str, np.ndarray]


def make_start(prepared: Prepared) -> Start:
    """Takes weights, learning rates and batches from a prepared run of jepbt.

    Args:
        prepared: a run of a `Workload`'s task.

    Returns:
        The population before its first generation, and that generation's batches.
    """
    inputs, task, config = prepared.inputs, prepared.task, prepared.config
    population = jax.device_get(prepared.programs.init(inputs).population)
    key = jax.device_put(inputs.key, jax.devices()[0])
    rows = batch_indices(
        derive_key(key, BATCHES),
        0,
        num_examples=len(task.data.train["label"]),
        batch_size=config.batch_size or task.batch_size,
        num_steps=config.steps_per_generation,
    )
    batches = take(task.data.train, np.asarray(rows))
    return Start(population.state.params, population.hparams.learning_rate, batches)


def population_program(prepared: Prepared) -> Control:
    """Makes jepbt itself comparable to its controls."""
    programs, inputs = prepared.programs, prepared.inputs
    state = programs.init(inputs)

    def run():
        nonlocal state
        state, _ = programs.train(inputs, np.int32(0), state)
        jax.block_until_ready(state)

    def params():
        return jax.device_get(state.population.state.params)

    return Control(run, params, prepared.config.steps_per_generation)


def loop_over_steps(workload: Workload, start: Start) -> Control:
    """Trains one member after the other, a call of a jitted step for every batch."""
    task = make_task(workload)
    step = jax.jit(_one_step(task), donate_argnums=0)
    device = jax.devices()[0]
    states, hparams = _place_members(task, start, [device])
    num_steps = len(start.batches["label"])
    batches = [jax.device_put(take(start.batches, i), device) for i in range(num_steps)]
    step(_copy(states[0]), hparams[0], batches[0])  # compiles

    def run():
        for i, state in enumerate(states):
            h = hparams[i]
            for batch in batches:
                state, _ = step(state, h, batch)
            states[i] = state
        jax.block_until_ready(states)

    return Control(run, lambda: _collect(states), num_steps)


def loop_over_scans(
    workload: Workload, start: Start, *, over_devices: bool = False
) -> Control:
    """Trains one member after the other, all of its steps in one jitted scan.

    Args:
        workload: the model.
        start: where to begin.
        over_devices: whether members are dealt to all devices, which then work side
            by side; else the first device has all of them.

    Returns:
        The control.
    """
    task = make_task(workload)
    one_step = _one_step(task)

    def scan(state, hparams, batches):
        return jax.lax.scan(
            lambda state, batch: one_step(state, hparams, batch), state, batches
        )

    train = jax.jit(scan, donate_argnums=0)
    devices = jax.devices() if over_devices else jax.devices()[:1]
    states, hparams = _place_members(task, start, devices)
    batches = [jax.device_put(start.batches, device) for device in devices]
    for i in range(min(len(devices), len(states))):  # compiles, for each device
        train(_copy(states[i]), hparams[i], batches[i])

    def run():
        for i, state in enumerate(states):
            states[i], _ = train(state, hparams[i], batches[i % len(devices)])
        jax.block_until_ready(states)

    return Control(run, lambda: _collect(states), len(start.batches["label"]))


def plain_vmap(workload: Workload, start: Start) -> Control:
    """Trains all members together: a scan over steps, in it flax's layers vmapped."""
    task = make_flax_task(workload)
    one_step = _one_step(task)
    hparams = task.hparams(learning_rate=jnp.asarray(start.learning_rate))
    num_steps = workload.num_vmap_steps
    batches = jax.device_put(take(start.batches, slice(num_steps)))

    def scan(states, hparams, batches):
        def step(states, batch):
            return jax.vmap(one_step, (0, 0, None))(states, hparams, batch)

        return jax.lax.scan(step, states, batches)

    params = jax.tree.map(jnp.asarray, start.params)
    fresh = jax.vmap(task.init, (None, 0))(jax.random.key(0), hparams)
    states = dataclasses.replace(fresh, params=params)
    train = jax.jit(scan, donate_argnums=0).lower(states, hparams, batches).compile()

    def run():
        nonlocal states
        states, _ = train(states, hparams, batches)
        jax.block_until_ready(states)

    def collect():
        return jax.device_get(states.params)

    return Control(run, collect, num_steps)


def _one_step(task: Task) -> Callable:
    """The member's step; nothing in these models is drawn, so any key will do."""

    def step(state, hparams, batch):
        key = jax.random.key(0)
        return task.train_step(key, state, decode(hparams), batch, task.shared)

    return step


def _place_members(task: Task, start: Start, devices: Sequence[jax.Device]):
    states, hparams = [], []
    for i, rate in enumerate(start.learning_rate):
        h = task.hparams(learning_rate=np.float32(rate))
        fresh = task.init(jax.random.key(0), h)
        state = dataclasses.replace(fresh, params=take(start.params, i))
        device = devices[i % len(devices)]
        # A copy by the program owns its memory, so that it can be donated.
        states.append(_copy(jax.device_put(state, device)))
        hparams.append(jax.device_put(h, device))
    return states, hparams


def _copy(tree: PyTree) -> PyTree:
    return jax.tree.map(jnp.copy, tree)


def _collect(states: Sequence[Any]) -> PyTree:
    params = [jax.device_get(state.params) for state in states]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *params)
