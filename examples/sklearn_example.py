"""A scikit-learn classifier, evolved while it trains.

    python examples/sklearn_example.py

Needs scikit-learn. 2 CPU cores, about 20 seconds; expect a test accuracy of 0.81 or
more on the embedded part of Fashion-MNIST, from about 0.73 (validation) after the first
generation.

A linear model goes on with `partial_fit`, each generation on another 1,500 images, with
the loss, the step size and the regularisation that it has evolved. The estimator itself
is what children inherit.
"""

import argparse
import functools
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import SGDClassifier

import jepbt
from jepbt import Candidate


@dataclass
class Hyper(jepbt.HyperParameters):
    loss: str = jepbt.hparam(
        "log_loss", choices=("log_loss", "hinge", "modified_huber")
    )
    eta0: float = jepbt.hparam(0.01, min=1e-4, max=1.0, log=True)
    alpha: float = jepbt.hparam(1e-4, min=1e-6, max=1e-1, log=True)
    penalty: str = jepbt.hparam("l2", choices=("l2", "l1", "elasticnet"))


@dataclass
class Trained:
    """The state that children inherit: the estimator, and its place in the data."""

    classifier: SGDClassifier
    num_seen: int = 0


@functools.cache
def load_data():
    """Each process reads the data once."""
    dataset = jepbt.datasets.load("fashion_mnist")
    return {
        name: (split["image"].reshape(len(split["label"]), -1) / 255, split["label"])
        for name, split in vars(dataset).items()
        if name in ("train", "validation", "test")
    }


def train(candidate, num_images):
    """Goes on training for a generation; returns a new candidate."""
    data = load_data()
    images, labels = data["train"]
    trained = candidate.model or Trained(
        SGDClassifier(learning_rate="constant", random_state=0)
    )
    trained.classifier.set_params(**jepbt.field_dict(candidate.hparams))
    order = np.random.default_rng(0).permutation(len(labels))
    seen = range(trained.num_seen, trained.num_seen + num_images)
    rows = order.take(seen, mode="wrap")
    trained.classifier.partial_fit(images[rows], labels[rows], classes=np.arange(10))
    trained.num_seen += num_images
    score = trained.classifier.score(*data["validation"])
    return Candidate(trained, candidate.hparams, fitness=score)


def main(num_generations=12, population_size=12, num_images=1_500, num_processes=2):
    population = [Candidate(None, Hyper()) for _ in range(population_size)]
    generations = jepbt.epbt(
        num_generations,
        population,
        functools.partial(train, num_images=num_images),
        n_processes=num_processes if num_processes > 1 else None,
    )
    bests = []
    for best in generations:
        bests.append(best)
        print(f"generation {len(bests):2}  validation {best.fitness:.4f}", flush=True)
    score = best.model.classifier.score(*load_data()["test"])  # read once, at the end
    print(f"{best.hparams}\ntest accuracy {score:.4f}")
    return bests, score


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-generations", type=int, default=12)
    parser.add_argument("--population-size", type=int, default=12)
    parser.add_argument("--num-images", type=int, default=1_500)
    parser.add_argument("--num-processes", type=int, default=2)
    main(**vars(parser.parse_args()))
