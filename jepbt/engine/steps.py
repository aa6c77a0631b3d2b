"""Makes the training steps of one generation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jepbt.engine.batches import batch_indices, read_by_each
from jepbt.engine.state import Inputs, Spec
from jepbt.hyperparameters import HyperParameters, decode
from jepbt.population import (
    BATCHES,
    PREPARE,
    TRAIN,
    Population,
    PyTree,
    count_rows,
    derive_key,
    take,
)


def share_steps(
    spec: Spec, inputs: Inputs, number: jax.Array, population: Population
) -> tuple[jax.Array | None, PyTree]:
    """Makes what the steps of all members share: their rows, and what is prepared.

    Returns:
        `i32[S, B]` or `None`, and what `prepare` made, leaves `[S, ...]`, or `None`.
    """
    indices = prepared = None
    if inputs.train is not None and spec.config.batches == "shared":
        key = derive_key(inputs.key, BATCHES)
        indices = _draw_batches(spec, key, number, inputs.train)
    if spec.task.prepare is not None:
        prepared = spec.task.prepare(
            derive_key(inputs.key, PREPARE, number),
            population,
            take(inputs.train, indices),
            inputs.shared,
        )
    return indices, prepared


def member_steps(
    spec: Spec,
    slot: jax.Array,
    hparams: HyperParameters,
    inputs: Inputs,
    number: jax.Array,
    indices: jax.Array | None,
    prepared: PyTree,
) -> tuple[Callable[..., Any], PyTree]:
    """Makes one member's steps of a generation, to be scanned.

    `slot` is `i32[]`; `indices` and `prepared` are what `share_steps` made.

    Returns:
        `(state, counted) -> (state, metrics)`, and the steps' inputs with leaves
        `[S, ...]`, one row for each call.
    """
    member_key = derive_key(inputs.key, TRAIN, number, slot)
    values = decode(hparams)
    if inputs.train is not None and indices is None:
        own_key = derive_key(inputs.key, BATCHES, slot)
        indices = _draw_batches(spec, own_key, number, inputs.train)
    elif indices is not None:
        indices = read_by_each(slot, indices)

    def step(state, counted):
        count, rows, extra = counted
        key = jax.random.fold_in(member_key, count)
        batch = take(inputs.train, rows)
        if spec.task.prepare is not None:
            batch = (batch, extra)
        return spec.task.train_step(key, state, values, batch, inputs.shared)

    counts = jnp.arange(spec.config.steps_per_generation, dtype=jnp.int32)
    return step, (counts, indices, prepared)


def _draw_batches(spec, key, number, rows) -> jax.Array:
    return batch_indices(
        key,
        number,
        num_examples=count_rows(rows),
        batch_size=spec.config.batch_size,
        num_steps=spec.config.steps_per_generation,
    )
