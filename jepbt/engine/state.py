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
    """What every program reads and none changes, an argument so that it is no constant.

    Attributes:
        key: the run's key.
        train: training rows, leaves `[N, ...]`, or `None`.
        validation: validation rows, or `None`.
        shared: the task's.
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
        standard_error: `f32[]` of its fitness.
        generation: `i32[]` when it was seen.
        slot: `i32[]` where.
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
        population: leaves `[P, ...]`.
        evaluation: of that population.
        best: so far.
        strategy: whatever the strategy remembers.
    """

    population: Population
    evaluation: Evaluation
    best: Best
    strategy: PyTree


class Record(NamedTuple):
    """What one generation reports; leaves `[P]`, in a history `[G, P]`.

    Attributes:
        fitness: `f32[P]` after training, `nan` if failed.
        standard_error: `f32[P]` of the fitness.
        parents: `i32[P]` whose state each slot trained on from.
        hparams: leaves `[P, ...]` that it trained with.
        metrics: `f32[P]` by name, means over the generation's steps.
        info: what the strategy reports.
    """

    fitness: jax.Array
    standard_error: jax.Array
    parents: jax.Array
    hparams: HyperParameters
    metrics: dict[str, jax.Array]
    info: dict[str, jax.Array]


def make_inputs(key: jax.Array, data: Splits | None, shared: PyTree) -> Inputs:
    """Collects what every program of a run reads.

    Args:
        key: the run's.
        data: the examples; the test split stays behind.
        shared: the task's.

    Returns:
        The inputs.
    """
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
