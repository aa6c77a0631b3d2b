"""A network written with Equinox, trained as a population.

    python examples/equinox_model.py

Needs `pip install -e ".[models]"`. 2 CPU cores, about 10 seconds; expect a test
accuracy of about 0.84.

jepbt takes any model that is a pair of functions, `(init, apply)`: see `jepbt.models`.
Copy `from_equinox`, and give it a module of your own.
"""

import equinox as eqx
import jax

import jepbt


def from_equinox(make):
    """Makes a model of `make(key)`, a module called with `(image, h, train, key)`.

    With the winner's weights it is a module again:
    `eqx.combine(result.best.params, make(key))`.
    """

    def init(key, images):
        return eqx.filter(make(key), eqx.is_inexact_array), {}

    def apply(key, params, variables, h, images, *, train):
        # The weights made here are never used, and a compiled program leaves them out.
        module = eqx.combine(params, make(key))
        keys = jax.random.split(key, len(images))
        call = jax.vmap(lambda image, key: module(image, h, train, key))
        return call(images, keys), variables

    return init, apply


class Network(eqx.Module):
    hidden: eqx.nn.Linear
    head: eqx.nn.Linear

    def __init__(self, key):
        hidden_key, head_key = jax.random.split(key)
        self.hidden = eqx.nn.Linear(784, 128, key=hidden_key)
        self.head = eqx.nn.Linear(128, 10, key=head_key)

    def __call__(self, image, h, train, key):
        x = jax.nn.relu(self.hidden(image.ravel()))
        x = jepbt.nn.dropout(key, x, h.dropout, train=train)
        return self.head(x)


def main(**settings):
    task = jepbt.classification("fashion_mnist", model=from_equinox(Network))
    result = jepbt.train_population(task, **settings)
    print(f"test accuracy {result.test().best}")
    return result


if __name__ == "__main__":
    jepbt.use_all_cpu_cores()
    main(population_size=8, num_generations=8, steps_per_generation=60)
