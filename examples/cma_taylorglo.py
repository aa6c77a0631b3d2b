"""TaylorGLO as it was published: CMA-ES searches one loss for whole trainings.

    pip install 'jepbt[examples]'
    python examples/cma_taylorglo.py

2 CPU cores, about 20 seconds. Each generation of CMA-ES asks for 20 losses; 20
networks, one with each, train side by side from new weights, and their validation
accuracies are told back. Start at zeros and a sigma of 1.2 are the paper's. The short
trainings, and that a loss which could not train is repaired first
(`jepbt.taylorglo.repair`), are not. Expect the best accuracy of a generation to rise
from 0.81 to about 0.84, and then no difference between what was found and
cross-entropy's expansion: 0.843 and 0.844.
"""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jepbt

try:
    import cma
except ImportError:
    sys.exit("this example needs cma: pip install 'jepbt[examples]'")


@dataclasses.dataclass
class Hyper(jepbt.HyperParameters):
    loss: jepbt.Loss = jepbt.taylor_hparam()


def make_trainer(task, population_size, num_steps):
    """A function of key, data and losses `[P, 8]` to accuracies `[P]`."""
    config = jepbt.Config(
        population_size=population_size,
        num_generations=1,
        steps_per_generation=num_steps,
    )

    def train(key, data, losses):
        strategy = jepbt.strategies.random_search()
        strategy = strategy._replace(init=lambda *_: ((), Hyper(losses)))
        _, _, history = jepbt.make_run(task, strategy, config)(key, data)
        return history.fitness[-1]

    return jax.jit(train)


def main(num_generations=20, population_size=20, num_steps=150, num_seeds=5):
    task = jepbt.classification(
        "fashion_mnist",
        hparams=Hyper,
        model=jepbt.models.MLP(num_classes=10, hidden=(64,)),
        loss=lambda h: jepbt.losses.taylor(h.loss),
        optimizer=lambda h: optax.sgd(0.02, momentum=0.9, nesterov=True),
    )
    data = task.data._replace(test=None)
    train = make_trainer(task, population_size, num_steps)
    options = {"popsize": population_size, "seed": 1, "verbose": -9}
    search = cma.CMAEvolutionStrategy(np.zeros(8), 1.2, options)
    for generation in range(num_generations):
        losses = np.float32(search.ask())
        key = jax.random.key(generation)
        accuracies = np.asarray(train(key, data, losses))
        # CMA-ES minimises; a training that failed is worth nothing.
        search.tell(list(losses), np.nan_to_num(1 - accuracies, nan=1.0))
        best = np.nanmax(accuracies)
        print(f"generation {generation + 1:3}  best validation accuracy {best:.3f}")
    evolved = np.float32(search.result.xfavorite)
    compared = {
        "evolved": jepbt.taylorglo.repair(evolved, num_classes=10),
        "cross-entropy's expansion": jepbt.taylorglo.CROSS_ENTROPY_EXPANSION,
    }
    again = make_trainer(task, len(compared), 4 * num_steps)
    keys = jax.random.split(jax.random.key(num_generations), num_seeds)
    scores = [again(key, data, jnp.stack([*compared.values()])) for key in keys]
    print(f"trained four times as long, {num_seeds} new seeds, validation accuracy:")
    for name, values in zip(compared, np.transpose(scores), strict=True):
        print(f"  {name:26} {values.mean():.3f}  (sd {values.std():.3f})")
    numbers = jepbt.taylorglo.effective(evolved)
    print("effective numbers", *(f"{number:.2f}" for number in numbers))
    return dict(zip(compared, np.mean(scores, 0).tolist(), strict=True))


if __name__ == "__main__":
    main()
