"""Keras models, evolved while they train.

    python examples/keras_example.py

Needs `pip install -e ".[keras]"`. 2 CPU cores, about 1 minute. Expect a test
accuracy of 0.81 or more, from about 0.71 (validation) after the first generation.

A Keras model can be pickled with its weights and its optimizer's state, so that it is
what children inherit. Keras runs on JAX here; KERAS_BACKEND sets another. Every
evaluation compiles its model anew, which takes most of the time of this small one.
"""

import argparse
import functools
import os
from dataclasses import dataclass

import numpy as np

import jepbt
from jepbt import Candidate

os.environ.setdefault("KERAS_BACKEND", "jax")


@dataclass
class Hyper(jepbt.HyperParameters):
    learning_rate: float = jepbt.hparam(1e-3, min=1e-5, max=0.1, log=True)
    weight_decay: float = jepbt.hparam(1e-3, min=1e-6, max=0.1, log=True)
    batch_size: int = jepbt.hparam(50, choices=(10, 50, 250))


@functools.cache
def load_data():
    """Each process reads the data once."""
    dataset = jepbt.datasets.load("fashion_mnist")
    return {
        name: (split["image"] / np.float32(255), split["label"])
        for name, split in vars(dataset).items()
        if name in ("train", "validation", "test")
    }


def build():
    import keras

    layers = [keras.layers.Flatten(), keras.layers.Dense(64, "relu")]
    model = keras.Sequential(
        [keras.Input((28, 28, 1)), *layers, keras.layers.Dense(10)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(), loss, metrics=["accuracy"])
    return model


def train(candidate, num_images):
    """Goes on training with these hyperparameters; returns a new candidate."""
    data, h = load_data(), candidate.hparams
    model = candidate.model or build()
    model.optimizer.learning_rate = h.learning_rate
    model.optimizer.weight_decay = h.weight_decay
    images, labels = data["train"]
    rows = np.random.default_rng().permutation(len(labels))[:num_images]
    model.fit(images[rows], labels[rows], batch_size=h.batch_size, verbose=0)
    _, accuracy = model.evaluate(*data["validation"], batch_size=250, verbose=0)
    return Candidate(model, h, fitness=float(accuracy))


def main(num_generations=8, population_size=6, num_images=3_000, num_processes=2):
    population = [Candidate(None, Hyper()) for _ in range(population_size)]
    evaluate = functools.partial(train, num_images=num_images)
    processes = num_processes if num_processes > 1 else None
    bests = []
    for best in jepbt.epbt(num_generations, population, evaluate, processes):
        bests.append(best)
        print(f"generation {len(bests):2}  validation {best.fitness:.4f}", flush=True)
    _, accuracy = best.model.evaluate(*load_data()["test"], batch_size=250, verbose=0)
    print(f"{best.hparams}\ntest accuracy {accuracy:.4f}")
    return bests, accuracy


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-generations", type=int, default=8)
    parser.add_argument("--population-size", type=int, default=6)
    parser.add_argument("--num-images", type=int, default=3_000)
    parser.add_argument("--num-processes", type=int, default=2)
    main(**vars(parser.parse_args()))
