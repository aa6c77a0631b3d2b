"""A loss as a direction: its scale never moves, and all else does."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

import jepbt
from jepbt import taylorglo
from jepbt.hyperparameters import sample_population, spaces
from jepbt.operators import gaussian


@dataclass
class Hyper(jepbt.HyperParameters):
    loss: jepbt.Loss = jepbt.taylor_hparam(sigma=0.1, genome="effective")


@dataclass
class Noisy(jepbt.HyperParameters):
    loss: jepbt.Loss = jepbt.taylor_hparam(noise=0.3, genome="effective")


def numbers(theta):
    """The four numbers that act with one-hot labels, by the formulas of the genome."""
    theta = np.asarray(theta, np.float64)
    _, yy, yyy, xy, xyy, xxy, x0, y0 = np.moveaxis(theta, -1, 0)
    return np.stack(
        [
            2 * yy - 6 * y0 * yyy - 2 * x0 * xyy,
            3 * yyy,
            2 * xyy,
            xy - 2 * y0 * xyy - 2 * x0 * xxy + xxy,
        ],
        -1,
    )


def test_zero_noise_starts_every_member_at_cross_entropys_expansion(key):
    first = sample_population(key, Hyper, 5)
    np.testing.assert_allclose(numbers(first.loss), [[-4, 4, -4, 4]] * 5, rtol=1e-5)


def test_initial_noise_turns_the_direction_and_keeps_the_scale(key):
    first = sample_population(key, Noisy, 2_000)
    c = numbers(first.loss)[1:]
    np.testing.assert_allclose(np.linalg.norm(c, axis=1), 8.0, rtol=1e-5)
    # Noise of 0.3 scales in four directions, before it is projected.
    random = np.random.default_rng(0).normal(size=(100_000, 4))
    drawn = np.array([-4, 4, -4, 4]) / 8 + 0.3 * random
    cosines = drawn @ np.array([-0.5, 0.5, -0.5, 0.5]) / np.linalg.norm(drawn, axis=1)
    expected = np.quantile(cosines, [0.1, 0.5, 0.9])
    measured = np.quantile(c @ np.array([-0.5, 0.5, -0.5, 0.5]) / 8, [0.1, 0.5, 0.9])
    np.testing.assert_allclose(measured, expected, atol=0.02)


def test_one_mutation_moves_by_sigma_scales(key):
    """Across the direction, a step is sigma times the scale in each of three axes."""
    first = sample_population(key, Hyper, 4_000)
    children = gaussian(reset=0.0)(key, first)
    moved = numbers(children.loss) - np.array([-4, 4, -4, 4])
    axis = np.array([1, 1, 0, 0]) / np.sqrt(2)  # at right angles to the seed
    np.testing.assert_allclose((moved @ axis).std(), 0.1 * 8, rtol=0.08)


def test_a_genome_is_replaced_by_its_plainest_twin(key):
    """Another genome with the same gradients: the same four numbers, then the scale."""
    theta = jnp.asarray(taylorglo.EVOLVED_ON_MNIST)[None]
    plain = spaces(Hyper)["loss"].clip(theta)
    before, after = numbers(theta)[0], numbers(plain)[0]
    np.testing.assert_allclose(after, before * 8 / np.linalg.norm(before), rtol=1e-4)
    np.testing.assert_array_equal(plain[0, -2:], [0, 0])


def test_a_direction_of_nothing_falls_back_to_the_seed():
    plain = spaces(Hyper)["loss"].clip(jnp.zeros((1, 8)))
    np.testing.assert_allclose(numbers(plain), [[-4, 4, -4, 4]])
