"""The eight coefficients against the paper's formula, hand arithmetic and gradients."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numerics import enable_x64, softmax

from jepbt import taylorglo
from jepbt.losses.taylorglo import (
    CROSS_ENTROPY_EXPANSION,
    EVOLVED_EARLIER,
    EVOLVED_ON_MNIST,
)


def random_genomes(shape=(), scale=1.2, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(0, scale, (*shape, 8)).astype(dtype)


def random_examples(num_examples, num_classes, seed=0):
    """Returns float64 logits, one-hot labels and soft labels."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (num_examples, num_classes))
    one_hot = np.eye(num_classes)[rng.integers(0, num_classes, num_examples)]
    soft = rng.dirichlet(np.ones(num_classes), num_examples)
    return logits, one_hot, soft


def loss_by_formula(t, labels, probs):
    """The paper's formula, for one example, as printed: t0 to t7, mean over classes."""
    total = 0.0
    for x, y in zip(labels, probs, strict=True):
        total += (
            t[2] * (y - t[1])
            + 1 / 2 * t[3] * (y - t[1]) ** 2
            + 1 / 6 * t[4] * (y - t[1]) ** 3
            + t[5] * (x - t[0]) * (y - t[1])
            + 1 / 2 * t[6] * (x - t[0]) * (y - t[1]) ** 2
            + 1 / 2 * t[7] * (x - t[0]) ** 2 * (y - t[1])
        )
    return -total / len(labels)


def loss_by_code(theta, labels, probs):
    """The published code's convention, for one example: sum, no factorials."""
    total = 0.0
    for label, prob in zip(labels, probs, strict=True):
        x, y = label - theta[6], prob - theta[7]
        terms = [y, y * y, y * y * y, x * y, x * y * y, x * x * y]
        total += sum(a * term for a, term in zip(theta[:6], terms, strict=True))
    return -total


def descent_by_hand(theta, labels, logits):
    """Minus the gradient by the logits, in closed form, with c1 left out."""
    _, a_yy, a_yyy, a_xy, a_xyy, a_xxy, x0, y0 = theta
    ch = 2 * a_yy - 6 * y0 * a_yyy - 2 * x0 * a_xyy
    cx = a_xy - 2 * y0 * a_xyy - 2 * x0 * a_xxy
    x, y = labels, softmax(logits)
    slope = ch * y + 3 * a_yyy * y**2 + 2 * a_xyy * x * y + cx * x + a_xxy * x**2
    return y * (slope - np.sum(y * slope, axis=-1, keepdims=True))


def loss_of_logits(theta, labels, logits):
    return jnp.sum(taylorglo.taylor_loss(theta, labels, jax.nn.softmax(logits)))


loss_gradient = jax.jit(jax.grad(loss_of_logits, argnums=2))


# ---- The loss and its two conventions


@pytest.mark.parametrize("num_classes", [2, 3, 10])
@pytest.mark.parametrize("kind", ["one_hot", "soft"])
def test_loss_is_the_published_codes_polynomial(num_classes, kind):
    logits, one_hot, soft = random_examples(5, num_classes)
    labels = one_hot if kind == "one_hot" else soft
    probs = softmax(logits)
    theta = random_genomes(dtype=np.float64)
    expected = [loss_by_code(theta, *pair) for pair in zip(labels, probs, strict=True)]
    with enable_x64(True):
        actual = taylorglo.taylor_loss(theta, jnp.array(labels), jnp.array(probs))
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_converted_formula_is_the_same_loss(num_classes):
    """from_formula carries the factorials, the order and the mean over classes."""
    logits, labels, _ = random_examples(5, num_classes)
    probs = softmax(logits)
    t = random_genomes(seed=1, dtype=np.float64)
    theta = taylorglo.from_formula(t, num_classes)
    expected = [loss_by_formula(t, *pair) for pair in zip(labels, probs, strict=True)]
    with enable_x64(True):
        actual = taylorglo.taylor_loss(theta, jnp.array(labels), jnp.array(probs))
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


