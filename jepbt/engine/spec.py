"""Says what a run is made of, in one value."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jepbt.config import Config
from jepbt.engine.devices import map_members
from jepbt.population import PyTree
from jepbt.strategies import Strategy
from jepbt.tasks import Task


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
        settings = {"mesh": self.mesh, "chunk_size": self.chunk_size}
        return map_members(function, in_place=in_place, **settings)

    def place(self, tree: PyTree, sharding: Callable[[Mesh], Any]) -> PyTree:
        """Tells the compiler where arrays lie, if there are devices to choose from."""
        if self.mesh is None:
            return tree
        return jax.lax.with_sharding_constraint(tree, sharding(self.mesh))
