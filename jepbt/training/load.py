"""Loads the result of a run from its folder."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jepbt import config as configs
from jepbt.arguments import user_path
from jepbt.checkpoints import checkpoint, differences
from jepbt.checkpoints import folder as run_directory
from jepbt.checkpoints.identity import describe_task, hash_tree, versions
from jepbt.config import Config
from jepbt.engine import Best
from jepbt.engine.member import hash_parts, trace_evaluate
from jepbt.engine.switches import own_rules
from jepbt.hyperparameters import decode, default_member
from jepbt.optional import warn
from jepbt.population import Member, Population, key_shape, stack_shapes, take
from jepbt.results import History
from jepbt.results.json_lines import UNREADABLE, odd_choices
from jepbt.tasks import Task
from jepbt.training.result import Result
from jepbt.training.run import Run
from jepbt.training.winner import as_winner


def load(run_dir: str | os.PathLike, task: Task) -> Result:
    """Loads what a run has found: its winner, its history, its last population.

    The folder holds weights and numbers; functions and data come from the task, which
    must be the one that the run was started with: the same hyperparameters and data,
    weights of the same shapes and, under the same version of JAX, the same model. Only
    the test split may be left out, or be given for the first time.
    Nothing in the folder is executed or unpickled, and nothing compiles. A run that is
    still going, or was killed, is loaded as of its newest whole checkpoint.

    Args:
        run_dir: the folder of a run of `train_population` or `replay`.
        task: the task of that run, made again.

    Returns:
        The run's `Result`, with its arrays on the host: `best`, `predict`, `history`,
        `ensemble` and all else. It can be another run's `initial`.

    Raises:
        TypeError: if an argument is of no allowed kind.
        ValueError: if the folder holds no run with a whole checkpoint, or one of
            another task; the message says what differs.

    Warns:
        RuntimeWarning: if a newer checkpoint is damaged.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> import jepbt
        >>> inputs = np.random.default_rng(0).normal(size=(40, 5))
        >>> task = jepbt.regression((inputs, inputs[:, 0]))
        >>> with tempfile.TemporaryDirectory() as run_dir:
        ...     result = jepbt.train_population(
        ...         task, population_size=2, num_generations=1, steps_per_generation=2,
        ...         run_dir=run_dir, progress=False,
        ...     )
        ...     again = jepbt.load(run_dir, task)
        >>> bool((again.predict(inputs) == result.predict(inputs)).all())
        True
    """
    if not isinstance(task, Task):
        raise TypeError(f"load: task must be a jepbt.Task, got {type(task).__name__}.")
    if not isinstance(run_dir, str | os.PathLike):
        raise TypeError(
            f"load: run_dir must be a run's folder, got {type(run_dir).__name__}."
        )
    folder = user_path("run_dir", run_dir)
    settings = run_directory.read_config(folder)
    if "loop" in settings:
        raise ValueError(
            f"run_dir={str(folder)!r} holds a run of jepbt.epbt, which has no task: "
            "resume=True of that function returns its candidates."
        )
    path, facts = _find_checkpoint(folder)
    config = _read_settings(folder, settings, facts)
    with own_rules():
        like = _check_task(folder, task, config, facts)
    choices = odd_choices(task.hparams)
    done = int(facts["generation"]) + 1
    generations = run_directory.read_history(folder, done, choices)
    population, best, first = _read_members(path, like, config)
    run = Run(task, config, folder, History(generations), as_winner(best, task))
    return run.result(
        population,
        lambda slots: take(population, slots),
        first,
        seconds={},  # of compiling nothing is written down
    )


def _find_checkpoint(folder: pathlib.Path) -> tuple[pathlib.Path, Mapping[str, Any]]:
    """Finds the newest whole checkpoint of a run, and the facts in its manifest."""
    root = folder / checkpoint.FOLDER
    facts, damaged = checkpoint.find_newest(root)
    reasons = "; ".join(f"{path.name}: {why}" for path, why in damaged.items())
    if facts is None:
        why = f" ({reasons})" if reasons else ""
        raise ValueError(
            f"run_dir={str(folder)!r} holds no whole checkpoint{why}: nothing can be "
            "loaded. Put a copy of the folder back, or wait for the first checkpoint "
            "of a run that is going."
        )
    if damaged:
        warn(
            f"of the checkpoints in {str(folder)!r} are damaged: {reasons}. The one of "
            f"generation {facts['generation']} is loaded."
        )
    return root / f"{int(facts['generation']):06d}", facts


def _read_settings(
    folder: pathlib.Path, settings: Mapping[str, Any], facts: Mapping[str, Any]
) -> Config:
    """Reads a run's settings: what decides its numbers is in the manifest, too."""
    names = {field.name for field in dataclasses.fields(Config)}
    try:
        known = {k: v for k, v in settings["config"].items() if k in names}
        known |= facts["identity"]["settings"] | {"run_dir": folder}
        config = Config(**known)
        configs.check(config)
    except UNREADABLE as error:
        raise ValueError(
            f"{str(folder / 'config.json')!r} does not hold the settings of a run "
            f"({error}). Put a copy of the file back."
        ) from error
    return config


def _check_task(
    folder: pathlib.Path, task: Task, config: Config, facts: Mapping[str, Any]
) -> Member:
    """Refuses a task that is not the run's, and returns the shapes of a member."""
    before = facts["identity"]
    data = {name: hash for name, hash in before["data"].items() if name != "initial"}
    described, now = {"hparams": before["hparams"], "data": data}, describe_task(task)
    if hash_tree(None) in (data.get("test"), now["data"].get("test")):
        for each in (data, now["data"]):  # one of them has no test split
            each.pop("test", None)
    found = differences(described, now)
    if not found:
        member = _trace_shapes(task)
        if _scores_otherwise(task, config, member, before):
            found = ["the model differs, or how members are scored"]
    if found:
        raise ValueError(
            f"load: run_dir={str(folder)!r} holds a run of another task: "
            f"{'; '.join(found)}. Make the task as it was when the run began."
        )
    return member


def _trace_shapes(task: Task) -> Member:
    """Finds the shapes of one member of a task."""
    key, hparams = key_shape(), jax.eval_shape(lambda: default_member(task.hparams))
    state = jax.eval_shape(lambda key, h: task.init(key, decode(h)), key, hparams)
    return Member(state, hparams, jax.ShapeDtypeStruct((), jnp.float32))


def _scores_otherwise(
    task: Task, config: Config, member: Member, before: Mapping[str, Any]
) -> bool:
    """Tells whether a task scores members by another program than a run did.

    Another version of JAX writes the same program otherwise: then nobody can tell.
    """
    if any(before["versions"].get(k) != version for k, version in versions().items()):
        return False
    traced = trace_evaluate(task, config, member.state, member.hparams)
    now = hash_parts({"evaluate": [traced]})
    return before["programs"]["evaluate"] != now["evaluate"]


def _read_members(
    path: pathlib.Path, like: Member, config: Config
) -> tuple[Population, Best, Best]:
    """Reads the last population, the best member, and the best of the first."""
    scalar = jax.ShapeDtypeStruct((), jnp.int32)
    best = Best(like, like.fitness, scalar, scalar)

    try:
        arrays = checkpoint.read_arrays(path)
        return (
            checkpoint.pick(
                arrays, "_0_population", stack_shapes(like, config.population_size)
            ),
            checkpoint.pick(arrays, "_0_best", best),
            checkpoint.pick(arrays, "_1", best),
        )
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise ValueError(
            f"load: the checkpoint {str(path)!r} does not fit the task: {error}. Make "
            "the task as it was when the run began."
        ) from error
