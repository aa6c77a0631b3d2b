"""A population of CNNs in jepbt against PyTorch training the same ones one at a time.

    python examples/cnn_against_pytorch.py

Needs PyTorch (any CPU build). 2 CPU cores, about 1 minute; expect jepbt to train at
least 1.5 times as many samples a second. Both train 16 networks of 105,866 weights on
the same Fashion-MNIST batches of 64 with cross-entropy and momentum, inputs staged
beforehand, in turns, so that other work on the machine slows both. PyTorch uses all
cores for one network, channels-last; jepbt uses a core for each of two networks.
"""

import argparse
import dataclasses
import statistics
import time

import jax
import numpy as np
import optax

import jepbt
from jepbt.train import prepare

BATCH_SIZE = 64


@dataclasses.dataclass
class Hyper(jepbt.HyperParameters):
    rate: float = jepbt.hparam(0.05, min=0.01, max=0.1, log=True)


def make_population(num_members, num_steps):
    task = jepbt.classification(
        "fashion_mnist",
        hparams=Hyper,
        model=jepbt.models.CNN(num_classes=10),
        loss=lambda h: jepbt.losses.cross_entropy,
        optimizer=lambda h: optax.sgd(h.rate, momentum=0.9),
        batch_size=BATCH_SIZE,
    )
    prepared = prepare(
        task,
        strategy="random_search",
        population_size=num_members,
        num_generations=1,
        steps_per_generation=num_steps,
    )
    state = prepared.programs.init(prepared.inputs)

    def run():
        nonlocal state
        generation = np.int32(0)
        state, metrics = prepared.programs.train(prepared.inputs, generation, state)
        jax.block_until_ready(state)
        return float(np.mean(metrics["loss"]))

    return run


def make_pytorch(num_members, num_steps):
    import torch
    from torch import nn

    torch.set_num_threads(jepbt.execution.count_cpu_cores())
    train = jepbt.datasets.load("fashion_mnist").train
    rows = np.random.default_rng(0).permutation(len(train["label"]))
    count = -(-num_steps * BATCH_SIZE // len(rows))
    rows = np.tile(rows, count)[: num_steps * BATCH_SIZE].reshape(num_steps, -1)
    images = torch.tensor(train["image"][rows].astype(np.float32) / 127.5 - 1)
    images = images.permute(0, 1, 4, 2, 3)
    batches = [
        images[i].contiguous(memory_format=torch.channels_last)
        for i in range(num_steps)
    ]
    labels = torch.tensor(train["label"][rows].astype(np.int64))

    def network():
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(7 * 7 * 32, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        ).to(memory_format=torch.channels_last)

    networks = [network() for _ in range(num_members)]
    weights = sum(leaf.numel() for leaf in networks[0].parameters())
    assert weights == 105_866, weights
    optimizers = [
        torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9) for net in networks
    ]
    loss_fn = nn.CrossEntropyLoss()

    def run():
        total = 0.0
        for net, optimizer in zip(networks, optimizers, strict=True):
            for batch, label in zip(batches, labels, strict=True):
                optimizer.zero_grad()
                loss = loss_fn(net(batch), label)
                loss.backward()
                optimizer.step()
            total += float(loss.detach())
        return total / num_members

    return run


def main(num_members=16, num_steps=40, num_rounds=5):
    jepbt.use_all_cpu_cores()
    runs = {
        "jepbt": make_population(num_members, num_steps),
        "pytorch": make_pytorch(num_members, num_steps),
    }
    speeds = {name: [] for name in runs}
    for run in runs.values():
        run()  # warm up
    for _ in range(num_rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            samples = num_members * num_steps * BATCH_SIZE
            speeds[name].append(samples / (time.perf_counter() - start))
    for name, values in speeds.items():
        print(
            f"{name:8} {statistics.median(values) / 1000:6.1f}k samples/s  "
            f"({min(values) / 1000:.1f}k to {max(values) / 1000:.1f}k)"
        )
    ratios = [a / b for a, b in zip(speeds["jepbt"], speeds["pytorch"], strict=True)]
    print(f"ratio    {statistics.median(ratios):.2f}")
    return statistics.median(ratios)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-members", type=int, default=16)
    parser.add_argument("--num-steps", type=int, default=40)
    parser.add_argument("--num-rounds", type=int, default=5)
    main(**vars(parser.parse_args()))
