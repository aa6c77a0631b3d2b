"""Decides what of a run goes into a pickle: what it found, not what it ran.

A task is made of functions and data, most of which no other process could load. A
result that was pickled knows what figures and schedules read of its task; for the rest
the user puts the task back.
"""

import dataclasses
import pickle
from collections.abc import Callable
from typing import Any, NoReturn

import jax
import numpy as np

from jepbt.hyperparameters import HyperParameters
from jepbt.optional import reason_of, warn
from jepbt.population import PyTree
from jepbt.results.history import History
from jepbt.results.json_lines import name_choices, number_choices, odd_choices


class AbsentTask:
    """Stands where a result's task was, with what figures and schedules read of it."""

    def __init__(self, task: Any):
        self.hparams = task.hparams
        self.about = dict(task.about)

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):  # Python asks, which copies for example
            raise AttributeError(name)
        raise RuntimeError(
            f"the task's `{name}` is not here: a pickled result leaves out its task, "
            "which is functions and data. Make the task again and put it back: "
            "result.task = task, or dataclasses.replace(it, task=task) for an ensemble "
            "or a winner alone."
        )


def to_host(state: PyTree) -> PyTree:
    """Fetches a state's arrays, into a tree that can be pickled.

    Warns:
        RuntimeWarning: if the tree's own classes cannot be (a flax `TrainState` holds
            functions): it becomes a dictionary of arrays by path.
    """
    state = jax.device_get(state)
    try:
        pickle.dumps(jax.tree.map(lambda leaf: 0, state))
    except Exception as error:  # whatever the user's classes raise
        warn(
            "the states in a pickled result are dictionaries of arrays by path: their "
            f"own class cannot be pickled ({reason_of(error)})."
        )
        return {
            jax.tree_util.keystr(path, simple=True, separator="/"): leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        }
    return state


def without_choices(history: History, hparams_type: type[HyperParameters]) -> History:
    """Replaces choices that may be functions, which do not pickle, by numbers."""
    return _map_choices(history, hparams_type, number_choices)


def with_choices(history: History, hparams_type: type[HyperParameters]) -> History:
    """Puts the choices back: the inverse of `without_choices`."""
    return _map_choices(history, hparams_type, name_choices)


def _map_choices(history: History, hparams_type: Any, function: Callable) -> History:
    choices = odd_choices(hparams_type)

    def change(name, column):
        known = choices.get(f"hparams/{name}")
        return column if known is None else np.asarray(function(column, known))

    return History(
        dataclasses.replace(
            generation,
            hparams={name: change(name, x) for name, x in generation.hparams.items()},
        )
        for generation in history.generations
    )
