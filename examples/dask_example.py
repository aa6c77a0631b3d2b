"""Evaluations on a Dask cluster, bred as soon as they come back.

    python examples/dask_example.py

Needs `distributed` (Dask). 2 CPU cores, about 20 seconds; expect a validation accuracy
of 0.82 or more on the embedded part of Fashion-MNIST, from about 0.75 after the first
eight results. Which result comes first differs between runs, and so do the figures.

The cluster is two workers on this machine; `Client("scheduler:8786")` is one on many,
where jepbt must be installed too. Any other `concurrent.futures.Executor` goes in the
same place. A small batch takes longer than a large one here, so evaluations are of
uneven length, and `asynchronous=True` lets no worker wait for the slowest.
"""

import argparse
import functools
from dataclasses import dataclass

import numpy as np
from distributed import Client, LocalCluster

import jepbt
from jepbt import Candidate


@dataclass
class Hyper(jepbt.HyperParameters):
    learning_rate: float = jepbt.hparam(0.1, min=1e-3, max=1.0, log=True)
    momentum: float = jepbt.hparam(0.0, min=0.0, max=0.95)
    batch_size: int = jepbt.hparam(50, choices=(10, 50, 250))


@functools.cache
def load_data():
    """Each worker reads the data once; a column of ones is the bias."""
    dataset = jepbt.datasets.load("fashion_mnist")

    def arrays(split):
        pixels = split["image"].reshape(len(split["label"]), -1) / np.float32(255)
        return np.insert(pixels, 0, 1.0, axis=1), split["label"]

    return arrays(dataset.train), arrays(dataset.validation)


def train(candidate, num_images):
    """Softmax regression in NumPy: weights and velocity go on from the parent's."""
    (images, labels), (validation_images, validation_labels) = load_data()
    hparams = candidate.hparams
    weights, velocity = candidate.model or np.zeros((2, images.shape[1], 10))
    rows = np.random.default_rng().permutation(len(labels))[:num_images]
    for start in range(0, len(rows), hparams.batch_size):
        batch = rows[start : start + hparams.batch_size]
        logits = images[batch] @ weights
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        errors = odds / odds.sum(axis=1, keepdims=True) - np.eye(10)[labels[batch]]
        gradient = images[batch].T @ errors / len(batch)
        velocity = hparams.momentum * velocity - hparams.learning_rate * gradient
        weights = weights + velocity
    predictions = (validation_images @ weights).argmax(axis=1)
    accuracy = float(np.mean(predictions == validation_labels))
    return Candidate((weights, velocity), hparams, fitness=accuracy)


def main(num_generations=10, population_size=8, num_images=3_000):
    population = [Candidate(None, Hyper()) for _ in range(population_size)]
    bests = []
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        for best in jepbt.epbt(
            num_generations,
            population,
            functools.partial(train, num_images=num_images),
            executor=client.get_executor(),
            asynchronous=True,
        ):
            bests.append(best)
            print(
                f"{len(bests) * population_size:3} results  validation "
                f"{best.fitness:.4f}  {best.hparams}",
                flush=True,
            )
    return bests


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-generations", type=int, default=10)
    parser.add_argument("--population-size", type=int, default=8)
    parser.add_argument("--num-images", type=int, default=3_000)
    main(**vars(parser.parse_args()))
