"""PPO on gymnax: its parts by hand, gymnasium as reference, and learning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from example_scripts import load_example

SMALL = {"chunk_size": 1, "progress": False, "devices": jax.devices()[:1]}


@pytest.fixture(scope="module")
def example():
    return load_example("ppo_gymnax")


def needs_gymnax():
    pytest.importorskip("gymnax", reason="pip install 'jepbt[rl]'")


def test_advantages_stop_where_an_episode_does(example):
    """Four steps of one environment, by hand, at a discount of 0.99 and lambda 0.5.

    The first episode ends by itself after step 1, the second is cut off after step 2.
    """
    rewards, values = np.ones((4, 1)), np.float32([[1.0], [2], [3], [4]])
    next_values = np.float32([[2.0], [7], [5], [6]])
    ended = np.bool_([[0], [1], [0], [0]])
    done = np.bool_([[0], [1], [1], [0]])
    found = example.advantages(rewards, values, next_values, ended, done, 0.5)
    second = 1 - 2.0
    first = 1 + 0.99 * 2 - 1 + 0.99 * 0.5 * second
    third, fourth = 1 + 0.99 * 5 - 3, 1 + 0.99 * 6 - 4
    np.testing.assert_allclose(np.ravel(found), [first, second, third, fourth], 1e-6)


def loss_at(example, probs, h, **changes):
    """The loss of two steps with action 0, of gains 1 and -1, once half as likely."""
    batch = {
        "action": jnp.zeros(2, int),
        "log_prob": jnp.log(jnp.array([0.5, 0.5])),
        "advantage": jnp.array([3.0, 1.0]),
        "target": jnp.array([1.0, 2.0]),
    }
    logits = jnp.log(jnp.stack([probs, 1 - probs], -1))
    return example.ppo_loss(h, logits, jnp.zeros(2), batch | changes)


def test_the_loss_is_the_papers(example):
    """By hand: ratios 1.6 and 1.6 of gains 1 and -1, clipped at 1.2, and the rest."""
    h = example.Hyper(entropy=0.1, clip=0.2)
    probs = jnp.array([0.8, 0.8])
    entropy = -(0.8 * np.log(0.8) + 0.2 * np.log(0.2))
    expected = -(1.2 - 1.6) / 2 + 0.25 * (1 + 4) / 2 - 0.1 * entropy
    np.testing.assert_allclose(loss_at(example, probs, h), expected, rtol=1e-5)
    # The gain of the first is clipped and has no gradient; the second's is not.
    h = example.Hyper(entropy=1e-4, clip=0.2)
    slope = jax.grad(lambda probs: loss_at(example, probs, h))(probs)
    np.testing.assert_allclose(slope, [0, 1 / 0.5 / 2], atol=1e-3)


def test_an_episode_is_scored_as_gymnasium_does(example, key):
    """Who always pushes to the left falls as soon as in gymnasium's own CartPole."""
    needs_gymnax()
    import gymnasium

    task = example.make_task("CartPole-v1")
    state = task.init(key, example.Hyper())
    params = jax.tree.map(jnp.zeros_like, state["params"])
    params["actor"]["dense3"]["bias"] = jnp.array([1e3, -1e3])
    state = {**state, "params": params}
    lengths = task.evaluate(key, state, example.Hyper(), np.arange(300), ())

    env = gymnasium.make("CartPole-v1")
    expected = []
    for seed in range(300):
        env.reset(seed=seed)
        steps = iter(lambda: env.step(0), None)
        expected.append(1 + next(i for i, step in enumerate(steps) if step[2]))
    assert set(np.unique(lengths)) == set(expected)
    np.testing.assert_allclose(np.mean(lengths), np.mean(expected), atol=0.2)


def test_agents_play_on_from_where_they_are(example, key):
    needs_gymnax()
    task, h = example.make_task("CartPole-v1"), example.Hyper()
    state = task.init(key, h)
    after, metrics = jax.jit(task.train_step)(key, state, h, None, ())
    assert (state["world"].time == 0).all() and (after["world"].time > 0).any()
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert np.isfinite(metrics["loss"])


@pytest.mark.slow
def test_a_small_population_learns_to_balance(example):
    needs_gymnax()
    result = example.main(
        population_size=8, num_generations=4, steps_per_generation=6, **SMALL
    )
    assert result.test().best.mean > 100  # at random: 22


@pytest.mark.slow
def test_two_arms_are_compared_at_equal_cost(example):
    needs_gymnax()
    comparison = example.main(
        seeds=2, population_size=2, num_generations=2, steps_per_generation=1, **SMALL
    )
    assert [arm.shape for arm in comparison.scores] == [(2,), (2,)]
    assert "random search" in str(comparison)
