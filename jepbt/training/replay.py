"""Trains one fresh network along the schedule that a population found."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jepbt.arguments import check_real
from jepbt.checkpoints.folder import without_address
from jepbt.config import Config, check
from jepbt.hyperparameters import Categorical, default_member, map_fields, spaces
from jepbt.results import Schedules, load_schedules
from jepbt.results.json_lines import to_lists
from jepbt.strategies import Plan, Strategy
from jepbt.tasks import Task
from jepbt.training.result import Result
from jepbt.training.train import train_population


def replay(
    task: Task,
    schedule: Result | Schedules | str | os.PathLike,
    *,
    scale: float = 1.0,
    config: Config | None = None,
    **fields: Any,
) -> Result:
    """Trains a fresh network with the hyperparameters of a winner's ancestors.

    Each generation of the winner's line becomes one of the replay, with an evaluation
    at its end and nothing evolving between. A loss that evolved is replayed with the
    rest. Other data, another model: give another task with the same hyperparameters.

    Args:
        task: the task to learn.
        schedule: a `Result`, its `.schedule`, or the folder of a run.
        scale: the factor on the number of steps; each value holds that much longer.
        config: further settings, as for `train_population`. Its sizes of population,
            generation and batch, and its number of generations, do not count.
        **fields: settings of `Config`, over those of `config`, or arguments of
            `train_population` but `strategy`. `population_size` networks start from
            weights of their own, 1 unless given here. `steps_per_generation` may stand
            for `scale`; `num_generations` is the schedule's.

    Returns:
        A `Result`; the network after the last step is its `final_best`.

    Raises:
        TypeError: if the schedule is of no allowed kind.
        ValueError: if the schedule and the task's hyperparameters do not fit together,
            the scale leaves no step, or a setting contradicts them.

    Example:
        >>> import jepbt
        >>> task = jepbt.classification("fashion_mnist")
        >>> result = jepbt.train_population(task)  # doctest: +SKIP
        >>> again = jepbt.replay(task, result, scale=2, seed=1)  # doctest: +SKIP
        >>> again.final_best.fitness  # doctest: +SKIP

    Reference:
        Jaderberg et al., "Population Based Training of Neural Networks", 2017,
        https://arxiv.org/abs/1711.09846
    """
    if not isinstance(task, Task):
        raise TypeError(f"task must be a jepbt.Task, got {type(task).__name__}.")
    if config is not None:
        check(config)
    schedules = _as_schedules(schedule)
    check_real("", "scale", scale, 0, above=True)
    num_steps = round(schedules.steps_per_generation * scale)
    if num_steps < 1:
        raise ValueError(
            f"scale={scale} leaves no step of a generation's "
            f"{schedules.steps_per_generation}: choose at least "
            f"{1 / schedules.steps_per_generation:g}."
        )
    settings = {
        "strategy": _follow(task, schedules),
        "population_size": 1,
        "num_generations": schedules.num_generations,
        "steps_per_generation": num_steps,
        "batch_size": schedules.batch_size,
    }
    reasons = {
        "strategy": "nothing evolves in a replay",
        "num_generations": f"the schedule has {schedules.num_generations}",
    }
    if scale != 1:
        reasons["steps_per_generation"] = f"scale={scale} makes it {num_steps}"
    for name, reason in reasons.items():
        value = fields.get(name, settings[name])
        if value != settings[name]:
            raise ValueError(
                f"replay: {name}={value!r} is not allowed: {reason}. Leave it out."
            )
    return train_population(task, config=config, **(settings | fields))


def _as_schedules(schedule: Any) -> Schedules:
    if isinstance(schedule, Result):
        return schedule.schedule
    if isinstance(schedule, Schedules):
        return schedule
    if isinstance(schedule, str | os.PathLike):
        return load_schedules(schedule)
    raise TypeError(
        "replay: schedule must be a Result, its .schedule, or the folder of a run, got "
        f"{type(schedule).__name__}."
    )


def _follow(task: Task, schedules: Schedules) -> Strategy:
    """Builds the strategy that gives every member the schedule's next values."""
    values = _encode_all(task, schedules.by_generation)

    def at(generation, num_members):
        return jax.tree.map(
            lambda leaf: jnp.broadcast_to(
                jnp.asarray(leaf)[generation], (num_members, *leaf.shape[1:])
            ),
            values,
        )

    def init(key, hparams_type, num_members, num_generations):
        return (), at(0, num_members)

    def step(key, state, generation, hparams, evaluation):
        slots = jnp.arange(evaluation.fitness.size)
        return state, Plan(slots, at(generation, slots.size), {})

    return Strategy(init, step)


def _encode_all(task: Task, values: Mapping[str, np.ndarray]) -> Any:
    """Turns the schedule into the task's class, with leaves `[G', ...]`."""
    fields = spaces(task.hparams)
    missing = [name for name in fields if name not in values]
    unknown = [name for name in values if name not in fields]
    if missing or unknown:
        raise ValueError(
            f"the schedule has {', '.join(values)}; the task's "
            f"{task.hparams.__name__} has {', '.join(fields)}. Replay with a task of "
            "the same hyperparameters."
        )

    def encode_column(name, space, _):
        column = values[name]
        if isinstance(space, Categorical):
            column = [_as_choice(name, space, value) for value in column]
        return np.stack([space.encode(value) for value in column])

    return map_fields(encode_column, default_member(task.hparams))


def _as_choice(name: str, space: Categorical, value: Any) -> Any:
    """Finds the choice that a value of a schedule is, or that its file wrote so."""
    value = value.item() if isinstance(value, np.generic) else value
    written = to_lists(value)
    for is_same in (
        lambda choice: choice == value,
        lambda choice: _written(choice) == written,
        # An object's address is another in each process.
        lambda choice: without_address(choice) == without_address(value),
    ):
        found = [choice for choice in space.choices if is_same(choice)]
        if len(found) == 1 or (found and space.is_numeric):
            return found[0]
        if found:
            raise ValueError(
                f"the schedule's {name}={value!r} may be any of the choices {found}, "
                "which look alike in a file. Pass jepbt.load(run_dir, task), with the "
                "run's own task, as the schedule."
            )
    raise ValueError(
        f"the schedule's {name}={value!r} is none of the task's choices "
        f"{space.choices}."
    )


def _written(choice: Any) -> Any:
    """Returns what a file has of a choice: numbers were rounded to float32."""
    is_number = isinstance(choice, int | float)
    return to_lists(float(np.float32(choice)) if is_number else choice)