def test_expansion_is_cross_entropys_taylor_series():
    """Near (0.5, 0.5) it differs from x log y by a constant in y and fourth order."""
    step = 0.01
    for x in (0.5, 0.5 + step):
        difference = []
        for y in (0.5, 0.5 + step):
            theta = CROSS_ENTROPY_EXPANSION.astype(float)
            difference.append(loss_by_code(theta, [x], [y]) + x * np.log(y))
        assert abs(difference[1] - difference[0]) < 5 * step**4


@pytest.mark.parametrize("shape", [(), (5,), (2, 3)])
@pytest.mark.parametrize("module", [np, jnp])
def test_conversion_keeps_shape_and_kind_of_array(shape, module):
    t = module.asarray(random_genomes(shape))
    theta = taylorglo.from_formula(t, num_classes=7)
    assert isinstance(theta, module.ndarray)
    assert theta.dtype == np.float32 and theta.shape == t.shape


# ---- Effective coefficients and the gradient


@pytest.mark.parametrize("kind", ["one_hot", "soft"])
@pytest.mark.parametrize("num_classes", [2, 10])
def test_gradient_is_the_closed_form_of_the_effective_coefficients(kind, num_classes):
    logits, one_hot, soft = random_examples(20, num_classes)
    labels = one_hot if kind == "one_hot" else soft
    known = [CROSS_ENTROPY_EXPANSION, EVOLVED_ON_MNIST, EVOLVED_EARLIER]
    for theta in [*random_genomes((10,), dtype=np.float64), *known]:
        theta = theta.astype(np.float64)
        with enable_x64(True):
            actual = loss_gradient(theta, jnp.array(labels), jnp.array(logits))
        expected = -descent_by_hand(theta, labels, logits)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-9)


def test_attraction_is_the_pull_on_the_true_logit_near_zero_error():
    """At an error of e the true logit descends by e times the attraction."""
    error, theta = 1e-6, EVOLVED_EARLIER.astype(np.float64)
    logits = np.log([1 - error, error])
    with enable_x64(True):
        gradient = loss_gradient(theta, jnp.array([1.0, 0.0]), jnp.array(logits))
    np.testing.assert_allclose(-float(gradient[0]) / error, -9.2, atol=0.05)


def test_expansion_learns_a_third_as_fast_as_cross_entropy_from_uniform():
    labels, logits = jax.nn.one_hot(3, 10), jnp.zeros(10)
    cross_entropy = jax.grad(lambda z: -jnp.sum(labels * jax.nn.log_softmax(z)))
    expansion = loss_gradient(CROSS_ENTROPY_EXPANSION, labels, logits)
    np.testing.assert_allclose(cross_entropy(logits)[3], -0.90, atol=1e-3)
    np.testing.assert_allclose(expansion[3], -0.324, atol=1e-5)


# ---- Trainability and repair


@pytest.mark.parametrize("num_classes", [2, 10, 100])
def test_trainable_is_what_raises_the_true_logit_of_uniform_outputs(num_classes):
    genomes = random_genomes((1_000,), dtype=np.float64)
    with enable_x64(True):
        labels, logits = jax.nn.one_hot(1, num_classes), jnp.zeros(num_classes)
        gradients = jax.vmap(loss_gradient, (0, None, None))(genomes, labels, logits)
        descent = -np.asarray(gradients)[:, 1]
    np.testing.assert_array_equal(
        (taylorglo.margin(genomes, num_classes) > 0), descent > 0
    )
    np.testing.assert_allclose(
        taylorglo.margin(genomes, num_classes) * (num_classes - 1) / num_classes**2,
        descent,
        atol=1e-12,
    )


