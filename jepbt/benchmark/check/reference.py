"""Trains multilayer perceptrons in NumPy: a reference that shares nothing with JAX."""

from __future__ import annotations

import numpy as np

from jepbt.benchmark.timing import Start
from jepbt.benchmark.workloads import MOMENTUM

Layers = dict[str, dict[str, np.ndarray]]


def train_in_numpy(start: Start) -> Layers:
    """Takes each member through its batches, in float64: SGD with momentum.

    Args:
        start: weights `[P, ...]` of dense layers with ReLU between them, learning rates
            `[P]`, and batches whose images are standardised.

    Returns:
        The weights `[P, ...]` after the last batch.
    """
    members = []
    for i, rate in enumerate(np.asarray(start.learning_rate, np.float64)):
        weights = {
            name: {k: v[i].astype(np.float64) for k, v in layer.items()}
            for name, layer in start.params.items()
        }
        velocity = {
            name: {k: np.zeros_like(v) for k, v in layer.items()}
            for name, layer in weights.items()
        }
        for images, labels in zip(*start.batches.values(), strict=True):
            pixels = images.reshape(len(images), -1).astype(np.float64)
            slopes = gradients(weights, pixels, labels)
            for name, layer in weights.items():
                for k in layer:
                    velocity[name][k] = MOMENTUM * velocity[name][k] + slopes[name][k]
                    layer[k] = layer[k] - rate * velocity[name][k]
        members.append(weights)
    return {
        name: {k: np.stack([m[name][k] for m in members]) for k in layer}
        for name, layer in members[0].items()
    }


def gradients(weights: Layers, inputs: np.ndarray, labels: np.ndarray) -> Layers:
    """Differentiates the mean cross-entropy by hand.

    Example:
        >>> weights = {"dense1": {"kernel": np.zeros((1, 2)), "bias": np.zeros(2)}}
        >>> gradients(weights, np.array([[3.0]]), np.array([0]))["dense1"]["kernel"]
        array([[-1.5,  1.5]])
    """
    names = sorted(weights)
    seen = [inputs]
    for name in names:
        out = seen[-1] @ weights[name]["kernel"] + weights[name]["bias"]
        seen.append(out if name == names[-1] else np.maximum(out, 0))
    powers = np.exp(seen[-1] - seen[-1].max(1, keepdims=True))
    slope = powers / powers.sum(1, keepdims=True)
    slope[np.arange(len(labels)), labels] -= 1
    slope /= len(labels)
    found = {}
    for i in reversed(range(len(names))):
        found[names[i]] = {"kernel": seen[i].T @ slope, "bias": slope.sum(0)}
        slope = (slope @ weights[names[i]]["kernel"].T) * (seen[i] > 0)
    return found
