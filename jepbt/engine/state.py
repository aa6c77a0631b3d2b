"""Holds what a run is made of, reads, carries on and reports."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jepbt.config import Config
from jepbt.engine.devices import map_members
from jepbt.hyperparameters import HyperParameters
from jepbt.population import Member, Population, PyTree
from jepbt.strategies import Evaluation, Strategy
from jepbt.tasks import Splits, Task


@dataclasses.dataclass(frozen=True)
class Spec:
    """Says what a run is made of: all that its functions read beside arrays.

    Attributes:
        task: the task of one member.
        strategy: the strategy between members.
        config: the settings, checked, with the batch size decided.
        mesh: the devices that share the population; `None` for no sharding.
        chunk_size: the members of a device that are computed together.
    """

    task: Task
    strategy: Strategy
    config: Config
    mesh: Mesh | None = None
    chunk_size: int = 1

    @property
    def slots(self) -> jax.Array:
        """The numbers of all slots, `i32[P]`."""
        return jnp.arange(self.config.population_size, dtype=jnp.int32)

    def over_members(
        self, function: Callable[..., PyTree], *, in_place: bool = False
    ) -> Callable[..., PyTree]:
        """Batches a function of one member: see `map_members`."""
        return map_members(
            function, mesh=self.mesh, chunk_size=self.chunk_size, in_place=in_place
        )

    def place(self, tree: PyTree, sharding: Callable[[Mesh], Any]) -> PyTree:
        """Tells the compiler where arrays lie, if there are devices to choose from."""
        if self.mesh is None:
            return tree
        return jax.lax.with_sharding_constraint(tree, sharding(self.mesh))


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


@jax.tree_util.register_dataclass
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


@jax.tree_util.register_dataclass
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
