"""Plans a comparison: checks everything that a user gave, without compiling."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jepbt import config as configs
from jepbt.arguments import check_bool, check_mapping, check_whole, is_whole
from jepbt.checkpoints import identify
from jepbt.comparison.arms import Entrant, Source, enter
from jepbt.comparison.record import Record, open_record
from jepbt.config import Config
from jepbt.engine.devices import choose_devices
from jepbt.engine.forks import check_fork
from jepbt.engine.switches import own_rules
from jepbt.tasks import Task

BIASED = " + biases"
"""Ends the name of an arm whose classes got biases after training."""


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """A comparison that has been checked, and can start.

    Attributes:
        entrants: the arms, with the steps that make their costs equal.
        seeds: the seeds, in order.
        control, primary, post_hoc, devices: see `compare`.
        config: the settings, with the steps of an arm that declares no cost.
        record: the runs that are finished already.
    """

    entrants: Sequence[Entrant]
    seeds: Sequence[int]
    control: str
    primary: str | None
    post_hoc: bool
    config: Config
    devices: Any
    record: Record

    @property
    def missing(self) -> list[tuple[str, int]]:
        """The arms and seeds that are still to be run."""
        pairs = [(e.name, seed) for seed in self.seeds for e in self.entrants]
        return [pair for pair in pairs if pair not in self.record.outcomes]


@own_rules()
def plan_comparison(
    arms: Mapping[str, Source],
    *,
    seeds: int | Sequence[int] = 20,
    control: str | None = None,
    primary: str | None = None,
    post_hoc: bool = False,
    config: Config | None = None,
    devices: Any = None,
    **fields: Any,
) -> Plan:
    """Checks everything that a user gave, without compiling: see `compare`."""
    check_fork("compare")
    _check_names(arms)
    control, primary = _choose(arms, control, primary)
    seeds = _read_seeds(seeds)
    check_bool("compare", "post_hoc", post_hoc)
    config = _merge(config, fields)
    platform = choose_devices(devices, config.population_size)[0].platform
    if config.run_dir is not None and jax.process_count() > 1:
        raise ValueError(
            "compare: run_dir is for one process, and there are "
            f"{jax.process_count()}. Leave it out: all of them return the comparison."
        )
    first = {"seed": seeds[0], "run_dir": None, "resume": False, "progress": False}
    entrants = enter(arms, dataclasses.replace(config, **first))
    if post_hoc:
        _check_post_hoc(entrants)

    def make_identity():
        settings = {"arms": ", ".join(arms), "control": control, "primary": primary}
        return {
            "settings": settings | {"post_hoc": post_hoc, "first seed": seeds[0]},
            "arms": {
                e.name: identify(e.first.task, e.config, e.member, platform)
                | {"num_generations": config.num_generations}
                for e in entrants
            },
        }

    record = open_record(config.run_dir, config.resume, make_identity)
    return Plan(entrants, seeds, control, primary, post_hoc, config, devices, record)


def _check_names(arms: Any) -> None:
    example = "{'fixed': (task, 'epbt'), 'evolved': (another_task, 'epbt')}"
    check_mapping("compare", "arms", arms, example)
    if len(arms) < 2:
        raise ValueError(
            f"compare: arms={list(arms)} must be at least two, one of them the control."
        )
    for name in arms:
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            raise ValueError(
                f"compare: arms: {name!r} must be a name, a text without line breaks."
            )


def _choose(
    arms: Mapping[str, Source], control: str | None, primary: str | None
) -> tuple[str, str | None]:
    names = list(arms)
    control = names[0] if control is None else control
    if control not in names:
        raise ValueError(f"compare: control={control!r} must be one of {names}.")
    others = [name for name in names if name != control]
    if primary is None:
        return control, others[0] if len(others) == 1 else None
    if primary not in others:
        raise ValueError(
            f"compare: primary={primary!r} must be one of {others}, the arms that are "
            "not the control."
        )
    return control, primary


def _read_seeds(seeds: Any) -> tuple[int, ...]:
    if is_whole(seeds):
        check_whole("compare", "seeds", seeds, 1, 10**6)
        return tuple(range(seeds))
    if not isinstance(seeds, Sequence | np.ndarray) or isinstance(seeds, str | bytes):
        raise ValueError(
            f"compare: seeds={seeds!r} must be a number of seeds, or a list of seeds "
            "such as range(100, 120)."
        )
    for seed in seeds:
        check_whole("compare", "seeds: a seed", seed, 0, 2**32 - 1)
    numbers = tuple(int(seed) for seed in seeds)
    repeated = sorted({seed for seed in numbers if numbers.count(seed) > 1})
    if repeated or not numbers:
        what = f"are repeated: {repeated}" if repeated else "are missing"
        raise ValueError(
            f"compare: seeds {what}. Each counts once: give different ones, at least "
            "one, and two for an interval."
        )
    return numbers


_OWN = {
    "seed": "The seeds are an argument of their own: seeds=5, or seeds=[7, 8].",
    "max_seconds": "It would end arms at different costs.",
    "target_fitness": "It would end arms at different costs.",
}


def _merge(config: Config | None, fields: Mapping[str, Any]) -> Config:
    """Puts the settings together, and refuses those that a comparison decides."""
    config = configs.merge("compare", config, fields)
    for name, reason in _OWN.items():
        default = Config.__dataclass_fields__[name].default
        if name in fields or getattr(config, name) != default:
            raise ValueError(
                f"compare: {name}={getattr(config, name)!r} is not taken. {reason}"
            )
    return config


def _check_post_hoc(entrants: Sequence[Entrant]) -> None:
    """Refuses tasks whose winners cannot get a bias for each class."""
    names = [entrant.name for entrant in entrants]
    for entrant in entrants:
        task = entrant.first.task
        if entrant.name + BIASED in names:
            raise ValueError(
                f"compare: post_hoc=True makes an arm {entrant.name + BIASED!r} of its "
                "own. Give yours another name."
            )
        if not is_classification(task) or task.blend is None:
            raise ValueError(
                f"compare: post_hoc=True: the task of arm {entrant.name!r} gives no "
                "predictions of classes, which biases could be added to. Those of "
                "jepbt.classification do."
            )
        if task.data.test is None:
            raise ValueError(
                f"compare: post_hoc=True: the task of arm {entrant.name!r} has no test "
                "split, and biases tuned on validation data cannot be scored there. "
                "Give one: jepbt.datasets.from_arrays(train, test=(images, labels))."
            )


def is_classification(task: Task) -> bool:
    """Tells whether a task's scores are right or wrong answers about classes."""
    return task.data is not None and "num_classes" in task.about
