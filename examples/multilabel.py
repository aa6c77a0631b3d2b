"""Several labels on one image, and a label on each pixel: tasks for `jepbt.Task`.

    python examples/multilabel.py

2 CPU cores, shared, about 2 minutes. Two garments of Fashion-MNIST lie on top of each
other, and a network names both: ten yes-or-no outputs. Another one tells for each pixel
which garment it belongs to, or that it is background: eleven classes a pixel. Members
evolve their learning rate, and what a label that is there weighs beside one that is
not. Expect 0.6 of the first (the share of right labels among those named or true) and
0.87 of the second (the share of right pixels).
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jepbt


@dataclasses.dataclass
class Hyper(jepbt.HyperParameters):
    learning_rate: float = jepbt.hparam(1e-3, min=1e-4, max=1e-1, log=True)
    weight: float = jepbt.hparam(1.0, min=0.25, max=8.0, log=True)


def several_labels(h, logits, labels):
    """Of `[B, 10]` each, labels 0 or 1."""
    losses = optax.sigmoid_binary_cross_entropy(logits, labels)
    return (losses * jnp.where(labels == 1, h.weight, 1.0)).mean(-1)


def overlap(logits, labels):
    named, true = logits > 0, labels == 1
    return (named & true).sum(-1) / (named | true).sum(-1)


def label_per_pixel(h, logits, labels):
    """Of logits `[B, 14, 14, 11]`, labels `[B, 14, 14]` from 0 to 10."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return (losses * jnp.where(labels < 10, h.weight, 1.0)).mean((1, 2))


def right_pixels(logits, labels):
    return (logits.argmax(-1) == labels).mean((1, 2))


def make_task(data, shape, loss, score):
    """A perceptron with outputs `[B, *shape]` for any labels, loss and score."""
    network = jepbt.models.MLP(num_classes=math.prod(shape), hidden=(128,))

    def predict(params, batch):
        return network.apply({"params": params}, batch["image"]).reshape(-1, *shape)

    def init(key, h):
        params = network.init(key, data.train["image"][:1])["params"]
        return params, optax.adam(h.learning_rate).init(params)

    def train_step(key, state, h, batch, shared):
        params, opt_state = state

        def objective(params):
            return loss(h, predict(params, batch), batch["label"]).mean()

        value, gradient = jax.value_and_grad(objective)(params)
        updates, opt_state = optax.adam(h.learning_rate).update(gradient, opt_state)
        return (optax.apply_updates(params, updates), opt_state), {"loss": value}

    def evaluate(key, state, h, batch, shared):
        return score(predict(state[0], batch), batch["label"])

    return jepbt.Task(Hyper, init, train_step, evaluate, data)


def load():
    """Fashion-MNIST at half its resolution, with labels of both kinds."""
    dataset, pairs, pixels = jepbt.datasets.load("fashion_mnist"), [], []
    for seed, split in enumerate((dataset.train, dataset.validation)):
        image = np.float32(split["image"].reshape(-1, 14, 2, 14, 2).mean((2, 4)) / 255)
        label = split["label"]
        other = np.random.default_rng(seed).permutation(len(image))
        both = np.float32(np.eye(10)[label] + np.eye(10)[label[other]] > 0)
        pairs.append({"image": np.maximum(image, image[other]), "label": both})
        of_pixels = np.where(image > 0.1, label[:, None, None], 10)
        pixels.append({"image": image, "label": of_pixels})
    return jepbt.Splits(*pairs), jepbt.Splits(*pixels)


def main(**settings):
    pairs, pixels = load()
    tasks = {
        "labels": make_task(pairs, (10,), several_labels, overlap),
        "pixels": make_task(pixels, (14, 14, 11), label_per_pixel, right_pixels),
    }
    results = {}
    for name, task in tasks.items():
        results[name] = jepbt.train_population(task, **settings)
        print(f"{name}: the best member scores {results[name].best.fitness.mean:.3f}")
    return results


if __name__ == "__main__":
    jepbt.use_all_cpu_cores()
    main(population_size=16, num_generations=8, steps_per_generation=100)
