"""A network written with Haiku, trained as a population.

    python examples/haiku_model.py

Needs `pip install -e ".[models]"`. 2 CPU cores, about 10 seconds; expect a test
accuracy of about 0.84.

jepbt takes any model that is a pair of functions, `(init, apply)`: see `jepbt.models`.
Copy `from_haiku`, and give it a function of your own.
"""

import haiku as hk
import jax

import jepbt


def from_haiku(network):
    """Makes a model of `network(images, h, train)`, a function that uses Haiku.

    Its parameters are `result.best.params`, its state `result.best.state.variables`.
    """
    functions = hk.transform_with_state(network)

    def init(key, images, h):
        return functions.init(key, images, h, True)

    def apply(key, params, variables, h, images, *, train):
        return functions.apply(params, variables, key, images, h, train)

    return init, apply


def network(images, h, train):
    x = hk.Linear(128)(hk.Flatten()(images))
    x = jax.nn.relu(hk.BatchNorm(True, True, decay_rate=0.9)(x, train))
    x = jepbt.nn.dropout(hk.next_rng_key(), x, h.dropout, train=train)
    return hk.Linear(10)(x)


def main(**settings):
    task = jepbt.classification("fashion_mnist", model=from_haiku(network))
    result = jepbt.train_population(task, **settings)
    print(f"test accuracy {result.test().best}")
    return result


if __name__ == "__main__":
    jepbt.use_all_cpu_cores()
    main(population_size=8, num_generations=8, steps_per_generation=60)
