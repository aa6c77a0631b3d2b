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
from jepbt.benchmark.workloads import Workload, make_task
from jepbt.engine.batches import batch_indices
from jepbt.hyperparameters import decode
from jepbt.population import BATCHES, derive_key, take
from jepbt.tasks import Task
from jepbt.training import Prepared, prepare


def prepare_training(
    task: Task, population_size: int, num_steps: int, **settings: Any
) -> Prepared:
    """Prepares a run of one generation, in which the population only trains."""
    return prepare(
        task,
        strategy="random_search",
        population_size=population_size,
        num_generations=1,
        steps_per_generation=num_steps,
        **settings,
    )


def make_start(prepared: Prepared) -> Start:
    """Takes weights, learning rates and batches from a prepared run of jepbt."""
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

    return Control(run, prepared.config.steps_per_generation, params)


def loop_over_steps(workload: Workload, start: Start) -> Control:
    """Trains one member after the other, a call of a jitted step for every batch."""
    task = make_task(workload)
    step = jax.jit(_one_step(task), donate_argnums=0)
    batches = [take(start.batches, i) for i in range(len(start.batches["label"]))]

    def train(state, hparams, batches):
        for batch in batches:
            state, _ = step(state, hparams, batch)
        return state

    return _loop(task, start, train, batches, jax.devices()[:1])


def loop_over_scans(
    workload: Workload, start: Start, devices: Sequence[jax.Device] | None = None
) -> Control:
    """Trains each member in one jitted scan; several devices work side by side."""
    task = make_task(workload)
    train = _scan(_one_step(task))
    return _loop(task, start, train, start.batches, devices or jax.devices()[:1])


def plain_vmap(task: Task, start: Start, num_steps: int) -> Control:
    """Trains all members together: a scan over steps, in it a vmapped step."""
    train = _scan(jax.vmap(_one_step(task), (0, 0, None)))
    states, hparams = _first_members(task, start)
    batches = jax.device_put(take(start.batches, slice(num_steps)))

    def run():
        nonlocal states
        states = jax.block_until_ready(train(states, hparams, batches))

    return Control(run, num_steps, lambda: jax.device_get(states.params))


def _first_members(task: Task, start: Start) -> tuple[Any, Any]:
    """Makes the states and hyperparameters of all members, with a leading axis `P`."""
    hparams = task.hparams(learning_rate=jnp.asarray(start.learning_rate))
    fresh = jax.vmap(task.init, (None, 0))(jax.random.key(0), hparams)
    params = jax.tree.map(jnp.asarray, start.params)
    return dataclasses.replace(fresh, params=params), hparams


def _one_step(task: Task) -> Callable:
    """Makes the member's step; nothing is drawn in it, so any key will do."""

    def step(state, hparams, batch):
        key = jax.random.key(0)
        return task.train_step(key, state, decode(hparams), batch, task.shared)

    return step


def _scan(one_step: Callable) -> Callable:
    def scan(state, hparams, batches):
        return jax.lax.scan(
            lambda state, batch: one_step(state, hparams, batch), state, batches
        )[0]

    return jax.jit(scan, donate_argnums=0)


def _loop(
    task: Task,
    start: Start,
    train: Callable,
    batches: Any,
    devices: Sequence[jax.Device],
) -> Control:
    """Calls a member's training for one after the other, dealt to devices."""
    staged = [jax.device_put(batches, device) for device in devices]
    members = jax.device_get(_first_members(task, start))
    states, hparams = [], []
    for i in range(len(start.learning_rate)):
        device = devices[i % len(devices)]
        state, hparam = jax.device_put(take(members, i), device)
        # A copy by the program owns its memory, so that it can be donated.
        states.append(jax.tree.map(jnp.copy, state))
        hparams.append(hparam)

    def run():
        for i, state in enumerate(states):
            states[i] = train(state, hparams[i], staged[i % len(devices)])
        jax.block_until_ready(states)

    def params():
        params = [jax.device_get(state.params) for state in states]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *params)

    return Control(run, len(start.batches["label"]), params)
