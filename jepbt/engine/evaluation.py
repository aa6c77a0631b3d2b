"""Scores members, and keeps the best that there ever was."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jepbt.engine.batches import read_by_each
from jepbt.engine.state import Best, Inputs, Spec
from jepbt.hyperparameters import HyperParameters, decode
from jepbt.population import (
    EVALUATE,
    Population,
    PyTree,
    are_finite,
    count_rows,
    derive_key,
    key_shape,
    take,
)
from jepbt.strategies import Evaluation
from jepbt.tasks import Task

EVALUATION_BATCH = 250
"""Examples scored at a time: large enough for one matmul, small enough for a cache."""


def score_member(
    spec: Spec,
    inputs: Inputs,
    number: jax.Array,
    state: PyTree,
    hparams: HyperParameters,
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Evaluates one member: fitness, standard error and, if asked for, behaviour."""
    key = derive_key(inputs.key, EVALUATE, number)
    member = key, state, decode(hparams)
    scores = _score_examples(spec.task, *member, inputs.validation, inputs.shared)
    behaviour = None
    if spec.strategy.behaviour is not None:
        behaviour = _behave(spec, *member, inputs, scores)
    fitness, standard_error = _summarize(scores)
    # A weight that has become nan or inf may be one that no example has read yet. A
    # state without `params` is judged by its loss and its scores alone.
    is_live = are_finite(getattr(state, "params", ()))
    fitness = jnp.where(is_live, fitness, jnp.nan)
    return fitness, standard_error, behaviour


def mean_score(
    task: Task,
    key: jax.Array,
    state: PyTree,
    values: HyperParameters,
    rows: PyTree,
    shared: PyTree,
) -> tuple[jax.Array, jax.Array]:
    """Computes a member's mean score `f32[]` and its standard error on a split."""
    return _summarize(_score_examples(task, key, state, values, rows, shared))


def _score_examples(task, key, state, values, rows, shared) -> jax.Array:
    """Scores one member on all examples of a split: `f32[N]`."""
    if rows is None:
        scores = jnp.ravel(task.evaluate(key, state, values, None, shared))
    else:

        def evaluate(batch):
            return task.evaluate(key, state, values, batch, shared)

        scores = map_batches(evaluate, rows, state)
    return scores.astype(jnp.float32)


def map_batches(
    function: Callable[[PyTree], jax.Array], rows: PyTree, state: PyTree
) -> jax.Array:
    """Applies a function of a batch to all rows, a few at a time, for one member.

    Args:
        function: `rows [B, ...] -> results [B, ...]`.
        rows: the examples of a split, leaves `[N, ...]`.
        state: the state of the member that the function computes with.

    Returns:
        `[N, ...]`.
    """
    num_rows = count_rows(rows)
    num_batches = math.ceil(num_rows / EVALUATION_BATCH)
    size = math.ceil(num_rows / num_batches)
    # The last batch is filled up with the first rows, whose second results are cut.
    batches = (jnp.arange(num_batches * size) % num_rows).reshape(-1, size)
    batches = read_by_each(jax.tree.leaves(state)[:1], batches)
    results = jax.lax.map(lambda batch: function(take(rows, batch)), batches)
    return results.reshape(-1, *results.shape[2:])[:num_rows]


def _summarize(scores: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Computes the mean of scores `f32[N]`, and its standard error."""
    return scores.mean(), scores.std() / math.sqrt(scores.size)


def behaviour_shape(
    spec: Spec, state: PyTree, hparams: HyperParameters
) -> jax.ShapeDtypeStruct | None:
    """Finds the shape of a member's behaviour; `None` if the strategy asks for none."""
    if spec.strategy.behaviour is None:
        return None

    def behave(key, state, hparams, rows, shared):
        inputs = Inputs(key, None, rows, shared)
        return score_member(spec, inputs, 0, state, hparams)[2]

    rows, shared = spec.task.data.validation, spec.task.shared
    return jax.eval_shape(behave, key_shape(), state, hparams, rows, shared)


def keep_best(
    best: Best, population: Population, evaluation: Evaluation, number: jax.Array
) -> Best:
    """Replaces the best member so far if a live one of this generation beats it."""
    score = jnp.where(jnp.isnan(evaluation.fitness), -jnp.inf, evaluation.fitness)
    slot = jnp.argmax(score)
    # Indexed by an array, so that over devices only one member moves: XLA answers a
    # scalar index with a copy of the whole population on each.
    member = take(take(population, slot[None]), 0)
    candidate = Best(
        member,
        evaluation.standard_error[slot],
        jnp.asarray(number, jnp.int32),
        slot.astype(jnp.int32),
    )
    is_better = score[slot] > best.member.fitness
    return jax.tree.map(
        lambda new, old: jnp.where(is_better, new, old), candidate, best
    )


def _behave(spec, key, state, values, inputs, scores) -> jax.Array:
    wanted = spec.strategy.behaviour
    if wanted.metric == "correctness":
        return scores[: wanted.num_examples]
    rows = jax.tree.map(lambda leaf: leaf[: wanted.num_examples], inputs.validation)
    behaviour = spec.task.behaviour(key, state, values, rows, inputs.shared)
    return jnp.ravel(behaviour).astype(jnp.float32)
