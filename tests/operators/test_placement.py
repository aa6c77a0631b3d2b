"""Children settle near their parents, and nothing else about them changes."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import jepbt
from jepbt.operators.placement import settle
from jepbt.strategies import Evaluation, epbt

settled_by = jax.jit(settle)
SIZES = (1, 2, 3, 5, 8, 24)  # a program each


@st.composite
def drawn_children(draw):
    """Some members stay, each other slot has a child of anybody's."""
    size = draw(st.sampled_from(SIZES))
    is_child = np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    anybody = st.lists(st.integers(0, size - 1), min_size=size, max_size=size)
    parents = np.where(is_child, draw(anybody), np.arange(size))
    return parents, is_child


@given(drawn_children())
@settings(max_examples=200, deadline=None)
def test_every_child_gets_one_slot_and_no_parent_is_overwritten(drawn):
    parents, is_child = drawn
    order = np.asarray(settled_by(parents, is_child))
    settled = parents[order]
    slots = np.arange(parents.size)
    np.testing.assert_array_equal(order[~is_child], slots[~is_child])
    assert sorted(order[is_child]) == sorted(slots[is_child])
    np.testing.assert_array_equal(settled[settled], settled)
    travels = settled != slots
    assert (np.diff(settled[travels]) >= 0).all()  # in their parents' order: not far
    # As few rows as can be: those that nobody descends from.
    assert travels.sum() == parents.size - np.unique(parents).size


@dataclass
class Hyper(jepbt.HyperParameters):
    rate: float = jepbt.hparam(0.1, min=0.01, max=1.0, log=True)


def test_children_take_their_hyperparameters_along():
    """Unchanged by mutation and crossover they are their parents'."""
    strategy = epbt(mutate=lambda key, h: h, crossover=lambda key, h, is_child: h)
    state, hparams = strategy.init(jax.random.key(0), Hyper, 64, 5)
    for seed in range(5):
        key = jax.random.key(seed)
        fitness = jax.random.normal(key, 64).at[7].set(jnp.nan)
        evaluation = Evaluation(fitness, jnp.zeros(64))
        _, plan = strategy.step(key, state, 1, hparams, evaluation)
        parents = np.asarray(plan.parents)
        np.testing.assert_array_equal(plan.hparams.rate, hparams.rate[parents])
        np.testing.assert_array_equal(parents[parents], parents)
        assert 7 not in parents


def test_siblings_do_not_pair_up():
    """Crossover comes before children settle next to their siblings.

    Each pair swaps its whole value here: as often as 32 children drawn by tournaments
    have partners of another parent, their value is not their parent's.
    """
    strategy = epbt(
        mutate=lambda key, h: h, crossover=jepbt.operators.uniform(probability=1.0)
    )
    state, hparams = strategy.init(jax.random.key(0), Hyper, 64, 5)
    swapped = []
    for seed in range(20):
        key = jax.random.key(seed)
        evaluation = Evaluation(jax.random.normal(key, 64), jnp.zeros(64))
        _, plan = strategy.step(key, state, 1, hparams, evaluation)
        is_child = ~np.asarray(plan.info["elites"])
        other = np.asarray(plan.hparams.rate != hparams.rate[plan.parents])
        swapped.append(other[is_child].mean())
    # Two tournament winners of 64 are the same with a chance of about 1 in 48.
    assert np.mean(swapped) > 0.93
