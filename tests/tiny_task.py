"""The smallest task there is, for tests of what surrounds training, and small runs."""

from dataclasses import dataclass

import jax.numpy as jnp

import jepbt


@dataclass
class Hyper(jepbt.HyperParameters):
    rate: float = jepbt.hparam(0.01, min=1e-3, max=0.5, log=True)


def train(task, num_members, num_generations, num_steps, **settings):
    """Trains so many members for so many generations of so many steps; no bar."""
    return jepbt.train_population(
        task,
        population_size=num_members,
        num_generations=num_generations,
        steps_per_generation=num_steps,
        **{"progress": False} | settings,
    )


TASK = jepbt.Task(
    hparams=Hyper,
    init=lambda key, h: jnp.float32(1.0),
    train_step=lambda key, x, h, batch, shared: (x - h.rate * x, {"loss": x}),
    evaluate=lambda key, x, h, batch, shared: -x[None],
)
