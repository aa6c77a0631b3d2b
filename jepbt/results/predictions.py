"""Lets a trained member predict from raw inputs."""

from typing import Any

import jax
import numpy as np

from jepbt.engine.forks import check_fork
from jepbt.engine.switches import own_rules
from jepbt.hyperparameters import HyperParameters, encode
from jepbt.population import PyTree
from jepbt.tasks import Task
from jepbt.tasks.task import Inference

_BATCH = 256


def inference_of(task: Task) -> Inference:
    """Returns the functions that use a task's trained members, or says that none do."""
    if task.inference is None:
        raise ValueError(
            "this task does not say how a trained member predicts: its `inference` "
            "is None. Those of jepbt.classification and jepbt.regression have one; "
            "a winner of any other task is read from its `state`."
        )
    return task.inference


def predict(
    task: Task, state: PyTree, hparams: HyperParameters, inputs: Any
) -> np.ndarray:
    """Predicts for raw inputs, in batches of up to 256 rows.

    Args:
        task: the task that the member was trained on.
        state: its state.
        hparams: its hyperparameters, as Python values.
        inputs: examples `[N, ...]`, given as the task's data were.
    """
    use = inference_of(task)
    check_fork("predict")
    rows = use.check(inputs)
    # Few sizes, each a power of two: few programs to compile.
    size = min(_BATCH, 1 << (len(rows) - 1).bit_length())
    member = state, encode(hparams)
    predicted = []
    with own_rules():
        for start in range(0, len(rows), size):
            batch = rows[start : start + size]
            missing = [(0, size - len(batch))] + [(0, 0)] * (rows.ndim - 1)
            predicted.append(use.predict(*member, np.pad(batch, missing)))
        return np.concatenate(jax.device_get(predicted))[: len(rows)]
