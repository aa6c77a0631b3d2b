"""CONTRIBUTING.md: what it shows works, and is as short as it says."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jepbt
from jepbt.strategies import Evaluation

TEXT = (pathlib.Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.S)


@pytest.fixture(scope="module")
def shown():
    """What the three blocks define, one after the other, as a reader would paste."""
    names = {"__name__": "contributing"}
    with jax.numpy_rank_promotion("allow"):
        for block in BLOCKS:
            exec(block, names)
    return names


@pytest.mark.parametrize("number, most", [(0, 20), (1, 5), (2, 60)])
def test_a_strategy_takes_20_lines_a_loss_5_and_a_task_60(number, most):
    lines = [line for line in BLOCKS[number].splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("import", "from"))]
    assert len(lines) <= most


def test_the_strategy_lets_losers_continue_their_neighbours(shown, key):
    @shown["dataclass"]
    class Hyper(jepbt.HyperParameters):
        rate: float = jepbt.hparam(0.1, min=0.01, max=1.0, log=True)

    strategy = shown["neighbours"]()
    state, hparams = strategy.init(key, Hyper, 4, 3)
    fitness = jnp.array([0.5, 0.9, jnp.nan, 0.4])
    evaluation = Evaluation(fitness, jnp.zeros(4))
    _, plan = strategy.step(key, state, 1, hparams, evaluation)
    # 0.5 beats slot 3's 0.4, 0.9 beats 0.5, nan loses, 0.4 beats nan.
    np.testing.assert_array_equal(plan.parents, [0, 1, 1, 3])
    kept = np.array(plan.hparams.rate) == np.array(hparams.rate)
    np.testing.assert_array_equal(kept, [True, True, False, True])


def test_the_loss_is_the_focal_loss(shown):
    """Lin et al. 2017: -(1 - p)^gamma log p of the true class."""
    logits, labels = np.array([2.0, 0.0, -1.0]), np.array([0.0, 1.0, 0.0])
    p = np.exp(0.0) / np.exp(logits).sum()
    got = shown["focal"](2.0)(jnp.array(logits), jnp.array(labels))
    np.testing.assert_allclose(got, -((1 - p) ** 2) * np.log(p), rtol=1e-5)


def test_the_task_trains_under_the_strategy_and_learns(shown):
    with jax.numpy_rank_promotion("allow"):
        result = jepbt.train_population(
            shown["task"],
            strategy=shown["neighbours"](),
            population_size=4,
            num_generations=3,
            steps_per_generation=60,
            progress=False,
        )
    images = result.task.data.validation
    blank = np.mean((images - images.mean(0)) ** 2)  # the best constant picture
    assert -result.best.fitness.mean < 0.8 * blank
