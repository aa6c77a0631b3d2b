"""A population of ResNet-20 on CIFAR-10, with shift, flip and cutout that evolve.

    python examples/resnet_population.py --data cifar10.npz
    python examples/resnet_population.py --data cifar10.npz --compare

The file holds `x_train`, `y_train`, `x_test`, `y_test`: uint8 images [N, 32, 32, 3] and
labels. The first command trains 4 members for 3 generations of 100 steps, about 5
minutes on 2 CPU cores that others use too; expect a validation accuracy of about 0.54.

The second needs PyTorch (any CPU build) and takes about 1 minute: it times a population
of 4, one of 1, and PyTorch training the same network alone with all cores,
channels-last, in turns. Expect seconds per member-step and two ratios: the population
1.4 times as fast as one member, and 0.85 times as fast as PyTorch (0.081, 0.115 and
0.069 s on 2 idle cores). On busy cores they mean nothing: PyTorch's two threads wait
for each other at every layer.
"""

import argparse
import dataclasses
import statistics
import time

import jax
import numpy as np
import optax

import jepbt
from jepbt import augment
from jepbt.training import prepare


@dataclasses.dataclass
class Hyper(jepbt.HyperParameters):
    learning_rate: float = jepbt.hparam(0.1, min=0.01, max=0.5, log=True)
    weight_decay: float = jepbt.hparam(1e-4, min=1e-6, max=1e-2, log=True)
    shift: float = jepbt.hparam(2.0, min=0.0, max=4.0)
    cutout: float = jepbt.hparam(4.0, min=0.0, max=16.0)


def make_task(data, batch_size, depth, is_augmented=True):
    with np.load(data) as arrays:
        train, test = (
            (arrays[f"x_{split}"], arrays[f"y_{split}"].ravel().astype(np.int32))
            for split in ("train", "test")
        )

    def distort(h):
        return augment.chain(
            augment.shift(h.shift), augment.flip(0.5), augment.cutout(h.cutout)
        )

    return jepbt.classification(
        jepbt.datasets.from_arrays(train, 0.1, test, num_classes=10, name="CIFAR-10"),
        hparams=Hyper,
        model=jepbt.models.ResNet(depth=depth),
        loss=lambda h: jepbt.losses.cross_entropy,
        optimizer=lambda h: optax.chain(
            optax.add_decayed_weights(h.weight_decay),
            optax.sgd(h.learning_rate, momentum=0.9, nesterov=True),
        ),
        augment=distort if is_augmented else None,
        batch_size=batch_size,
    )


def train(task, num_members, num_generations, num_steps):
    result = jepbt.train_population(
        task,
        population_size=num_members,
        num_generations=num_generations,
        steps_per_generation=num_steps,
    )
    best = result.best
    print(f"best validation accuracy {best.fitness.mean:.3f}: {best.hparams}")
    return best.fitness.mean


def time_population(task, num_members, num_steps):
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
        state, _ = prepared.programs.train(prepared.inputs, generation, state)
        jax.block_until_ready(state)

    return run


def make_pytorch_network(depth):
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, channels, features, stride):
            super().__init__()
            self.stride, self.added = stride, features - channels
            self.conv1 = nn.Conv2d(channels, features, 3, stride, 1, bias=False)
            self.norm1 = nn.BatchNorm2d(features)
            self.conv2 = nn.Conv2d(features, features, 3, 1, 1, bias=False)
            self.norm2 = nn.BatchNorm2d(features)

        def forward(self, x):
            y = torch.relu(self.norm1(self.conv1(x)))
            y = self.norm2(self.conv2(y))
            if self.added:
                half = self.added // 2
                x = x[:, :, :: self.stride, :: self.stride]
                x = nn.functional.pad(x, (0, 0, 0, 0, half, self.added - half))
            return torch.relu(y + x)

    layers = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    channels = 16
    for stage in range(3):
        for block in range((depth - 2) // 6):
            features, stride = 16 * 2**stage, 2 if stage > 0 and block == 0 else 1
            layers.append(Block(channels, features, stride))
            channels = features
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def time_pytorch(task, depth, num_steps):
    import torch

    torch.set_num_threads(jepbt.engine.cores.count_cpu_cores())
    count = num_steps * task.batch_size
    rows = np.arange(count) % len(task.data.train["label"])
    images = task.data.train["image"][rows].astype(np.float32) / 127.5 - 1
    images = images.reshape(num_steps, -1, *images.shape[1:]).transpose(0, 1, 4, 2, 3)
    batches = [
        torch.tensor(batch).contiguous(memory_format=torch.channels_last)
        for batch in images
    ]
    labels = torch.tensor(task.data.train["label"][rows].astype(np.int64))
    labels = labels.reshape(num_steps, -1)
    network = make_pytorch_network(depth)
    expected = {20: 269_722, 32: 464_154}
    weights = sum(leaf.numel() for leaf in network.parameters())
    assert weights == expected.get(depth, weights), weights
    optimizer = torch.optim.SGD(
        network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4
    )

    def run():
        for batch, label in zip(batches, labels, strict=True):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(batch), label).backward()
            optimizer.step()

    return run


def compare(task, depth, num_members, num_steps, num_rounds):
    members = {"population": num_members, "one member": 1, "PyTorch": 1}
    runs = {
        "population": time_population(task, num_members, num_steps),
        "one member": time_population(task, 1, num_steps),
        "PyTorch": time_pytorch(task, depth, num_steps),
    }
    seconds = {name: [] for name in runs}
    for run in runs.values():
        run()  # warm up
    for _ in range(num_rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            spent = time.perf_counter() - start
            seconds[name].append(spent / num_steps / members[name])
    for name, values in seconds.items():
        spread = f"({min(values):.3f} to {max(values):.3f})"
        print(f"{name:10} {statistics.median(values):.3f} s per member-step {spread}")
    ratios = {}
    for name in ("one member", "PyTorch"):
        pairs = zip(seconds[name], seconds["population"], strict=True)
        ratios[name] = statistics.median(a / b for a, b in pairs)
        ratio = f"{ratios[name]:.2f} times as fast as {name}"
        print(f"a population of {num_members} is {ratio}")
    return ratios


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="an .npz file of CIFAR-10")
    parser.add_argument("--compare", action="store_true", help="time, do not train")
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--num-members", type=int, default=4)
    parser.add_argument("--num-generations", type=int, default=3)
    parser.add_argument("--num-steps", type=int, help="default: 100, 4 to compare")
    parser.add_argument("--num-rounds", type=int, default=5, help="with --compare")
    parser.add_argument("--batch-size", type=int, default=64)
    args = parser.parse_args()
    jepbt.use_all_cpu_cores()
    task = make_task(args.data, args.batch_size, args.depth, not args.compare)
    if args.compare:
        steps = args.num_steps or 4
        compare(task, args.depth, args.num_members, steps, args.num_rounds)
    else:
        steps = args.num_steps or 100
        train(task, args.num_members, args.num_generations, steps)


if __name__ == "__main__":
    main()
