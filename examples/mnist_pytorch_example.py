"""A PyTorch convolutional network, evolved while it trains.

    python examples/mnist_pytorch_example.py
    python examples/mnist_pytorch_example.py --learning_rate 0.01 --n_processes 1
    python examples/mnist_pytorch_example.py --data mnist.npz --num_generations 20

Needs PyTorch (any CPU build). 2 CPU cores, about 1 minute; expect a test accuracy of
0.86 or more on the embedded part of Fashion-MNIST. `--data` takes any file of images
`x_train`, `y_train`, `x_test`, `y_test` (MNIST in the form that Keras distributes).

Children inherit weights *and* the optimizer's state, and go on with hyperparameters of
their own. Fitness is the accuracy on validation images carved out of the training set;
the test images are read once, at the end.
"""

import functools
import zlib
from dataclasses import dataclass

import numpy as np
import torch
from simple_parsing import ArgumentParser
from torch import nn
from tqdm.auto import tqdm

import jepbt
from jepbt import Candidate


@dataclass
class Hyper(jepbt.HyperParameters):
    """The hyperparameters that evolve; flags set where the first candidate starts."""

    learning_rate: float = jepbt.hparam(0.03, min=1e-4, max=0.5, log=True)
    momentum: float = jepbt.hparam(0.9, min=0.0, max=0.99)
    weight_decay: float = jepbt.hparam(1e-4, min=1e-6, max=1e-2, log=True)
    dropout: float = jepbt.hparam(0.2, min=0.0, max=0.6)
    batch_size: int = jepbt.hparam(64, choices=(32, 64, 128))


@dataclass
class Config:
    """The settings that do not evolve."""

    data: str = "fashion_mnist"  # the embedded set, or a .npz file
    population_size: int = 8
    num_generations: int = 10
    samples_per_generation: int = 6_000
    n_processes: int = 2
    seed: int = 0
    run_dir: str | None = None  # saves the run there, after every generation
    resume: bool = False  # goes on with the run in run_dir


@functools.cache
def load_data(name):
    """Each process reads the data once; pixels in [-1, 1], channels first."""
    if name.endswith(".npz"):
        with np.load(name, allow_pickle=False) as file:
            train = file["x_train"], file["y_train"]
            test = file["x_test"], file["y_test"]
        dataset = jepbt.datasets.from_arrays(train, validation=0.1, test=test)
    else:
        dataset = jepbt.datasets.load(name)

    def tensors(split):
        images = torch.from_numpy(np.moveaxis(split["image"], -1, 1).copy())
        labels = torch.from_numpy(split["label"].astype(np.int64))
        return images.float() / 127.5 - 1, labels

    splits = ("train", "validation", "test")
    return {split: tensors(getattr(dataset, split)) for split in splits}


def make_network(images, dropout):
    _, channels, height, width = images.shape
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(32 * (height // 4) * (width // 4), 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


@torch.no_grad()
def accuracy(network, images, labels):
    network.eval()
    parts = zip(images.split(1_000), labels.split(1_000), strict=True)
    correct = sum((network(x).argmax(1) == y).sum() for x, y in parts)
    return float(correct) / len(labels)


def train(candidate, config):
    """Goes on training for a generation; returns a new candidate."""
    if config.n_processes > 1:
        torch.set_num_threads(1)  # a core for each process
    hparams, data = candidate.hparams, load_data(config.data)
    images, labels = data["train"]
    # A candidate has no number: what sets it apart from the others seeds its draws.
    torch.manual_seed(zlib.crc32(repr((config.seed, hparams)).encode()))
    network = make_network(images, hparams.dropout)
    optimizer = torch.optim.SGD(network.parameters(), lr=hparams.learning_rate)
    if candidate.model is not None:
        network.load_state_dict(candidate.model["weights"])
        optimizer.load_state_dict(candidate.model["optimizer"])
    for group in optimizer.param_groups:  # the optimizer's state holds the parent's
        group["lr"] = hparams.learning_rate
        group["momentum"] = hparams.momentum
        group["weight_decay"] = hparams.weight_decay
    network.train()
    rows = torch.randperm(len(labels))[: config.samples_per_generation]
    for batch in rows.split(hparams.batch_size):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(images[batch]), labels[batch])
        loss.backward()
        optimizer.step()
    model = {"weights": network.state_dict(), "optimizer": optimizer.state_dict()}
    return Candidate(model, hparams, fitness=accuracy(network, *data["validation"]))


def main(argv=None):
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_arguments(Hyper, dest="hparams")
    parser.add_arguments(Config, dest="config")
    arguments = parser.parse_args(argv)
    config = arguments.config
    # The first starts where the flags say; the others are drawn from the spaces.
    population = [
        Candidate(None, arguments.hparams) for _ in range(config.population_size)
    ]
    generations = jepbt.epbt(
        config.num_generations,
        population,
        functools.partial(train, config=config),
        n_processes=config.n_processes if config.n_processes > 1 else None,
        seed=config.seed,
        run_dir=config.run_dir,
        resume=config.resume,
    )
    bests = []
    with tqdm(total=config.num_generations) as bar:
        for best in generations:
            bests.append(best)
            bar.update()
            bar.set_postfix(validation=f"{best.fitness:.4f}")
    data = load_data(config.data)
    network = make_network(data["test"][0], dropout=0.0)
    network.load_state_dict(best.model["weights"])
    score = accuracy(network, *data["test"])
    print(f"{best.hparams}")
    print(f"validation accuracy {best.fitness:.4f}   test accuracy {score:.4f}")
    return bests, score


if __name__ == "__main__":
    main()
