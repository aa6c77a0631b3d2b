"""Defines the tasks that `jepbt benchmark` trains."""

from __future__ import annotations

import dataclasses
from typing import Any

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
    """The search space of a benchmark: every member has its own learning rate."""

    learning_rate: float = hparam(0.03, min=0.01, max=0.1, log=True)


@dataclasses.dataclass(frozen=True)
class Workload:
    """One population to train, and how much of it is timed."""

    name: str  # the model's name on the command line
    title: str
    hidden: tuple[int, ...] | None  # the widths of an MLP's layers; a CNN if None
    population_size: int
    batch_size: int
    num_steps: int  # the steps that each member takes in a timed call
    num_vmap_steps: int  # the same for plain vmap, which may be very slow
    has_small_images: bool = False  # 8x8 pixels


WORKLOADS = (
    Workload("tiny_mlp", "MLP 64-64-10", (64,), 64, 64, 200, 200, True),
    Workload("mlp", "MLP 784-256-10", (256,), 16, 64, 100, 40),
    Workload("cnn", "CNN of 105,866 weights", None, 16, 64, 30, 2),
    Workload("wide_mlp", "MLP 784-1024-1024-10", (1024, 1024), 8, 256, 25, 6),
    Workload("wide_mlp", "MLP 784-1024-1024-10", (1024, 1024), 8, 64, 50, 12),
)


def workload_named(name: str) -> Workload:
    """Finds a workload by its model's name: of two with one name, the first."""
    return next(workload for workload in WORKLOADS if workload.name == name)


def make_task(
    workload: Workload,
    *,
    has_flax_layers: bool = False,
    compute_dtype: str = "float32",
) -> Task:
    """Makes a classification of Fashion-MNIST.

    Where the network is a CNN, it is `models.CNN`, or one of flax's own layers.
    """
    if workload.hidden is not None:
        model = models.MLP(num_classes=10, hidden=workload.hidden)
    else:
        model = FlaxCNN() if has_flax_layers else models.CNN(num_classes=10)
    dataset = datasets.load("fashion_mnist")
    if workload.has_small_images:
        names = ("train", "validation", "test")
        splits = {name: _shrink(getattr(dataset, name)) for name in names}
        dataset = dataclasses.replace(dataset, **splits)
    return classify(
        dataset, model, batch_size=workload.batch_size, compute_dtype=compute_dtype
    )


def classify(dataset: datasets.Dataset, model: Any, **settings: Any) -> Task:
    """Makes a classification by SGD, in which the learning rate alone evolves."""
    return classification(
        dataset,
        hparams=LearningRate,
        model=model,
        loss=lambda h: losses.cross_entropy,
        optimizer=lambda h: optax.sgd(h.learning_rate, momentum=MOMENTUM),
        **settings,
    )


class FlaxCNN(linen.Module):
    """`models.CNN` in flax's own layers; the weights have the same names."""

    @linen.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Computes logits `f32[B, 10]`."""
        for name, features in (("conv1", 16), ("conv2", 32)):
            images = linen.Conv(features, (3, 3), name=name)(images)
            images = linen.relu(linen.max_pool(images, (2, 2), (2, 2)))
        x = images.reshape(images.shape[0], -1)
        x = linen.relu(linen.Dense(64, name="dense1")(x))
        return linen.Dense(10, name="dense2")(x)


def _shrink(split: datasets.Split) -> datasets.Split:
    """Averages blocks of 3x3 pixels of the middle 24x24: images of 8x8."""
    middle = split["image"][:, 2:26, 2:26].astype(np.float32)
    blocks = middle.reshape(len(middle), 8, 3, 8, 3, 1)
    return split | {"image": blocks.mean((2, 4)).round().astype(np.uint8)}
