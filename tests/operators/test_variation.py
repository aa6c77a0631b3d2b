"""Mutation and crossover: distributions, bounds, independence."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jepbt
from jepbt.hyperparameters import Integer
from jepbt.operators import MIN_FACTOR, gaussian, pair_children, perturb, uniform

NUM = 4_000


@dataclass
class Hyper(jepbt.HyperParameters):
    rate: float = jepbt.hparam(0.05, min=1e-4, max=1.0, log=True)
    twin: float = jepbt.hparam(0.05, min=1e-4, max=1.0, log=True)
    dropout: float = jepbt.hparam(0.3, min=0.0, max=0.6)
    width: int = jepbt.hparam(3, min=1, max=100)
    activation: str = jepbt.hparam("b", choices=("a", "b", "c", "d"))
    free: float = 0.9
    loss: jepbt.Loss = jepbt.taylor_hparam(sigma=0.3, genome="coefficients")


def copies(**values):
    """`NUM` copies of one parent."""
    parent = {"rate": 0.05, "twin": 0.05, "dropout": 0.3, "width": 3, "free": 0.9}
    parent |= {"activation": 1, "loss": np.zeros(8, np.float32)} | values
    return Hyper(
        **{
            name: jnp.broadcast_to(
                jnp.asarray(
                    value, jnp.int32 if name in ("width", "activation") else jnp.float32
                ),
                (NUM, *np.shape(value)),
            )
            for name, value in parent.items()
        }
    )


MUTATIONS = [gaussian(), gaussian(sigma=1.0), gaussian(reset=1.0), perturb()]


def test_gaussian_multiplies_by_a_normal_factor(key):
    children = gaussian(sigma=0.1, reset=0.0)(key, copies())
    factors = np.asarray(children.rate) / 0.05
    assert stats.kstest(factors, stats.norm(1.0, 0.1).cdf).pvalue > 0.01


def test_gaussian_adds_to_spaces_that_hold_zero(key):
    children = gaussian(sigma=0.1, reset=0.0)(key, copies())
    steps = np.asarray(children.dropout) - 0.3
    assert stats.kstest(steps, stats.norm(0.0, 0.1 * 0.6).cdf).pvalue > 0.01


def test_a_value_of_zero_is_left_again(key):
    children = gaussian(reset=0.0)(key, copies(dropout=0.0))
    assert 0.4 < (np.asarray(children.dropout) > 0).mean() < 0.6


@pytest.mark.parametrize("mutate", [gaussian(reset=0.0), perturb(resample=0.0)])
def test_loss_coefficients_move_additively_from_zero(key, mutate):
    children = mutate(key, copies())
    flat = np.asarray(children.loss).ravel()
    assert stats.kstest(flat, stats.norm(0.0, 0.3).cdf).pvalue > 0.01


def test_a_large_sigma_never_turns_a_sign(key):
    """Without a floor, a factor from N(1, 1) is negative 15.9 % of the time."""
    children = gaussian(sigma=1.0, reset=0.0)(key, copies())
    assert np.asarray(children.free).min() >= 0.9 * MIN_FACTOR * 0.999


@pytest.mark.parametrize("mutate", MUTATIONS)
def test_one_mutation_does_not_pile_up_on_a_bound(key, mutate):
    """An inverted clamp puts every value on one of its bounds."""
    children = mutate(key, copies())
    # A width of 3 is so near to 1 that a wide step gets there rightly.
    for leaf, bounds in ((children.rate, (1e-4, 1.0)), (children.width, (100,))):
        for bound in bounds:
            assert np.isclose(leaf, bound, rtol=1e-3).mean() < 0.05


@pytest.mark.parametrize("mutate", [gaussian(), perturb(factors=(0.5, 0.8, 1.2, 2))])
def test_twins_differ_and_equal_fields_are_independent(key, mutate):
    children = mutate(key, copies())
    assert len(np.unique(children.loss[:, 0])) > 0.7 * NUM  # some are reset
    moved = np.log(children.rate), np.log(children.twin)
    assert abs(np.corrcoef(*moved)[0, 1]) < 0.06


def test_reset_draws_from_the_prior_at_its_rate(key):
    children = gaussian(sigma=0.0, reset=0.05)(key, copies())
    changed = np.asarray(children.rate) != np.float32(0.05)
    np.testing.assert_allclose(changed.mean(), 0.05, atol=0.012)
    everything = gaussian(reset=1.0)(key, copies())
    draws = np.log(np.asarray(everything.rate, np.float64))
    prior = stats.uniform(np.log(1e-4), -np.log(1e-4))
    assert stats.kstest(draws, prior.cdf).pvalue > 0.01


@pytest.mark.parametrize(
    "mutate", [gaussian(sigma=0.0, reset=0.3), perturb(factors=(1.0,), resample=0.3)]
)
def test_what_is_drawn_anew_does_not_depend_on_being_chosen(key, mutate):
    """One key for both would draw only from a part of the prior."""
    rate = np.asarray(mutate(key, copies()).rate, np.float64)
    anew = np.log(rate[rate != np.float32(0.05)])
    prior = stats.uniform(np.log(1e-4), -np.log(1e-4))
    assert stats.kstest(anew, prior.cdf).pvalue > 0.01


def test_categoricals_are_redrawn_at_their_rate(key):
    """A redraw of 4 choices keeps the old one a quarter of the time."""
    children = gaussian(redraw=0.4)(key, copies())
    changed = np.asarray(children.activation) != 1
    np.testing.assert_allclose(changed.mean(), 0.4 * 3 / 4, atol=0.03)


def test_gaussian_moves_integers_without_bias(key):
    children = gaussian(sigma=0.2, reset=0.0)(key, copies(width=50))
    np.testing.assert_allclose(np.mean(children.width), 50, atol=0.6)
    np.testing.assert_allclose(np.std(children.width), 10, atol=0.5)
    small = gaussian(sigma=0.2, reset=0.0)(key, copies(width=2))
    assert len(np.unique(small.width)) >= 3


def test_perturb_multiplies_by_one_of_its_factors(key):
    children = perturb(resample=0.0)(key, copies())
    factors, counts = np.unique(np.round(children.rate / 0.05, 4), return_counts=True)
    np.testing.assert_allclose(factors, [0.8, 1.2], rtol=1e-4)
    np.testing.assert_allclose(counts / NUM, 0.5, atol=0.03)


def test_perturb_always_moves_integers(key):
    children = perturb(resample=0.0)(key, copies(width=2))
    assert set(np.unique(children.width)) == {1, 3}


def test_perturb_leaves_zero_like_any_other_value(key):
    """The rule by hand: the factor's side, by one or by a fifth of the range."""

    @dataclass
    class Counts(jepbt.HyperParameters):
        layers: int = jepbt.hparam(5, min=0, max=10)
        offset: int = jepbt.hparam(0, min=-10, max=10)
        decay: float = jepbt.hparam(0.2, min=0.0, max=1.0)
        wide: int = jepbt.hparam(0, min=-(2**20), max=2**30)

    explore = perturb(resample=0.0)
    zeros = Counts(
        *[jnp.zeros(NUM, jnp.int32)] * 2, jnp.zeros(NUM), jnp.zeros(NUM, int)
    )
    children = explore(key, zeros)
    for name, values in {
        "layers": [0, 1],
        "offset": [-1, 1],
        "decay": [0, 0.2],
        "wide": [-1, 1],
    }.items():
        seen, counts = np.unique(getattr(children, name), return_counts=True)
        np.testing.assert_allclose(seen, values, rtol=1e-6)
        np.testing.assert_allclose(counts / NUM, 0.5, atol=0.03)
    still = perturb(factors=(1.0,), resample=0.0)(key, zeros)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(still))


