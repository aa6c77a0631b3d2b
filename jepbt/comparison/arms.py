"""Reads the arms of a comparison, and refuses what would make it unfair."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np

from jepbt.arguments import accepts, check_real
from jepbt.checkpoints import folder
from jepbt.config import Config
from jepbt.engine.checks import first_difference
from jepbt.engine.member import TracedMember, decide_batch_size, trace_member
from jepbt.losses import cross_entropy
from jepbt.strategies import Strategy, random_search, resolve_strategy
from jepbt.tasks import Adaptation, Task

TOLERANCE = 0.05
"""The share by which costs may differ and still count as equal."""


@dataclasses.dataclass(frozen=True)
class Arm:
    """One of the things that are compared.

    Attributes:
        task: the task that its populations train.
        strategy: a strategy's name, or one from `jepbt.strategies`.
        step_cost: the cost of its training step, in steps of the arms that declare
            none; it then takes so many fewer of them that costs are equal. `None`
            declares nothing: a step may cost at most 5 % more than another arm's, by
            the compiler's count. For a loss that adapts, `jepbt.comparison.step_cost`
            counts it.

    Example:
        >>> import numpy as np, jepbt
        >>> x = np.random.default_rng(0).normal(size=(40, 5))
        >>> Arm(jepbt.regression((x, x[:, 0])), "pbt", step_cost=1.4).step_cost
        1.4
    """

    task: Task
    strategy: str | Strategy = "epbt"
    step_cost: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.task, Task):
            raise TypeError(
                f"Arm: task must be a jepbt.Task, got {type(self.task).__name__}. For "
                "images: jepbt.classification('fashion_mnist')."
            )
        resolve_strategy(self.strategy)
        if self.step_cost is not None:
            check_real("Arm", "step_cost", self.step_cost, 0, above=True)


Given: TypeAlias = Arm | Task | tuple[Task, str | Strategy]
"""An arm as users write it: `jepbt.Arm`, a task, or `(task, strategy)`."""

Source: TypeAlias = Given | Callable[[int], Given]
"""An arm, or a function that makes it of a seed."""


@dataclasses.dataclass(frozen=True, eq=False)
class Entrant:
    """An arm that has been checked at the first seed.

    Attributes:
        name: the arm's name.
        source: the arm as the user gave it.
        first: the arm at the first seed.
        config: the run's settings, with this arm's batch size and steps.
        member: one member, traced.
    """

    name: str
    source: Source
    first: Arm
    config: Config
    member: TracedMember

    def at(self, seed: int) -> Arm:
        """Makes the arm of a seed, which must fit the first seed's programs."""
        if seed == self.config.seed or not is_by_seed(self.source):
            return self.first
        arm = read_arm(self.name, self.source, seed)
        for what in ("data", "shared"):
            difference = first_difference(
                getattr(arm.task, what), getattr(self.first.task, what)
            )
            if difference is not None:
                path, has, needs = difference
                raise ValueError(
                    f"compare: arm {self.name!r} at seed {seed}: leaf {path} of its "
                    f"task's {what} is {has} where the first seed has {needs}. Shapes "
                    "must not depend on the seed."
                )
        return arm


def is_by_seed(source: Source) -> bool:
    """Tells whether an arm is a function of the seed."""
    return callable(source) and not isinstance(source, Arm | Task)


def read_arm(name: str, source: Source, seed: int) -> Arm:
    """Reads an arm as a user gave it, at one seed."""
    given = source
    if is_by_seed(source):
        if not accepts(source, 0):
            raise TypeError(f"compare: arm {name!r} must be a function of one seed.")
        given = source(seed)
    if isinstance(given, Task):
        given = (given,)
    if isinstance(given, tuple) and 1 <= len(given) <= 2:
        try:
            return Arm(*given)
        except (TypeError, ValueError) as error:
            raise type(error)(f"compare: arm {name!r}: {error}") from error
    if isinstance(given, Arm):
        return given
    raise TypeError(
        f"compare: arm {name!r} must be (task, strategy), a jepbt.Arm, a task, or a "
        f"function of the seed that returns one of them, got {type(given).__name__}."
    )


def enter(arms: Mapping[str, Source], config: Config) -> list[Entrant]:
    """Checks that arms can be compared, by their shapes and costs at the first seed.

    The config has that seed, and the steps of an arm that declares no cost. The arms
    come back in order, traced, with the steps that make their costs equal.
    """
    read = {name: read_arm(name, source, config.seed) for name, source in arms.items()}
    check_same_data(read, config.seed)
    entrants = []
    for name, arm in read.items():
        settled = decide_batch_size(arm.task, config)
        steps = round(config.steps_per_generation / (arm.step_cost or 1))
        settled = dataclasses.replace(settled, steps_per_generation=max(1, steps))
        member = trace_member(arm.task, resolve_strategy(arm.strategy), settled)
        entrants.append(Entrant(name, arms[name], arm, settled, member))
    _check_batch_sizes(entrants)
    _check_steps(entrants, config.steps_per_generation)
    _check_flops(entrants)
    return entrants


