"""Trains the same population in PyTorch: the benchmark's controls that need it.

Weights, learning rates and batches are jepbt's, converted and staged beforehand, the
images standardised already. PyTorch is imported by the functions that need it, and
nothing here starts a JAX backend, so that a process of PyTorch has the cores to itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jepbt.benchmark.timing import Control, Start
from jepbt.benchmark.workloads import MOMENTUM


def has_gpu() -> bool:
    """Tells whether PyTorch finds a GPU."""
    import torch

    return torch.cuda.is_available()


def one_at_a_time(
    start: Start, num_threads: int, is_compiled: bool = False, device: str = "cpu"
) -> Control:
    """Trains one network after the other with `torch.optim.SGD`, fused."""
    import torch

    torch.set_num_threads(num_threads)
    networks = [network.to(device) for network in make_networks(start)]
    optimizers = [
        torch.optim.SGD(
            network.parameters(), lr=float(rate), momentum=MOMENTUM, fused=True
        )
        for network, rate in zip(networks, start.learning_rate, strict=True)
    ]
    batches = _stage(start, device)

    def loss_of(network, images, labels):
        return torch.nn.functional.cross_entropy(network(images), labels)

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
        _wait(device)

    return Control(run, len(batches), lambda: stack_weights(networks))


def vmapped(start: Start, num_threads: int, device: str = "cpu") -> Control:
    """Trains all networks together: `torch.func.vmap` of `grad`, stacked weights."""
    import torch
    from torch.func import functional_call, grad, vmap

    torch.set_num_threads(num_threads)
    networks = make_networks(start)
    params = {k: value.to(device) for k, value in stack_weights(networks).items()}

    def loss_of(params, images, labels):
        logits = functional_call(networks[0], params, (images,))
        return torch.nn.functional.cross_entropy(logits, labels)

    gradients_of = vmap(grad(loss_of), (0, None, None))
    weights = list(params.values())
    velocities = [torch.zeros_like(weight) for weight in weights]
    rates = torch.from_numpy(-start.learning_rate.copy()).to(device)
    rates = [rates.view(-1, *[1] * (weight.ndim - 1)) for weight in weights]
    batches = _stage(start, device)
    gradients_of(params, *batches[0])  # starts the threads

    def run():
        for images, labels in batches:
            gradients = gradients_of(params, images, labels)
            torch._foreach_mul_(velocities, MOMENTUM)
            torch._foreach_add_(velocities, [gradients[name] for name in params])
            torch._foreach_addcmul_(weights, velocities, rates)
        _wait(device)

    return Control(run, len(batches), lambda: params)


def _wait(device: str) -> None:
    """Waits for what a GPU was told to do; a CPU has done it already."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def make_networks(start: Start) -> list[Any]:
    """Builds a network with each member's weights."""
    return [_network(start, i) for i in range(len(start.learning_rate))]


def stack_weights(networks: list[Any]) -> dict[str, Any]:
    """Stacks the networks' weights: tensors `[P, ...]` by PyTorch's names."""
    import torch

    params, _ = torch.func.stack_module_state(networks)
    return {name: value.detach().clone() for name, value in params.items()}


def _network(start: Start, index: int) -> Any:
    import torch
    from torch import nn

    parts, layers = [], start.params
    for name in sorted(layers):
        kernel = layers[name]["kernel"][index]
        if name.startswith("conv"):
            layer = nn.Conv2d(*kernel.shape[2:], 3, padding=1)
            parts += [layer, nn.MaxPool2d(2), nn.ReLU()]
            kernel = kernel.transpose(3, 2, 0, 1)  # from HWIO to OIHW
        else:
            layer = nn.Linear(*kernel.shape)
            parts += [nn.Flatten(), layer, nn.ReLU()]
            if "conv1" in layers and name == "dense1":  # PyTorch flattens CHW
                side = round((kernel.shape[0] // 32) ** 0.5)
                pixels = kernel.reshape(side, side, 32, -1)
                kernel = pixels.transpose(2, 0, 1, 3).reshape(kernel.shape)
            kernel = kernel.T
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(kernel)))
            layer.bias.copy_(torch.from_numpy(layers[name]["bias"][index].copy()))
    network = nn.Sequential(*parts[:-1])
    if "conv1" in layers:
        network = network.to(memory_format=torch.channels_last)
    return network


def _stage(start: Start, device: str) -> list[tuple[Any, Any]]:
    import torch

    batches = []
    for images, labels in zip(*start.batches.values(), strict=True):
        x = torch.from_numpy(images.copy())
        if "conv1" in start.params:
            x = x.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
        else:
            x = x.reshape(len(x), -1)
        y = torch.from_numpy(labels.astype(np.int64))
        batches.append((x.to(device), y.to(device)))
    return batches
