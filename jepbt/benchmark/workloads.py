"""The four models that `jepbt benchmark` trains, as jepbt and as flax have them."""

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
        name: of the model, on the command line too.
        title: says what the model is.
        kind: "mlp", or "cnn" as in `models.CNN`.
        widths: of an MLP, input and output included; empty for a CNN.
        population_size: `P`.
        batch_size: examples of a step.
        num_steps: of each member, in a timed call.
        num_vmap_steps: the same for plain vmap, which may be very slow.
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
        workload: with images of 8x8 if its first width is 64.

    Returns:
        A classification with cross-entropy and SGD with momentum.
    """
    if workload.kind == "cnn":
        return _classify(workload, models.CNN(num_classes=10))
    hidden = workload.widths[1:-1]
    return _classify(workload, models.MLP(num_classes=10, hidden=hidden))


def make_flax_task(workload: Workload) -> Task:
    """Makes the same task of flax's own layers, for the control that vmaps them."""
    if workload.kind == "cnn":
        return _classify(workload, FlaxCNN())
    return make_task(workload)  # flax's Dense is the same matmul


class FlaxCNN(linen.Module):
    """`models.CNN` as a flax user writes it."""

    @linen.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Computes logits `f32[B, 10]`."""
        for features in (16, 32):
            images = linen.Conv(features, (3, 3))(images)
            images = linen.relu(linen.max_pool(images, (2, 2), strides=(2, 2)))
        x = images.reshape(images.shape[0], -1)
        x = linen.relu(linen.Dense(64)(x))
        return linen.Dense(10)(x)


def to_flax(workload: Workload, params: Any) -> Any:
    """Renames jepbt's weights to flax's; the arrays are the same."""
    if workload.kind == "mlp":
        return params
    names = {"conv1": "Conv_0", "conv2": "Conv_1", "dense1": "Dense_0"}
    names["dense2"] = "Dense_1"
    return {names[name]: layer for name, layer in params.items()}


def from_flax(workload: Workload, params: Any) -> Any:
    """Undoes `to_flax`."""
    if workload.kind == "mlp":
        return params
    names = {"Conv_0": "conv1", "Conv_1": "conv2", "Dense_0": "dense1"}
    names["Dense_1"] = "dense2"
    return {names[name]: layer for name, layer in params.items()}


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