def check_same_data(arms: Mapping[str, Arm], seed: int) -> None:
    """Raises a `ValueError` unless all arms have the same examples at a seed."""
    (first, reference), *others = arms.items()
    for name, arm in others:
        if arm.task.data is reference.task.data:
            continue
        both = f"compare: arms {first!r} and {name!r}"
        found = first_difference(arm.task.data, reference.task.data)
        if found is not None:
            path, has, needs = found
            raise ValueError(
                f"{both} have data of other shapes at seed {seed}: leaf {path} is "
                f"{needs} and {has}. Make the arms' tasks of one data set."
            )
        lefts = jax.tree_util.tree_leaves_with_path(arm.task.data)
        rights = jax.tree.leaves(reference.task.data)
        for (path, left), right in zip(lefts, rights, strict=True):
            if left is not right and not np.array_equal(left, right, equal_nan=True):
                raise ValueError(
                    f"{both} have other examples at seed {seed}, in leaf "
                    f"{jax.tree_util.keystr(path)}, so that data and not the arms "
                    "would be compared. Make the arms' tasks of one data set, with "
                    "splits and noise that follow from the seed alone."
                )


def step_cost(make_task: Callable[[Any], Task], loss: Adaptation) -> float:
    """Counts a step with a loss that adapts, in steps with cross-entropy.

    It is for `Arm(task, strategy, step_cost=...)`, with which such an arm takes so many
    fewer steps that all arms cost the same. The loss's own steps are spread over those
    in which there is none; its start, one pass over the validation split in a run, is
    left out.

    Args:
        make_task: `(loss) -> Task`, which makes the arm's task with another loss.
        loss: the loss that adapts, as `jepbt.adapt` returns it.

    Returns:
        The ratio of floating-point operations by the compiler's count; 1 if it does not
        count.

    Example:
        >>> import numpy as np, jepbt
        >>> images = np.random.default_rng(0).normal(size=(400, 9)).astype(np.float32)
        >>> data = jepbt.datasets.from_arrays((images, np.arange(400) % 3))
        >>> def make_task(loss):
        ...     return jepbt.classification(data, loss=loss)
        >>> loss = jepbt.adapt(jepbt.losses.confusion(), rate=lambda h: h.momentum)
        >>> 1.2 < step_cost(make_task, loss) < 1.3
        True
    """

    def count(loss):
        task = make_task(loss)
        config = decide_batch_size(task, Config())
        return trace_member(task, random_search(), config).step_flops

    plain = count(lambda h: cross_entropy)
    startless = dataclasses.replace(loss.loss, start=None)
    without_start = loss._replace(loss=startless)
    return 1 + (count(without_start) / plain - 1) / loss.every if plain else 1.0


def describe_spaces(entrants: Sequence[Entrant]) -> list[str]:
    """Says which arms start from other hyperparameters than the first arm's."""
    described = [folder.describe_spaces(e.first.task.hparams) for e in entrants]
    others = [
        entrant.name
        for entrant, space in zip(entrants, described, strict=True)
        if space != described[0]
    ]
    if not others:
        return []
    return [
        f"first hyperparameters: those of {', '.join(others)} are drawn from another "
        f"search space than {entrants[0].name}'s, and so are others"
    ]


def _check_batch_sizes(entrants: Sequence[Entrant]) -> None:
    sizes = {entrant.name: entrant.config.batch_size for entrant in entrants}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name!r}: {size}" for name, size in sizes.items())
        raise ValueError(
            f"compare: batch sizes differ ({listed}). Give one for all arms: "
            f"compare(..., batch_size={max(sizes.values())})."
        )


def _check_steps(entrants: Sequence[Entrant], budget: int) -> None:
    """Refuses a number of steps that cannot be matched."""
    costs = [entrant.first.step_cost or 1 for entrant in entrants]

    def is_matched(budget):
        return all(
            abs(max(1, round(budget / cost)) * cost / budget - 1) <= TOLERANCE
            for cost in costs
        )

    if is_matched(budget):
        return
    better = next((n for n in range(budget + 1, budget + 10_000) if is_matched(n)), 0)
    cure = f"Choose steps_per_generation={better}." if better else "Choose more steps."
    raise ValueError(
        f"compare: steps_per_generation={budget} cannot be matched within "
        f"{TOLERANCE:.0%} by whole steps of cost {max(costs):g}. {cure}"
    )


def _check_flops(entrants: Sequence[Entrant]) -> None:
    """Refuses arms whose steps cost more than others, and which do not say so."""
    flops = {
        entrant.name: entrant.member.step_flops
        for entrant in entrants
        if entrant.first.step_cost is None and entrant.member.step_flops > 0
    }
    if len(flops) < 2:
        return
    low, high = min(flops, key=flops.get), max(flops, key=flops.get)
    ratio = flops[high] / flops[low]
    if ratio > 1 + TOLERANCE:
        raise ValueError(
            f"compare: a training step of arm {high!r} costs {ratio:.3g} times that of "
            f"{low!r} ({flops[high]:.4g} and {flops[low]:.4g} FLOPs). Declare it, "
            f"jepbt.Arm(task, strategy, step_cost={ratio:.3g}) for {high!r}, and that "
            "arm takes fewer steps, so that costs are equal. For a loss that adapts, "
            "jepbt.comparison.step_cost counts it: its own steps are rare."
        )