@pytest.mark.parametrize("num_classes", [2, 10, 100])
def test_half_of_random_genomes_cannot_train_and_repair_helps_all(num_classes):
    genomes = random_genomes((1_000,))
    failed = 1 - np.mean(taylorglo.margin(genomes, num_classes) > 0)
    assert 0.45 < failed < 0.55
    repaired = taylorglo.repair(genomes, num_classes)
    assert np.all(taylorglo.margin(repaired, num_classes) > 0)


def test_repair_adds_what_the_margin_lacks_to_xy_alone():
    """Genome one: margin -3 + 2(1/10 - 0) = -2.8, so 2.9 is missing."""
    low = np.array([9.0, 9, 9, -3, 1, 0, 9, 0], np.float32)
    expected = low + 2.9 * np.eye(8, dtype=np.float32)[3]
    repaired = taylorglo.repair(low, num_classes=10)
    np.testing.assert_allclose(repaired, expected, rtol=1e-6)
    np.testing.assert_array_equal(np.delete(repaired, 3), np.delete(low, 3))
    np.testing.assert_allclose(taylorglo.margin(repaired, 10), 0.1, rtol=1e-5)


def test_repair_leaves_genomes_above_its_target_alone():
    genomes = random_genomes((1_000,))
    good = np.asarray(taylorglo.margin(genomes, 10)) >= 0.1
    repaired = np.asarray(taylorglo.repair(genomes, 10))
    assert 400 < good.sum() < 600
    np.testing.assert_array_equal(repaired[good], genomes[good])
    assert np.all(repaired[~good, 3] > genomes[~good, 3])


@pytest.mark.parametrize("scale", [1e-3, 1.2, 30.0, 1e4, 1e12])
def test_repairing_twice_changes_no_bit_even_across_programs(scale):
    """Compiled, batched and plain repair round differently; none undoes another."""
    genomes = random_genomes((2_000,), scale)

    def one_by_one(genomes):
        return jax.vmap(lambda theta: taylorglo.repair(theta, 10))(genomes)

    def plain(genomes):
        return taylorglo.repair(genomes, 10)

    repairs = [plain, jax.jit(plain), jax.jit(one_by_one)]
    for first in repairs:
        once = np.asarray(first(genomes))
        for second in repairs:
            np.testing.assert_array_equal(second(once), once)


def test_repair_does_not_depend_on_which_program_rounds_the_margin():
    """One unit in the last place below its target, a coefficient stays."""
    repaired = np.array(taylorglo.repair(random_genomes((1_000,)), 10))
    repaired[:, 3] = np.nextafter(repaired[:, 3], np.float32(-np.inf))
    np.testing.assert_array_equal(taylorglo.repair(repaired, 10), repaired)


def test_repair_passes_failed_genomes_on():
    theta = np.full(8, np.nan, np.float32)
    assert np.all(np.isnan(taylorglo.repair(theta, 10)))
    assert not (taylorglo.margin(theta, 10) > 0)
    theta = np.where(np.arange(8) == 3, np.nan, CROSS_ENTROPY_EXPANSION)
    np.testing.assert_array_equal(taylorglo.repair(theta, 10), theta)


# ---- One genome, a population, populations of populations


@pytest.mark.parametrize(
    "function",
    [
        taylorglo.effective,
        taylorglo.attraction,
        lambda theta: taylorglo.margin(theta, 10),
        lambda theta: taylorglo.repair(theta, 10),
        lambda theta: taylorglo.from_formula(theta, 10),
    ],
    ids=["effective", "attraction", "margin", "repair", "from_formula"],
)
def test_leading_axes_vmap_and_jit_agree_with_one_genome_at_a_time(function):
    genomes = jnp.asarray(random_genomes((6,)))
    members = [function(theta) for theta in genomes]
    separate = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    two_by_three = function(genomes.reshape(2, 3, 8))
    batched = {
        "axes": jax.tree.map(lambda a: a.reshape(6, *a.shape[2:]), two_by_three),
        "jit": jax.jit(function)(genomes),
        "vmap": jax.vmap(function)(genomes),
    }
    for name, result in batched.items():
        for leaf, expected in zip(
            *map(jax.tree.leaves, (result, separate)), strict=True
        ):
            assert leaf.dtype == expected.dtype
            np.testing.assert_allclose(leaf, expected, 1e-5, 1e-5, err_msg=name)


