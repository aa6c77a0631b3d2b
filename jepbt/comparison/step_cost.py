"""Counts what a loss that adapts costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from jepbt.config import Config
from jepbt.engine.member import decide_batch_size, trace_member
from jepbt.losses import cross_entropy
from jepbt.strategies import random_search
from jepbt.tasks import Adaptation, Task


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