def test_perturb_does_not_gather_whole_numbers_at_zero(key):
    """In the long run as the chain says: its transitions, written out by hand."""
    space = Integer(5, 0, 10, False)
    down = [0, 0, 1, 2, 3, 4, 4, 5, 6, 7, 8]
    up = [1, 2, 3, 4, 5, 6, 8, 9, 10, 10, 10]
    chain = np.zeros((11, 11))
    for value, sides in enumerate(zip(down, up, strict=True)):
        for side in sides:
            chain[value, side] += 0.5
    expected = np.linalg.matrix_power(chain, 60)[5]
    values = jnp.full(NUM, 5)
    for step_key in jax.random.split(key, 60):
        factors = jax.random.choice(step_key, jnp.array([0.8, 1.2]), (NUM,))
        values = space.clip(space.multiply(values, factors, None))
    counts = np.bincount(values, minlength=11)
    np.testing.assert_allclose(counts / NUM, expected, atol=0.03)
    assert expected[0] < 0.15


def test_wide_integers_keep_all_their_digits(key):
    """2^30 + 1 times 1.2 or 0.8, plus an odd number; children of odd parents differ."""

    @dataclass
    class Wide(jepbt.HyperParameters):
        seed: int = jepbt.hparam(7, min=0, max=2**31 - 2)
        small: int = jepbt.hparam(7, min=0, max=2**31 - 2)

    parents = Wide(jnp.full(NUM, 2**30 + 1), jnp.full(NUM, 5))
    children = perturb(resample=0.0)(key, parents)
    assert set(np.unique(children.small)) == {4, 6}
    for seed in np.unique(children.seed).tolist():
        expected = round((2**30 + 1) * (1.2 if seed > 2**30 else 0.8))
        assert abs(seed - expected) < 64 and seed % 2 == 1
    for mutate in (gaussian(), perturb(resample=1.0)):
        assert abs(np.mean(mutate(key, parents).seed % 2) - 0.5) < 0.04
    crossed = uniform()(key, parents, jnp.ones(NUM, bool))
    assert (crossed.seed == 2**30 + 1).all()


