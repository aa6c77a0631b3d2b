"""Scores members, and keeps the best that there ever was."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jepbt.engine.state import Best, Inputs
from jepbt.hyperparameters import HyperParameters
from jepbt.operators import Behaviour
from jepbt.population import Population, PyTree, take
from jepbt.strategies import Evaluation
from jepbt.tasks import Task

EVALUATION_BATCH = 250
"""Examples scored at a time: large enough for one matmul, small enough for a cache."""


def score_examples(
    task: Task,
    key: jax.Array,
    state: PyTree,
    values: HyperParameters,
    rows: PyTree,
    shared: PyTree,
) -> jax.Array:
    """Scores one member on all examples of a split.

    Args:
        task: whose `evaluate` gives one score for each example.
        key: the same for all members.
        state: one member's.
        values: its hyperparameters, decoded.
        rows: leaves `[N, ...]`, or `None`.
        shared: the task's.

    Returns:
        `f32[N]` the scores.
    """
    if rows is None:
        scores = jnp.ravel(task.evaluate(key, state, values, None, shared))
    else:
        num_rows = _num_rows(rows)
        num_batches = math.ceil(num_rows / EVALUATION_BATCH)
        size = math.ceil(num_rows / num_batches)
        # The last batch is filled up with the first rows, whose second scores are cut.
        batches = (jnp.arange(num_batches * size) % num_rows).reshape(-1, size)
        scores = jax.lax.map(
            lambda batch: task.evaluate(key, state, values, take(rows, batch), shared),
            batches,
        ).ravel()[:num_rows]
    return scores.astype(jnp.float32)


def score(
    task: Task,
    key: jax.Array,
    state: PyTree,
    values: HyperParameters,
    rows: PyTree,
    shared: PyTree,
) -> tuple[jax.Array, jax.Array]:
    """Computes a member's mean score `f32[]` and its standard error on a split."""
    return summarize(score_examples(task, key, state, values, rows, shared))


def summarize(scores: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Computes the mean of scores `f32[N]`, and its standard error."""
    return scores.mean(), scores.std() / math.sqrt(scores.size)


def has_finite_params(state: PyTree) -> jax.Array:
    """Tells whether a member's weights are finite: `bool[]`.

    A weight that has become nan or inf may be one that no example has read yet. Of a
    state without `params` nothing is known: it is judged by its loss and its scores.

    Args:
        state: one member's.

    Returns:
        Whether every number in `state.params` is finite, if there is such a thing.

    Example:
        >>> from types import SimpleNamespace
        >>> import jax.numpy as jnp
        >>> bool(has_finite_params(SimpleNamespace(params=[jnp.array([1.0, jnp.inf])])))
        False
    """
    leaves = jax.tree.leaves(getattr(state, "params", ()))
    is_finite = [
        jnp.isfinite(leaf).all()
        for leaf in leaves
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]
    return jnp.all(jnp.array(is_finite, bool))


def behave(
    wanted: Behaviour,
    task: Task,
    key: jax.Array,
    state: PyTree,
    values: HyperParameters,
    inputs: Inputs,
    scores: jax.Array,
) -> jax.Array:
    """Measures what one member does, as its strategy asks for.

    Args:
        wanted: the strategy's `behaviour`.
        task: whose `behaviour` is called, if the strategy wants that.
        key: the same for all members.
        state: one member's.
        values: its hyperparameters, decoded.
        inputs: with the validation rows.
        scores: `f32[N]` on them.

    Returns:
        `f32[K]`.
    """
    if wanted.metric == "scores":
        return scores[: wanted.num_examples]
    rows = jax.tree.map(lambda leaf: leaf[: wanted.num_examples], inputs.validation)
    behaviour = task.behaviour(key, state, values, rows, inputs.shared)
    return jnp.ravel(behaviour).astype(jnp.float32)


def keep_best(
    best: Best, population: Population, evaluation: Evaluation, generation: jax.Array
) -> Best:
    """Replaces the best member so far if a live one of this generation beats it.

    Args:
        best: so far.
        population: just evaluated.
        evaluation: of that population.
        generation: `i32[]`.

    Returns:
        The better of both; the earlier one if they are equal.
    """
    score = jnp.where(jnp.isnan(evaluation.fitness), -jnp.inf, evaluation.fitness)
    slot = jnp.argmax(score)
    # Indexed by an array, so that over devices only one member moves: XLA answers a
    # scalar index with a copy of the whole population on each.
    member = take(take(population, slot[None]), 0)
    candidate = Best(
        member,
        evaluation.standard_error[slot],
        jnp.asarray(generation, jnp.int32),
        slot.astype(jnp.int32),
    )
    is_better = score[slot] > best.member.fitness
    return jax.tree.map(
        lambda new, old: jnp.where(is_better, new, old), candidate, best
    )


def _num_rows(rows: PyTree) -> int:
    return jax.tree.leaves(rows)[0].shape[0]
