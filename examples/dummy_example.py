"""The contract of `jepbt.epbt`, in plain Python: no network, no framework.

    python examples/dummy_example.py

2 CPU cores, about 5 seconds; expect a final error below 1e-6, from about 3 after the
first generation.

A "model" here is a point (x, y) that should reach the bottom of a long narrow valley,
(x - 1)² + 30 (y - 1)², by gradient descent. What evolves is how it descends: its step
size, its momentum, and where the gradient is read ("ahead" is Nesterov's way). Steps
that suit the beginning are not those that suit the end, which is what changing them
*during* training is for.
"""

import argparse
from dataclasses import dataclass

import jepbt
from jepbt import Candidate


# What evolves: a dataclass, each field with its default and its space. Floats, whole
# numbers, bools, and choices among anything: strings, layer sizes, batch sizes.
@dataclass
class Hyper(jepbt.HyperParameters):
    step_size: float = jepbt.hparam(0.001, min=1e-5, max=0.1, log=True)
    momentum: float = jepbt.hparam(0.0, min=0.0, max=0.99)
    gradient_at: str = jepbt.hparam("here", choices=("here", "ahead"))


# What is inherited: anything. Here position and velocity; in real life, weights and the
# optimizer's state. A child that got one without the other would stumble.
@dataclass
class Model:
    position: tuple[float, float] = (-1.0, 2.0)
    velocity: tuple[float, float] = (0.0, 0.0)


def error(position: tuple[float, float]) -> float:
    x, y = position
    return (x - 1) ** 2 + 30 * (y - 1) ** 2


def train(candidate: Candidate) -> Candidate:
    """One evaluation: go on training with these hyperparameters, and measure.

    `candidate.model` is None in the first generation; later it is the parent's. The
    candidate is a copy of our own, so the model may be changed in place; what must be
    new is the candidate that is returned. Its fitness is higher for a better model.
    """
    model, hparams = candidate.model or Model(), candidate.hparams
    for _ in range(5):
        x, y = model.position
        if hparams.gradient_at == "ahead":
            x += hparams.momentum * model.velocity[0]
            y += hparams.momentum * model.velocity[1]
        gradient = (2 * (x - 1), 60 * (y - 1))
        model.velocity = tuple(
            hparams.momentum * v - hparams.step_size * g
            for v, g in zip(model.velocity, gradient, strict=True)
        )
        model.position = tuple(
            p + v for p, v in zip(model.position, model.velocity, strict=True)
        )
    return Candidate(model, hparams, fitness=-error(model.position))


def main(num_generations: int = 20, population_size: int = 12, seed: int = 0) -> list:
    # Slot 0 starts with the defaults; repeated hyperparameters are drawn from their
    # spaces, so this is a population of different candidates.
    population = [Candidate(None, Hyper()) for _ in range(population_size)]
    bests = []
    # In 4 other processes: jepbt.epbt(..., n_processes=4). On a cluster: executor=...
    for best in jepbt.epbt(num_generations, population, train, seed=seed):
        print(
            f"generation {len(bests):2}  error {-best.fitness:7.1e}  {best.hparams}",
            flush=True,
        )
        bests.append(best)
    return bests


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-generations", type=int, default=20)
    parser.add_argument("--population-size", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