def test_perturb_resamples_at_its_rate(key):
    children = perturb(factors=(1.0,), resample=0.25)(key, copies())
    changed = np.asarray(children.rate) != np.float32(0.05)
    np.testing.assert_allclose(changed.mean(), 0.25, atol=0.03)


def test_children_pair_in_the_order_of_their_slots():
    is_child = jnp.array([0, 1, 1, 0, 0, 1, 1, 1], bool)
    partners, pair = pair_children(is_child)
    np.testing.assert_array_equal(partners, [0, 2, 1, 3, 4, 6, 5, 7])
    assert pair[1] == pair[2] != pair[5] == pair[6]


def numbered(num_members):
    numbers = jnp.arange(num_members, dtype=jnp.float32)
    loss = numbers[:, None] + jnp.arange(8.0)[None] * 100
    whole = numbers.astype(jnp.int32)
    return Hyper(numbers, numbers, numbers, whole, whole, numbers, loss)


def test_crossover_swaps_and_loses_nothing(key):
    is_child = jnp.arange(8) >= 3
    crossed = uniform()(key, numbered(8), is_child)
    partners, _ = pair_children(is_child)
    for leaf in jax.tree.leaves(crossed):
        own = np.asarray(leaf).reshape(8, -1) % 100
        slots = np.arange(8)[:, None]
        assert ((own == slots) | (own == np.asarray(partners)[:, None])).all()
        np.testing.assert_array_equal(
            np.sort(own, 0), np.broadcast_to(slots, own.shape)
        )
        np.testing.assert_array_equal(
            own[:3], np.broadcast_to(slots[:3], own[:3].shape)
        )


def test_crossover_swaps_each_value_half_of_the_time_on_its_own():
    keys = jax.random.split(jax.random.key(1), 2_000)
    crossed = jax.vmap(lambda k: uniform()(k, numbered(4), jnp.ones(4, bool)))(keys)
    swapped_rate = np.asarray(crossed.rate)[:, 0] == 1
    swapped_twin = np.asarray(crossed.twin)[:, 0] == 1
    swapped_loss = np.asarray(crossed.loss)[:, 0] % 100 == 1
    np.testing.assert_allclose(swapped_rate.mean(), 0.5, atol=0.04)
    np.testing.assert_allclose(swapped_loss.mean(0), 0.5, atol=0.04)
    assert abs(np.corrcoef(swapped_rate, swapped_twin)[0, 1]) < 0.08
    assert abs(np.corrcoef(swapped_loss.T)[0, 1]) < 0.08
    other_pair = np.asarray(crossed.rate)[:, 2] == 3
    assert abs(np.corrcoef(swapped_rate, other_pair)[0, 1]) < 0.08
