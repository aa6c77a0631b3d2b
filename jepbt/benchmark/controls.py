"""Trains the same population in other ways: the benchmark's controls in JAX.

Each starts from the same weights, takes the same steps on the same batches, staged on
the device beforehand, donates its state, and waits once, at the end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jepbt.benchmark.timing import Control, Start
from jepbt.benchmark.workloads import Workload, make_flax_task, make_task
from jepbt.engine.batches import batch_indices
from jepbt.hyperparameters import decode
from jepbt.population import BATCHES, derive_key, take
from jepbt.tasks import Task
from jepbt.training import Prepared

PyTree = Any


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
        batch_size=config.batch_size,
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
    step = jax.jit(_one_step(make_task(workload)), donate_argnums=0)
    batches = [take(start.batches, i) for i in range(len(start.batches["label"]))]

    def train(state, hparams, batches):
        for batch in batches:
            state, _ = step(state, hparams, batch)
        return state

    return _loop(workload, start, train, batches, jax.devices()[:1])


def loop_over_scans(workload: Workload, start: Start) -> Control:
    """Trains one member after the other, all of its steps in one jitted scan."""
    train = _scan(make_task(workload))
    return _loop(workload, start, train, start.batches, jax.devices()[:1])


def deal_scans(workload: Workload, start: Start) -> Control:
    """Deals the members' jitted scans to all devices, which work side by side."""
    train = _scan(make_task(workload))
    return _loop(workload, start, train, start.batches, jax.devices())


def plain_vmap(workload: Workload, start: Start) -> Control:
    """Trains all members together: a scan over steps, in it flax's layers vmapped."""
    task = make_flax_task(workload)
    one_step = jax.vmap(_one_step(task), (0, 0, None))
    hparams = task.hparams(learning_rate=jnp.asarray(start.learning_rate))
    batches = jax.device_put(take(start.batches, slice(workload.num_vmap_steps)))

    def scan(states, hparams, batches):
        return jax.lax.scan(
            lambda s, batch: one_step(s, hparams, batch), states, batches
        )

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

    return Control(run, collect, workload.num_vmap_steps)


def _one_step(task: Task) -> Callable:
    """Makes the member's step; nothing is drawn in it, so any key will do."""

    def step(state, hparams, batch):
        key = jax.random.key(0)
        return task.train_step(key, state, decode(hparams), batch, task.shared)

    return step


def _scan(task: Task) -> Callable:
    one_step = _one_step(task)

    def scan(state, hparams, batches):
        return jax.lax.scan(
            lambda s, batch: one_step(s, hparams, batch), state, batches
        )[0]

    return jax.jit(scan, donate_argnums=0)


def _loop(
    workload: Workload,
    start: Start,
    train: Callable,
    batches: PyTree,
    devices: Sequence[jax.Device],
) -> Control:
    """Calls a member's training for one after the other, dealt to devices."""
    task = make_task(workload)
    staged = [jax.device_put(batches, device) for device in devices]
    states, hparams = [], []
    for i, rate in enumerate(start.learning_rate):
        h = task.hparams(learning_rate=np.float32(rate))
        fresh = task.init(jax.random.key(0), h)
        state = dataclasses.replace(fresh, params=take(start.params, i))
        device = devices[i % len(devices)]
        # A copy by the program owns its memory, so that it can be donated.
        states.append(_copy(jax.device_put(state, device)))
        hparams.append(jax.device_put(h, device))
    for i in range(min(len(devices), len(states))):  # compiles, for each device
        train(_copy(states[i]), hparams[i], staged[i])

    def run():
        for i, state in enumerate(states):
            states[i] = train(state, hparams[i], staged[i % len(devices)])
        jax.block_until_ready(states)

    def collect():
        params = [jax.device_get(state.params) for state in states]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *params)

    return Control(run, collect, len(start.batches["label"]))


def _copy(tree: PyTree) -> PyTree:
    return jax.tree.map(jnp.copy, tree)
