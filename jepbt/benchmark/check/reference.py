"""Trains multilayer perceptrons in NumPy: a reference that shares nothing with JAX."""

from __future__ import annotations

import numpy as np

from jepbt.benchmark.timing import Start
from jepbt.benchmark.workloads import MOMENTUM

Layers = dict[str, dict[str, np.ndarray]]


def train_in_numpy(start: Start) -> Layers:
    """Takes all members through the batches, in float64: SGD with momentum.

    Args:
        start: weights `[P, ...]` of dense layers with ReLU between them, learning rates
            `[P]`, and batches whose images are standardised.

    Returns:
        The weights `[P, ...]` after the last batch.
    """
    weights = {
        name: {k: v.astype(np.float64) for k, v in layer.items()}
        for name, layer in start.params.items()
    }
    velocity = {
        name: {k: np.zeros_like(v) for k, v in layer.items()}
        for name, layer in weights.items()
    }
    rates = start.learning_rate.astype(np.float64)
    for images, labels in zip(*start.batches.values(), strict=True):
        pixels = images.reshape(len(images), -1).astype(np.float64)
        slopes = gradients(weights, pixels, labels)
        for name, layer in weights.items():
            for k, value in layer.items():
                velocity[name][k] = MOMENTUM * velocity[name][k] + slopes[name][k]
                rate = rates.reshape(-1, *[1] * (value.ndim - 1))
                layer[k] = value - rate * velocity[name][k]
    return weights


def gradients(weights: Layers, inputs: np.ndarray, labels: np.ndarray) -> Layers:
    """Differentiates the mean cross-entropy by hand, of one member or of many.

    Args:
        weights: kernels `[..., I, O]` and biases `[..., O]` by layer.
        inputs: the examples `[B, I]`, the same for all members.
        labels: `i[B]`.

    Example:
        >>> weights = {"dense1": {"kernel": np.zeros((1, 2)), "bias": np.zeros(2)}}
        >>> gradients(weights, np.array([[3.0]]), np.array([0]))["dense1"]["kernel"]
        array([[-1.5,  1.5]])
    """
    names = sorted(weights)
    seen = [inputs]
    for name in names:
        layer = weights[name]
        out = seen[-1] @ layer["kernel"] + layer["bias"][..., None, :]
        seen.append(out if name == names[-1] else np.maximum(out, 0))
    powers = np.exp(seen[-1] - seen[-1].max(-1, keepdims=True))
    slope = powers / powers.sum(-1, keepdims=True)
    slope[..., np.arange(len(labels)), labels] -= 1
    slope /= len(labels)
    found = {}
    for name, below in zip(reversed(names), reversed(seen[:-1]), strict=True):
        kernel = np.swapaxes(below, -1, -2) @ slope
        found[name] = {"kernel": kernel, "bias": slope.sum(-2)}
        slope = (slope @ np.swapaxes(weights[name]["kernel"], -1, -2)) * (below > 0)
    return found
