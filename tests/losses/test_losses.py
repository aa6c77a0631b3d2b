"""Every loss against its formula in float64 NumPy, and one contract for all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numerics import enable_x64, softmax

from jepbt import losses, taylorglo


def cross_entropy_formula(logits, labels):
    return -np.sum(labels * np.log(softmax(logits)), axis=-1)


def brier_formula(logits, labels):
    return np.sum((softmax(logits) - labels) ** 2, axis=-1)


def taylor_formula(theta, logits, labels):
    x, y = labels - theta[6], softmax(logits) - theta[7]
    terms = [y, y**2, y**3, x * y, x * y**2, x**2 * y]
    return -sum(a * np.sum(t, axis=-1) for a, t in zip(theta[:6], terms, strict=True))


def generalized_formula(q, logits, labels):
    return np.sum(labels * (1 - softmax(logits) ** q) / q, axis=-1)


def smoothing_formula(alpha, logits, labels):
    log_probs = np.log(softmax(logits))
    smoothed = (1 - alpha) * labels + alpha / labels.shape[-1]
    return -np.sum(smoothed * log_probs, axis=-1)


def focal_formula(gamma, logits, labels):
    p = softmax(logits)
    return -np.sum(labels * (1 - p) ** gamma * np.log(p), axis=-1)


def adjusted_formula(tau, logits, labels):
    """With counts 1, 2, 3, ...: each class's probability weighs as its count."""
    counts = np.arange(1, logits.shape[-1] + 1.0)
    weighted = np.exp(logits) * counts**tau
    shares = weighted / weighted.sum(-1, keepdims=True)
    return -np.sum(labels * np.log(shares), axis=-1)


def neighbours(share, num_classes):
    """The matrix of labels of which a share is that of the next class."""
    own = np.eye(num_classes)
    return (1 - share) * own + share * np.roll(own, 1, axis=1)


def forward_formula(share, logits, labels):
    """One sees of class b its own, less a share, and a share of the class before."""
    p = softmax(logits)
    seen = (1 - share) * p + share * np.roll(p, 1, axis=-1)
    return -np.sum(labels * np.log(seen + 1e-6), axis=-1)


GENOMES = np.stack(
    [
        taylorglo.CROSS_ENTROPY_EXPANSION,
        taylorglo.EVOLVED_ON_MNIST,
        taylorglo.EVOLVED_EARLIER,
    ]
)


def classes(logits):
    return (np.shape(logits) or [2])[-1]


# A new loss is one row: a builder, its formula, the settings of three members.
BUILDERS = {
    "taylor": (losses.taylor, taylor_formula, GENOMES),
    "generalized": (
        losses.generalized_cross_entropy,
        generalized_formula,
        np.array([0.01, 0.7, 1.0], np.float32),
    ),
    "smoothing": (
        losses.label_smoothing,
        smoothing_formula,
        np.array([0.0, 0.1, 0.5], np.float32),
    ),
    "focal": (losses.focal, focal_formula, np.array([0.0, 0.5, 2.0], np.float32)),
    "logit_adjusted": (
        lambda tau: (
            lambda z, y: losses.logit_adjusted(range(1, classes(z) + 1), tau)(z, y)
        ),
        adjusted_formula,
        np.array([0.0, 0.5, 1.0], np.float32),
    ),
    "forward_corrected": (
        lambda share: (
            lambda z, y: losses.forward_corrected(
                jnp.asarray(neighbours(share, max(2, classes(z))))
            )(z, y)
        ),
        forward_formula,
        np.array([0.0, 0.4, 0.9], np.float32),
    ),
    "cross_entropy": (
        lambda _: losses.cross_entropy,
        lambda _, logits, labels: cross_entropy_formula(logits, labels),
        np.zeros(3, np.float32),
    ),
    "brier": (
        lambda _: losses.brier,
        lambda _, logits, labels: brier_formula(logits, labels),
        np.zeros(3, np.float32),
    ),
}
every_loss = pytest.mark.parametrize(
    "build, formula, settings", BUILDERS.values(), ids=BUILDERS.keys()
)


