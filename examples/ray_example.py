"""Evaluations on a Ray cluster, by an executor of a few lines.

    python examples/ray_example.py

Needs `pip install -e ".[ray]"`. 2 CPU cores, about 15 seconds; expect the same lines as
from `dummy_example.py`, the last with an error below 1e-6.

The evaluation is that of `dummy_example.py`; yours may need a GPU for itself, as in
`RayExecutor(num_gpus=1)`. The cluster is this machine; `ray.init("auto")` joins one
that runs already, where jepbt must be installed too.
"""

import argparse
from concurrent.futures import Executor

import ray
from dummy_example import Hyper, train

import jepbt
from jepbt import Candidate


class RayExecutor(Executor):
    """Submits each call as a task of Ray; the settings are those of `ray.remote`."""

    def __init__(self, **settings):
        call = ray.remote(lambda function, *args, **kwargs: function(*args, **kwargs))
        self._call = call.options(**settings)

    def submit(self, function, /, *args, **kwargs):
        return self._call.remote(function, *args, **kwargs).future()


def main(num_generations=20, population_size=12, **settings):
    population = [Candidate(None, Hyper()) for _ in range(population_size)]
    executor = RayExecutor(**settings)
    bests = []
    for best in jepbt.epbt(num_generations, population, train, executor=executor):
        print(f"generation {len(bests):2}  error {-best.fitness:7.1e}  {best.hparams}")
        bests.append(best)
    return bests


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-generations", type=int, default=20)
    parser.add_argument("--population-size", type=int, default=12)
    ray.init(include_dashboard=False)
    main(**vars(parser.parse_args()))
