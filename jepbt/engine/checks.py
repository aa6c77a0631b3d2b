"""Checks that the parts of a task fit together, by their shapes alone."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jepbt.config import Config
from jepbt.population import PyTree, take
from jepbt.strategies import Strategy
from jepbt.tasks import Splits, Task


def check_behaviour(task: Task, strategy: Strategy) -> None:
    """Raises a `ValueError` if a strategy asks for behaviour that a task has not."""
    wanted = strategy.behaviour
    if wanted is None:
        return
    if task.data is None:
        raise ValueError(
            "the strategy compares what members do with validation examples, and this "
            "task has no data. strategies.pulsation(metric='loss') compares losses."
        )
    if wanted.metric == "probabilities" and task.behaviour is None:
        raise ValueError(
            "the strategy compares Task.behaviour, and this task has none. Give one, "
            "or use strategies.pulsation(metric='correctness')."
        )


def batch_shapes(data: Splits | None, config: Config) -> tuple[PyTree, PyTree]:
    """Checks row counts; gives the shapes of a training and a validation batch."""
    if data is None:
        return None, None
    if not isinstance(data, Splits):
        raise TypeError(
            f"task.data must be a jepbt.Splits of pytrees of arrays, got "
            f"{type(data).__name__}."
        )
    examples = config.batch_size * config.steps_per_generation * config.num_generations
    if examples >= 2**31:
        raise ValueError(
            f"batch_size={config.batch_size} x steps_per_generation="
            f"{config.steps_per_generation} x num_generations="
            f"{config.num_generations} = {examples} examples must stay below 2**31, "
            "the range of the row counter. Choose fewer generations or steps."
        )
    return (
        _batch_shape("train", data.train, config.batch_size),
        _batch_shape("validation", data.validation, config.batch_size),
    )


def _batch_shape(split: str, rows: PyTree, batch_size: int) -> PyTree:
    counts = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(rows)}
    if len(counts) != 1 or counts & {(), (0,)}:
        raise ValueError(
            f"task.data.{split} must hold arrays with one and the same number of "
            f"examples, at least 1; got leading axes {sorted(counts)}."
        )
    # In JAX's own types: 64 bits become 32, unless they are switched on.
    return jax.eval_shape(take, rows, jax.ShapeDtypeStruct((batch_size,), jnp.int32))


def check_step(before: PyTree, result: Any) -> None:
    """Raises a `ValueError` if a training step's result does not fit its state."""
    if not isinstance(result, tuple) or len(result) != 2:
        raise ValueError(
            f"train_step must return (state, metrics), got {type(result).__name__}."
        )
    after, metrics = result
    _check_same_state(before, after)
    if not isinstance(metrics, dict) or "loss" not in metrics:
        raise ValueError(
            "train_step must return (state, metrics) with metrics a dict that has "
            f"'loss', got {sorted(metrics) if isinstance(metrics, dict) else metrics}."
        )
    for name, value in metrics.items():
        if not hasattr(value, "shape"):
            raise ValueError(
                f"train_step: metric {name!r} must be a scalar, got a "
                f"{type(value).__name__}. Give each of its numbers a name of its own, "
                f"such as '{name}/norm'."
            )
        if value.shape != ():
            raise ValueError(
                f"train_step: metric {name!r} must be a scalar, got shape "
                f"{value.shape}. Take its mean."
            )


def first_difference(left: PyTree, right: PyTree) -> tuple[str, str, str] | None:
    """Finds the first leaf whose type or shape differs: its path, and both of them."""
    paths = jax.tree_util.tree_leaves_with_path
    trees = [
        {jax.tree_util.keystr(path): leaf for path, leaf in paths(tree)}
        for tree in (left, right)
    ]
    for path in sorted(trees[0].keys() | trees[1].keys()):
        has, needs = (
            f"{tree[path].dtype}{list(tree[path].shape)}" if path in tree else "absent"
            for tree in trees
        )
        if has != needs:
            return path, has, needs
    return None


def _check_same_state(before: PyTree, after: PyTree) -> None:
    difference = first_difference(before, after)
    if difference is not None:
        path, was, now = difference
        raise ValueError(
            "train_step must return a state like init's, so that it can go on: "
            f"leaf {path or 'state'} is {was} from init and {now} after a step."
        )
    if jax.tree.structure(before) != jax.tree.structure(after):
        raise ValueError(
            "train_step must return a state of the same tree structure as init's: "
            f"{jax.tree.structure(before)} became {jax.tree.structure(after)}."
        )


def check_elements(state: PyTree, num_devices: int) -> None:
    """Refuses arrays without elements where JAX's compiler would end the process.

    That of JAX 0.11 does, if there are several devices.
    """
    if num_devices == 1 or jax.__version_info__[:2] != (0, 11):
        return
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if 0 in leaf.shape:
            raise ValueError(
                f"init: the state's leaf {jax.tree_util.keystr(path)} has no elements, "
                f"{leaf.shape}, which the compiler of JAX {jax.__version__} does not "
                "survive over several devices. Leave it out, take "
                "devices=jax.devices()[:1], or another version of JAX."
            )