def random_examples(*shape, dtype=np.float64, seed=0):
    """Returns logits, one-hot labels and soft labels, with classes as last axis."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, shape)
    one_hot = np.eye(shape[-1])[rng.integers(0, shape[-1], shape[:-1])]
    soft = rng.dirichlet(np.ones(shape[-1]), shape[:-1])
    return logits.astype(dtype), one_hot.astype(dtype), soft.astype(dtype)


# ---- Contract


@every_loss
@pytest.mark.parametrize("shape", [(3,), (6, 3), (2, 4, 10)])
def test_float64_values_are_the_formulas(build, formula, settings, shape):
    logits, one_hot, soft = random_examples(*shape)
    evaluate = jax.jit(lambda setting, *arrays: build(setting)(*arrays))
    for setting in settings.astype(np.float64):
        for labels in (one_hot, soft):
            with enable_x64(True):
                actual = evaluate(setting, logits, labels)
            expected = formula(setting, logits, labels)
            assert actual.shape == shape[:-1] and actual.dtype == np.float64
            np.testing.assert_allclose(actual, expected, rtol=1e-11, atol=1e-12)


@every_loss
def test_float32_values_are_the_formulas(build, formula, settings):
    logits, labels, _ = random_examples(50, 10, dtype=np.float32)
    evaluate = jax.jit(lambda setting: build(setting)(logits, labels))
    for setting in settings:
        actual = evaluate(setting)
        expected = formula(*(a.astype(float) for a in (setting, logits, labels)))
        assert actual.dtype == np.float32
        # Taylor losses with far centres subtract thousands from thousands.
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@every_loss
def test_population_equals_its_members(build, formula, settings):
    """Under vmap, with a setting each, values and gradients are a member's own."""
    logits, labels, _ = random_examples(3, 8, 5, dtype=np.float32)

    @jax.jit
    def member(setting, logits, labels):
        return jax.value_and_grad(lambda z: jnp.mean(build(setting)(z, labels)))(logits)

    together = jax.jit(jax.vmap(member))(settings, logits, labels)
    for i in range(3):
        value, gradient = member(settings[i], logits[i], labels[i])
        np.testing.assert_allclose(together[0][i], value, rtol=1e-5)
        np.testing.assert_allclose(together[1][i], gradient, rtol=1e-4, atol=1e-5)


@every_loss
def test_new_setting_compiles_nothing(build, formula, settings):
    logits, labels, _ = random_examples(4, 3, dtype=np.float32)
    traces = []

    @jax.jit
    def step(setting):
        traces.append(setting)
        return build(setting)(logits, labels)

    results = [step(setting) for setting in settings]
    assert len(traces) == 1
    assert all(np.all(np.isfinite(result)) for result in results)


@every_loss
@pytest.mark.parametrize("double", [False, True])
def test_extreme_logits_give_finite_values_and_gradients(
    build, formula, settings, double
):
    """Sure and right, sure and wrong, and logits far from 0 altogether."""
    big = 1e4
    rows = [[big, -big, 0], [-big, big, 0], [0, big, big], [-big] * 3, [big] * 3]
    with enable_x64(double):
        logits = jnp.array(rows, float)
        labels = jax.nn.one_hot(jnp.zeros(5, int), 3)

        @jax.jit
        def value_and_pullback(setting):
            values, pullback = jax.vjp(lambda z: build(setting)(z, labels), logits)
            return values, pullback(jnp.ones(5))

        for setting in settings:
            for result in value_and_pullback(setting):
                assert np.all(np.isfinite(result))


@every_loss
@pytest.mark.parametrize(
    "logits, labels, message",
    [
        (
            np.zeros((4, 3), np.float32),
            np.zeros(4, int),
            r"labels have dtype int\d\d, .* jax.nn.one_hot\(labels, 3\)",
        ),
        (
            np.zeros((4, 3), np.float32),
            np.zeros(3, np.float32),
            r"labels have shape \(3,\), expected the logits' \(4, 3\)",
        ),
        (
            np.zeros((4, 1), np.float32),
            np.zeros((4, 1), np.float32),
            r"logits have shape \(4, 1\), .* at least 2 classes: give .* two outputs",
        ),
        (np.float32(0), np.float32(0), r"logits have shape \(\), expected"),
        (
            np.zeros((4, 3), int),
            np.zeros((4, 3), np.float32),
            r"logits have dtype int\d\d, expected floats",
        ),
    ],
)
def test_wrong_inputs_are_named(build, formula, settings, logits, labels, message):
    with pytest.raises(ValueError, match=message):
        build(settings[0])(logits, labels)


# ---- Each loss


@jax.jit
def generalized_and_gradient(q, logits, labels):
    loss_fn = losses.generalized_cross_entropy(q)
    values, pullback = jax.vjp(lambda z: loss_fn(z, labels), logits)
    return values, pullback(jnp.ones_like(values))[0]


@pytest.mark.parametrize("q", [0.0, 1e-30, 1e-7])
def test_generalized_tends_to_cross_entropy(q):
    """Values and gradients, also at exactly 0, where the formula is 0 / 0."""
    logits, labels, _ = random_examples(20, 4, dtype=np.float32)
    values, gradient = generalized_and_gradient(jnp.asarray(q), logits, labels)
    expected = cross_entropy_formula(logits.astype(float), labels.astype(float))
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, softmax(logits) - labels, atol=1e-5)


@pytest.mark.parametrize("q", np.geomspace(1e-6, 1.0, 13))
def test_generalized_is_as_precise_at_any_q(q):
    """On either side of the switch to the series."""
    logits, labels, _ = random_examples(200, 4)
    expected = generalized_formula(q, logits, labels)
    gradient_expected = (softmax(logits) - labels) * np.sum(
        labels * softmax(logits) ** q, axis=-1, keepdims=True
    )
    for double, tolerance in ((False, 2e-6), (True, 1e-8)):
        with enable_x64(double):
            values, gradient = generalized_and_gradient(
                jnp.asarray(q), jnp.array(logits), jnp.array(labels)
            )
            np.testing.assert_allclose(values, expected, rtol=tolerance, atol=tolerance)
            np.testing.assert_allclose(gradient, gradient_expected, atol=tolerance)


