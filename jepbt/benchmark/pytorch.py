"""The same population in PyTorch: the controls of the benchmark that need it.

Weights, learning rates and batches are jepbt's, converted and staged beforehand, the
images standardised already. PyTorch is imported by the functions that need it, and
nothing here starts a JAX backend, so that a process of PyTorch has the cores to itself.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

MOMENTUM = 0.9


class PyTorchStart(NamedTuple):
    """What PyTorch's controls start from; NumPy arrays alone, to cross processes.

    Attributes:
        kind: "mlp" or "cnn".
        params: jepbt's weights `[P, ...]`.
        learning_rate: `f32[P]`.
        images: `f32[S, B, ...]`, standardised.
        labels: `i64[S, B]`.
    """

    kind: str
    params: dict[str, dict[str, np.ndarray]]
    learning_rate: np.ndarray
    images: np.ndarray
    labels: np.ndarray

    def share(self, index: int, count: int) -> PyTorchStart:
        """Takes every `count`-th member, from `index` on."""
        params = {
            name: {leaf: array[index::count] for leaf, array in layer.items()}
            for name, layer in self.params.items()
        }
        return self._replace(
            params=params, learning_rate=self.learning_rate[index::count]
        )


class PyTorchControl(NamedTuple):
    """Like `benchmark_controls.Control`, for PyTorch."""

    run: Callable[[], None]
    params: Callable[[], dict[str, dict[str, np.ndarray]]]
    num_steps: int


def is_installed() -> bool:
    """Whether PyTorch can be imported; does not import it."""
    return importlib.util.find_spec("torch") is not None


def one_at_a_time(
    start: PyTorchStart, num_threads: int, *, is_compiled: bool = False
) -> PyTorchControl:
    """Trains one network after the other with `torch.optim.SGD`, fused.

    Args:
        start: the population.
        num_threads: that PyTorch may use.
        is_compiled: whether the forward and backward pass go through `torch.compile`.

    Returns:
        The control, warmed up.
    """
    import torch

    torch.set_num_threads(num_threads)
    networks = [_network(start, i) for i in range(len(start.learning_rate))]
    optimizers = [
        torch.optim.SGD(
            network.parameters(), lr=float(rate), momentum=MOMENTUM, fused=True
        )
        for network, rate in zip(networks, start.learning_rate, strict=True)
    ]
    batches = _stage(start)
    functional = torch.nn.functional

    def loss_of(network, images, labels):
        return functional.cross_entropy(network(images), labels)

    if is_compiled:
        # One program for all networks: their weights are its inputs.
        torch._dynamo.reset()
        loss_of = torch.compile(loss_of)
    loss_of(networks[0], *batches[0]).backward()  # compiles, and starts the threads

    def run():
        for network, optimizer in zip(networks, optimizers, strict=True):
            for images, labels in batches:
                optimizer.zero_grad()
                loss_of(network, images, labels).backward()
                optimizer.step()

    def params():
        weights = [dict(network.named_parameters()) for network in networks]
        return _to_jepbt(start.kind, [_by_layer(w) for w in weights])

    return PyTorchControl(run, params, len(batches))


def vmapped(start: PyTorchStart, num_threads: int) -> PyTorchControl:
    """Trains all networks together: `torch.func.vmap` of `grad`, stacked weights."""
    import torch
    from torch.func import functional_call, grad, stack_module_state, vmap

    torch.set_num_threads(num_threads)
    networks = [_network(start, i) for i in range(len(start.learning_rate))]
    params, _ = stack_module_state(networks)
    params = {name: value.detach() for name, value in params.items()}
    skeleton = networks[0]

    def loss_of(params, images, labels):
        logits = functional_call(skeleton, params, (images,))
        return torch.nn.functional.cross_entropy(logits, labels)

    gradients_of = vmap(grad(loss_of), (0, None, None))
    names = list(params)
    weights = [params[name] for name in names]
    velocities = [torch.zeros_like(weight) for weight in weights]
    rates = torch.from_numpy(-start.learning_rate.copy())
    rates = [rates.view(-1, *[1] * (weight.ndim - 1)) for weight in weights]
    batches = _stage(start)
    gradients_of(params, *batches[0])  # starts the threads

    def run():
        for images, labels in batches:
            gradients = gradients_of(params, images, labels)
            gradients = [gradients[name] for name in names]
            torch._foreach_mul_(velocities, MOMENTUM)
            torch._foreach_add_(velocities, gradients)
            torch._foreach_addcmul_(weights, velocities, rates)

    def collect():
        count = len(start.learning_rate)
        members = [{n: params[n][i] for n in names} for i in range(count)]
        return _to_jepbt(start.kind, [_by_layer(member) for member in members])

    return PyTorchControl(run, collect, len(batches))


def _network(start: PyTorchStart, index: int) -> Any:
    """Builds a network with jepbt's weights of one member."""
    import torch
    from torch import nn

    layers = start.params
    shapes = {name: layer["kernel"].shape[1:] for name, layer in layers.items()}
    if start.kind == "cnn":
        network = nn.Sequential(
            nn.Conv2d(shapes["conv1"][2], 16, 3, padding=1),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(*shapes["dense1"]),
            nn.ReLU(),
            nn.Linear(*shapes["dense2"]),
        ).to(memory_format=torch.channels_last)
    else:
        parts = []
        for name in sorted(shapes):
            parts += [nn.Linear(*shapes[name]), nn.ReLU()]
        network = nn.Sequential(*parts[:-1])
    trained = [part for part in network if hasattr(part, "weight")]
    with torch.no_grad():
        for part, name in zip(trained, sorted(layers), strict=True):
            kernel = _kernel_to_pytorch(name, layers[name]["kernel"][index], start.kind)
            part.weight.copy_(torch.from_numpy(np.ascontiguousarray(kernel)))
            part.bias.copy_(torch.from_numpy(layers[name]["bias"][index].copy()))
    return network