# ---- Words


def evaluate(description, x, y):
    """Reads the text back as arithmetic."""
    body = re.fullmatch(r"-sum\[ (.*) \]", description)[1].replace("^", "**")
    body = re.sub(r"(?<=[\w).])\s*(?=[(xy])", "*", body)
    return -eval(body, {"x": x, "y": y})


@pytest.mark.parametrize("seed", range(5))
def test_description_read_as_arithmetic_is_the_loss(seed):
    theta = random_genomes(seed=seed, dtype=np.float64).round(2)
    description = taylorglo.describe(theta)
    for x, y in [(0.0, 0.2), (1.0, 0.9), (0.3, 0.5)]:
        expected = loss_by_code(theta, [x], [y])
        assert evaluate(description, x, y) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    "theta, expected",
    [
        ([1.61, -0.74, 0, 0, 0, 0, 0, 0.97], "-sum[ 1.61 (y-.97) - .74 (y-.97)^2 ]"),
        ([0, 0, 0, -1, 0, 0.5, 0, 0], "-sum[ -xy + .5 x^2 y ]"),
        ([0, 0, 0, 0, 2, 0, -1.25, 0.5], "-sum[ 2 (x+1.25)(y-.5)^2 ]"),
        ([1e-5, 3, 0, 0, 0, 0, 0, 0], "-sum[ 3 y^2 ]"),
        ([2e-6, 1e-5, 0, 0, 0, 0, 0, 0], "-sum[ 2e-06 y + 1e-05 y^2 ]"),
        ([0, 0, 0, 0, 0, 0, 0.5, 0.5], "-sum[ 0 ]"),
        ([np.nan, 0, 0, 0, 0, 0, 0, 0], "-sum[ nan y ]"),
    ],
)
def test_description_reads_as_written_by_hand(theta, expected):
    assert taylorglo.describe(np.array(theta)) == expected
    assert taylorglo.describe(jnp.array(theta)) == expected


@pytest.mark.parametrize(
    "value, expected",
    [
        (-3.2, "pushes back from zero error (attraction -3.2)"),
        (1.2, "pulls on to zero error (attraction +1.2)"),
        (0.0, "neutral at zero error (attraction 0.0)"),
        (-0.04, "neutral at zero error (attraction 0.0)"),
        (0.04, "neutral at zero error (attraction 0.0)"),
        (np.nan, "undefined at zero error (attraction nan)"),
    ],
)
def test_attraction_in_words(value, expected):
    theta = value * np.eye(8)[3]  # cx alone
    if np.isnan(value):
        theta = np.full(8, np.nan)
    assert taylorglo.describe_attraction(theta) == expected


# ---- Errors


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: taylorglo.effective(np.zeros(6)), r"theta has shape \(6,\), expected"),
        (lambda: taylorglo.from_formula(np.zeros(7), 10), r"t has shape \(7,\)"),
        (lambda: taylorglo.repair(np.zeros(8, int), 10), "theta has dtype int64"),
        (
            lambda: taylorglo.margin(np.zeros(8), 1),
            "num_classes=1 must be .* from 2 up",
        ),
        (
            lambda: taylorglo.repair(np.zeros(8), 10.0),
            "num_classes=10.0 must be a whole",
        ),
        (
            lambda: taylorglo.from_formula(np.zeros(8), 0),
            "num_classes=0 must .* from 1 up",
        ),
        (lambda: taylorglo.describe(np.zeros((2, 8))), r"\(2, 8\), expected \(8,\)"),
        (
            lambda: taylorglo.taylor_loss(np.zeros(8), np.zeros(4), np.zeros((4, 10))),
            r"labels have shape \(4,\) and probs \(4, 10\); .* jax.nn.one_hot",
        ),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