def test_generalized_can_be_differentiated_by_q():
    """At 0 the derivative by q of (1 - p^q) / q is -(log p)² / 2."""
    log_p = np.log(0.2)
    logits, labels = jnp.log(jnp.array([0.2, 0.8])), jnp.array([1.0, 0.0])
    slope = jax.jit(
        jax.grad(lambda q: losses.generalized_cross_entropy(q)(logits, labels))
    )
    np.testing.assert_allclose(slope(0.0), -(log_p**2) / 2, rtol=1e-5)
    for q in (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.5, 1.0):
        power = 0.2**q
        expected = -log_p * power / q - (1 - power) / q**2
        np.testing.assert_allclose(slope(q), expected, rtol=1e-4)


@pytest.mark.parametrize("q", [0.0, 0.5, 1.0])
def test_generalized_does_not_overflow_in_the_branch_it_leaves(q):
    """The series of a log-probability of -1e12 is beyond float32."""
    logits, labels = np.float32([[0, 1e12], [1e12, 0]]), np.eye(2, dtype=np.float32)
    values, gradient = generalized_and_gradient(jnp.asarray(q), logits, labels)
    np.testing.assert_allclose(values, 1e12 if q == 0 else 1 / q)
    assert np.all(np.isfinite(gradient))


def test_adjusted_logits_are_at_their_best_where_classes_weigh_alike():
    """The gradient at the classes' own shares is zero for logits that are all equal."""
    counts, labels = np.array([60, 30, 10]), np.repeat(np.eye(3), [60, 30, 10], axis=0)
    loss_fn = losses.logit_adjusted(counts)

    def total(z):
        return jnp.mean(loss_fn(jnp.broadcast_to(z, (100, 3)), jnp.array(labels)))

    np.testing.assert_allclose(jax.grad(total)(jnp.zeros(3)), 0, atol=1e-6)


def test_corrected_loss_is_at_its_best_at_the_true_classes():
    """Labels of one class that are wrong by the matrix leave it that class."""
    transition = np.array([[0.6, 0.3, 0.1], [0.0, 1.0, 0.0], [0.2, 0.2, 0.6]])
    loss_fn = losses.forward_corrected(transition)
    labels = jnp.asarray(transition[0], jnp.float32)  # as they are seen on average
    sure = loss_fn(jnp.array([20.0, 0.0, 0.0]), labels)
    others = [
        loss_fn(jnp.log(jnp.asarray(p)), labels)
        for p in ([0.6, 0.3, 0.1], [0.8, 0.1, 0.1], [0.05, 0.9, 0.05], [0.9, 0.0, 0.1])
    ]
    entropy = -np.sum(transition[0] * np.log(transition[0]))
    np.testing.assert_allclose(sure, entropy, rtol=1e-4)
    assert min(others) > sure


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: losses.focal(-1.0), "gamma=-1.0 must be a number from 0 up"),
        (
            lambda: losses.logit_adjusted([3, 0]),
            r"counts=\[3, 0\] must hold one number above 0 for each class",
        ),
        (
            lambda: losses.logit_adjusted([3, "a"]),
            r"counts=\['3', 'a'\] must hold one number above 0 for each class",
        ),
        (
            lambda: losses.logit_adjusted([3, 1])(jnp.zeros(3), jnp.ones(3) / 3),
            "counts is of 2 classes, the logits are of 3",
        ),
        (
            lambda: losses.forward_corrected(np.ones((2, 3))),
            r"transition must be a matrix \[C, C\] .* got shape \(2, 3\)",
        ),
        (
            lambda: losses.forward_corrected([[1.0, 0.0], [0.5, 0.4]]),
            r"each row sums to one; row 1 is \[0.5, 0.4\], whose sum is 0.9",
        ),
        (
            lambda: losses.forward_corrected(jnp.array([[1.0, 0.0], [0.5, 0.25]])),
            r"each row sums to one; row 1 is \[0.5, 0.25\], whose sum is 0.75",
        ),
        (
            lambda: losses.forward_corrected([[1.5, -0.5], [0.5, 0.5]]),
            r"row 0 is \[1.5, -0.5\]",
        ),
        (
            lambda: losses.forward_corrected(np.eye(2))(jnp.zeros(3), jnp.ones(3) / 3),
            "transition is of 2 classes, the logits are of 3",
        ),
        (
            lambda: jax.eval_shape(
                lambda traced: losses.forward_corrected(traced)(*2 * [jnp.ones(3)]),
                jnp.ones((3, 2)),
            ),
            "transition is of 2 classes, the logits are of 3",
        ),
    ],
)
def test_settings_of_losses_that_fit_no_class_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
