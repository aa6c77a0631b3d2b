"""Holds what a run carries from one generation to the next."""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax

from jepbt.hyperparameters import HyperParameters
from jepbt.population import Member, Population, PyTree
from jepbt.strategies import Evaluation
from jepbt.tasks import Splits


class Inputs(NamedTuple):
    """The read-only arrays of every program.

    They are arguments, so that XLA does not bake them in as constants.

    Attributes:
        key: the run's key.
        train: the training rows, leaves `[N, ...]`, or `None`.
        validation: the validation rows, or `None`.
        shared: the task's shared arrays.
    """

    key: jax.Array
    train: PyTree
    validation: PyTree
    shared: PyTree


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("member", "standard_error", "generation", "slot"),
    meta_fields=(),
)
@dataclasses.dataclass(frozen=True)
class Best:
    """The fittest member of all generations so far (ties: the earliest).

    Attributes:
        member: one `Member`, without the axis `P`.
        standard_error: `f32[]` the standard error of its fitness.
        generation: `i32[]` the generation that it was seen in.
        slot: `i32[]` the slot that it stood in.
    """

    member: Member
    standard_error: jax.Array
    generation: jax.Array
    slot: jax.Array


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("population", "evaluation", "best", "strategy"),
    meta_fields=(),
)
@dataclasses.dataclass(frozen=True)
class RunState:
    """Everything that one generation hands to the next.

    Attributes:
        population: the members, leaves `[P, ...]`.
        evaluation: the scores of that population.
        best: the best member so far.
        strategy: the strategy's own state.
    """

    population: Population
    evaluation: Evaluation
    best: Best
    strategy: PyTree


class Record(NamedTuple):
    """What one generation reports; leaves `[P]`, in a history `[G, P]`.

    Attributes:
        fitness: `f32[P]` after training, `nan` if failed.
        standard_error: `f32[P]` the standard error of the fitness.
        parents: `i32[P]` the slots whose state each slot trained on from.
        hparams: the hyperparameters that each slot trained with, leaves `[P, ...]`.
        metrics: `f32[P]` by name, means over the generation's steps.
        info: the strategy's report, arrays by name.
    """

    fitness: jax.Array
    standard_error: jax.Array
    parents: jax.Array
    hparams: HyperParameters
    metrics: dict[str, jax.Array]
    info: dict[str, jax.Array]


def make_inputs(key: jax.Array, data: Splits | None, shared: PyTree) -> Inputs:
    """Collects what every program of a run reads."""
    if data is None:
        return Inputs(key, None, None, shared)
    return Inputs(key, data.train, data.validation, shared)


def make_record(
    state: RunState,
    metrics: dict[str, jax.Array],
    parents: jax.Array,
    info: dict[str, jax.Array],
) -> Record:
    """Collects what one generation reports, after its evaluation."""
    return Record(
        fitness=state.evaluation.fitness,
        standard_error=state.evaluation.standard_error,
        parents=parents,
        hparams=state.population.hparams,
        metrics=metrics,
        info=info,
    )
