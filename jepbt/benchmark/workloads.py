"""Defines the tasks that `jepbt benchmark` trains."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import numpy as np
import optax
from flax import linen

from jepbt import datasets, losses, models
from jepbt.hyperparameters import HyperParameters, hparam
from jepbt.tasks import Task, classification

MOMENTUM = 0.9


@dataclasses.dataclass
class LearningRate(HyperParameters):
    """What evolves in a benchmark: every member trains with its own learning rate."""

    learning_rate: float = hparam(0.03, min=0.01, max=0.1, log=True)


@dataclasses.dataclass(frozen=True)
class Workload:
    """One population to train, and how much of it is timed.

    Attributes:
        name: the model's name, on the command line too.
        title: a description of the model.
        kind: "mlp", or "cnn" for `models.CNN`.
        widths: the widths of an MLP's layers, input and output included; empty for a
            CNN.
        population_size: the number of members, `P`.
        batch_size: the number of examples in a training step.
        num_steps: the number of steps that each member takes in a timed call.
        num_vmap_steps: the same number for plain vmap, which may be very slow.
    """

    name: str
    title: str
    kind: Literal["mlp", "cnn"]
    widths: tuple[int, ...]
    population_size: int
    batch_size: int
    num_steps: int
    num_vmap_steps: int


WORKLOADS = (
    Workload("tiny_mlp", "MLP 64-64-10", "mlp", (64, 64, 10), 64, 64, 200, 200),
    Workload("mlp", "MLP 784-256-10", "mlp", (784, 256, 10), 16, 64, 100, 40),
    Workload("cnn", "CNN of 105,866 weights", "cnn", (), 16, 64, 30, 2),
    Workload(
        "wide_mlp",
        "MLP 784-1024-1024-10",
        "mlp",
        (784, 1024, 1024, 10),
        8,
        256,
        25,
        6,
    ),
    Workload(
        "wide_mlp",
        "MLP 784-1024-1024-10",
        "mlp",
        (784, 1024, 1024, 10),
        8,
        64,
        50,
        12,
    ),
)


def make_task(workload: Workload) -> Task:
    """Makes the task that jepbt trains, on Fashion-MNIST.

    Args:
        workload: the model and its sizes. If the first width is 64, images are shrunk
            to 8x8.

    Returns:
        A classification with cross-entropy and SGD with momentum.
    """
    if workload.kind == "cnn":
        return _classify(workload, models.CNN(num_classes=10))
    hidden = workload.widths[1:-1]
    return _classify(workload, models.MLP(num_classes=10, hidden=hidden))


def make_flax_task(workload: Workload) -> Task:
    """Makes the same task with flax's own layers, to compare plain vmap with."""
    if workload.kind == "cnn":
        return _classify(workload, FlaxCNN())
    return make_task(workload)  # an MLP has flax's own layers already


class FlaxCNN(linen.Module):
    """`models.CNN` without `jepbt.nn`; the weights have the same names."""

    @linen.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Computes logits `f32[B, 10]`."""
        for name, features in (("conv1", 16), ("conv2", 32)):
            images = linen.Conv(features, (3, 3), name=name)(images)
            images = linen.relu(linen.max_pool(images, (2, 2), strides=(2, 2)))
        x = images.reshape(images.shape[0], -1)
        x = linen.relu(linen.Dense(64, name="dense1")(x))
        return linen.Dense(10, name="dense2")(x)


def _classify(workload: Workload, model: Any) -> Task:
    dataset = datasets.load("fashion_mnist")
    if workload.widths[:1] == (64,):
        splits = {
            name: _shrink(getattr(dataset, name))
            for name in ("train", "validation", "test")
        }
        dataset = dataclasses.replace(dataset, **splits)
    return classification(
        dataset,
        hparams=LearningRate,
        model=model,
        loss=lambda h: losses.cross_entropy,
        optimizer=lambda h: optax.sgd(h.learning_rate, momentum=MOMENTUM),
        batch_size=workload.batch_size,
    )


def _shrink(split: datasets.Split) -> datasets.Split:
    """Averages blocks of 3x3 pixels of the middle 24x24: images of 8x8."""
    middle = split["image"][:, 2:26, 2:26].astype(np.float32)
    blocks = middle.reshape(len(middle), 8, 3, 8, 3, 1)
    return split | {"image": blocks.mean((2, 4)).round().astype(np.uint8)}