def _stage(start: PyTorchStart) -> list[tuple[Any, Any]]:
    import torch

    batches = []
    for images, labels in zip(start.images, start.labels, strict=True):
        x = torch.from_numpy(images.copy())
        if start.kind == "cnn":
            x = x.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
        else:
            x = x.reshape(len(x), -1)
        batches.append((x, torch.from_numpy(labels.astype(np.int64))))
    return batches


def _kernel_to_pytorch(name: str, kernel: np.ndarray, kind: str) -> np.ndarray:
    """HWIO becomes OIHW; and flattened pixels have their channels first."""
    if name.startswith("conv"):
        return kernel.transpose(3, 2, 0, 1)
    if kind == "cnn" and name == "dense1":
        side = round((kernel.shape[0] // 32) ** 0.5)
        pixels = kernel.reshape(side, side, 32, -1)
        kernel = pixels.transpose(2, 0, 1, 3).reshape(kernel.shape)
    return kernel.T


def _kernel_to_jepbt(name: str, weight: np.ndarray, kind: str) -> np.ndarray:
    if name.startswith("conv"):
        return weight.transpose(2, 3, 1, 0)
    kernel = weight.T
    if kind == "cnn" and name == "dense1":
        side = round((kernel.shape[0] // 32) ** 0.5)
        pixels = kernel.reshape(32, side, side, -1)
        kernel = pixels.transpose(1, 2, 0, 3).reshape(kernel.shape)
    return kernel


def _by_layer(parameters: dict[str, Any]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs weights and biases of `nn.Sequential`'s layers, in their order."""
    arrays = [value.detach().numpy().copy() for value in parameters.values()]
    return list(zip(arrays[::2], arrays[1::2], strict=True))


def _to_jepbt(kind: str, members: list) -> dict[str, dict[str, np.ndarray]]:
    if kind == "cnn":
        names = ["conv1", "conv2", "dense1", "dense2"]
    else:
        names = [f"dense{i + 1}" for i in range(len(members[0]))]
    return {
        name: {
            "kernel": np.stack(
                [_kernel_to_jepbt(name, member[i][0], kind) for member in members]
            ),
            "bias": np.stack([member[i][1] for member in members]),
        }
        for i, name in enumerate(names)
    }
