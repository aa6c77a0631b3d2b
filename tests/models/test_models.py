"""Models of every kind behave alike: pure, batchable, a mask for each member."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from jax.sharding import Mesh, PartitionSpec
from numerics import jit

from jepbt import nn
from jepbt.models import CNN, MLP, Model, as_model

IMAGES = np.random.default_rng(0).normal(size=(6, 8, 8, 1)).astype(np.float32)
LABELS = np.arange(6) % 3
HPARAMS = SimpleNamespace(dropout=0.5)


class LinenNet(linen.Module):
    """Batch norm, and linen's own dropout at a fixed rate."""

    rate: float = 0.5

    @linen.compact
    def __call__(self, images, train):
        x = linen.Conv(4, (3, 3))(images)
        x = linen.relu(linen.BatchNorm(momentum=0.9)(x, use_running_average=not train))
        x = linen.Dropout(self.rate, deterministic=not train)(x)
        return linen.Dense(3)(x.mean((1, 2)))


class LinenTraced(linen.Module):
    """A dropout rate that evolves."""

    @linen.compact
    def __call__(self, images, *, hparams, train):
        x = linen.relu(linen.Dense(16)(images.reshape(images.shape[0], -1)))
        key = self.make_rng("dropout")
        x = nn.dropout(key, x, hparams.dropout, train=train)
        return linen.Dense(3)(x)


class NnxNet(nnx.Module):
    """Batch norm, and nnx's own dropout at a fixed rate."""

    def __init__(self, *, rate=0.5, rngs):
        self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(rate, rngs=rngs)
        self.second_dropout = nnx.Dropout(rate, rngs=rngs)
        self.dense = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, images):
        x = nnx.relu(self.norm(self.conv(images)))
        x = self.second_dropout(self.dropout(x))
        return self.dense(x.mean((1, 2)))


class NnxTraced(nnx.Module):
    """A dropout rate that evolves; the table is drawn once and is no Variable."""

    def __init__(self, *, rngs):
        self.table = jax.random.normal(rngs.params(), (1, 64))
        self.hidden = nnx.Linear(64, 16, rngs=rngs)
        self.head = nnx.Linear(16, 3, rngs=rngs)
        self.rngs = rngs

    def __call__(self, images, *, hparams, train):
        x = self.table * images.reshape(images.shape[0], -1)
        x = nnx.relu(self.hidden(x))
        key = self.rngs.dropout()
        x = nn.dropout(key, x, hparams.dropout, train=train)
        return self.head(x)


MODELS = {
    "cnn": lambda: as_model(CNN(num_classes=3, dropout=lambda h: h.dropout)),
    "mlp": lambda: as_model(MLP(num_classes=3, hidden=(16, 16), dropout=0.5)),
    "linen": lambda: as_model(LinenNet()),
    "linen, traced rate": lambda: as_model(LinenTraced()),
    "nnx": lambda: as_model(lambda rngs: NnxNet(rngs=rngs)),
    "nnx, traced rate": lambda: as_model(NnxTraced),
}
WITH_STATISTICS = ("linen", "nnx")


@pytest.fixture(autouse=True)
def _flax_promotes_ranks():
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(params=MODELS)
def name(request):
    return request.param


@functools.cache
def model_and_member(name):
    model = MODELS[name]()
    init = jit(lambda key: model.init(key, IMAGES, HPARAMS))
    return model, init(jax.random.key(0))


def objective(model, params, variables, key, hparams):
    logits, variables = model.apply(
        key, params, variables, hparams, jnp.asarray(IMAGES), train=True
    )
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, LABELS)
    return jnp.mean(losses), variables


def train(model, key, rate, num_steps=5):
    """Trains one member by SGD with momentum, in one scan."""
    hparams = SimpleNamespace(dropout=rate)
    init_key, step_key = jax.random.split(key)
    params, variables = model.init(init_key, jnp.asarray(IMAGES), hparams)
    optimizer = optax.sgd(0.02, momentum=0.9)

    def step(carry, key):
        params, variables, opt_state = carry
        by_params = jax.value_and_grad(objective, argnums=1, has_aux=True)
        (loss, variables), grads = by_params(model, params, variables, key, hparams)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), variables, opt_state), loss

    carry = params, variables, optimizer.init(params)
    keys = jax.random.split(step_key, num_steps)
    (params, variables, _), losses = jax.lax.scan(step, carry, keys)
    return params, variables, losses


def assert_trees_close(actual, expected, **tolerance):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, **tolerance)


KEYS = np.arange(4)
RATES = np.array([0.0, 0.2, 0.4, 0.6], np.float32)


@functools.cache
def trained_alone(name):
    """Params, variables and losses of four members, trained by one call each."""
    alone = jit(functools.partial(train, MODELS[name]()))
    members = [
        alone(jax.random.key(k), rate) for k, rate in zip(KEYS, RATES, strict=True)
    ]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *members)


def member_of(name):
    model = MODELS[name]()
    return lambda seed, rate: train(model, jax.random.key(seed), rate)


def test_batched_members_train_like_separate_ones(name):
    together = jit(jax.vmap(member_of(name)))(KEYS, RATES)
    assert_trees_close(together, trained_alone(name), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["cnn", "linen", "nnx"])
@pytest.mark.devices(4)
def test_members_spread_over_devices_train_like_separate_ones(name):
    def share(seeds, rates):
        # One at a time: jax 0.7.2 cannot batch the gradient of lax's convolution here.
        return jax.lax.map(lambda each: member_of(name)(*each), (seeds, rates))

    mesh, spec = Mesh(np.array(jax.devices()[:4]), ("population",)), PartitionSpec
    spread = jax.shard_map(
        share,
        mesh=mesh,
        in_specs=spec("population"),
        out_specs=spec("population"),
        check_vma=False,
    )
    together = jit(spread)(KEYS, RATES)
    assert_trees_close(together, trained_alone(name), rtol=1e-3, atol=1e-5)


def test_weights_are_plain_nested_dictionaries(name):
    def check(tree):
        assert type(tree) is dict or isinstance(tree, jax.Array)
        if isinstance(tree, dict):
            for branch in tree.values():
                check(branch)

    _, member = model_and_member(name)
    for tree in member:
        check(tree)


@functools.cache
def compiled_apply(name, train):
    model, member = model_and_member(name)

    def apply(key, rate):
        hparams = SimpleNamespace(dropout=rate)
        return model.apply(key, *member, hparams, jnp.asarray(IMAGES), train=train)

    return jit(apply)


def apply(name, key, *, train, rate=0.5):
    return compiled_apply(name, train)(key, rate)


def test_one_key_is_one_mask_and_two_keys_are_two(name):
    keys = jax.random.split(jax.random.key(3), 2)
    first, same, other = (apply(name, keys[i], train=True)[0] for i in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert (np.abs(first - other) > 1e-6).any(axis=1).all()


def test_evaluation_depends_on_no_key_and_changes_nothing(name):
    keys = jax.random.split(jax.random.key(3), 2)
    (first, variables), (second, _) = (apply(name, k, train=False) for k in keys)
    np.testing.assert_array_equal(first, second)
    assert_trees_close(variables, model_and_member(name)[1][1], rtol=0)


@pytest.mark.parametrize("name", WITH_STATISTICS)
def test_batch_statistics_follow_the_batch_in_training(name):
    """After one step the running mean is 0.9 * 0 + 0.1 * the batch's mean."""
    _, (params, variables) = model_and_member(name)
    _, changed = apply(name, jax.random.key(0), train=True)
    kernel = jax.tree.leaves(params["Conv_0" if name == "linen" else "conv"])[1]
    convolved = jax.lax.conv_general_dilated(
        IMAGES, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    assert jax.tree.structure(changed) == jax.tree.structure(variables)
    mean = jax.tree.leaves(changed)[0]
    np.testing.assert_allclose(mean, 0.1 * convolved.mean((0, 1, 2)), atol=1e-6)


@pytest.mark.parametrize("name", ["cnn", "linen, traced rate", "nnx, traced rate"])
def test_traced_rate_is_the_members_own(name):
    """A rate of 0 leaves training as deterministic as evaluation; 0.5 does not."""
    key = jax.random.key(0)
    evaluated, _ = apply(name, key, train=False)
    undropped, dropped = (apply(name, key, train=True, rate=r)[0] for r in (0.0, 0.5))
    np.testing.assert_allclose(undropped, evaluated, atol=1e-5)
    assert (np.abs(dropped - evaluated) > 1e-3).any()


def gradient(model, params, variables, key):
    @jit
    def differentiate(params, variables):
        by_params = jax.grad(objective, argnums=1, has_aux=True)
        return by_params(model, params, variables, key, None)

    return differentiate(params, variables)


def test_linen_gradient_is_plain_flaxs(key):
    module = LinenNet(rate=0.0)
    model = as_model(module)
    params, variables = model.init(key, IMAGES)

    def plain(params):
        logits, updated = module.apply(
            {"params": params, **variables}, IMAGES, train=True, mutable=["batch_stats"]
        )
        log_probs = jax.nn.log_softmax(logits)
        return -jnp.mean(log_probs[np.arange(6), LABELS]), updated

    expected, updated = jit(jax.grad(plain, has_aux=True))(params)
    actual, changed = gradient(model, params, variables, key)
    # The bias before batch norm has no gradient: what is left of it is rounding.
    assert_trees_close(actual, expected, rtol=1e-5, atol=1e-6)
    assert_trees_close(changed, updated, rtol=1e-6)


def test_nnx_gradient_is_plain_flaxs(key):
    module = NnxNet(rate=0.0, rngs=nnx.Rngs(key))
    model = as_model(lambda rngs: NnxNet(rate=0.0, rngs=rngs))
    params, variables = model.init(key, IMAGES)

    def plain(module):
        log_probs = jax.nn.log_softmax(module(IMAGES))
        return -jnp.mean(log_probs[np.arange(6), LABELS])

    expected = nnx.grad(plain)(module)
    actual, changed = gradient(model, params, variables, key)
    # The bias before batch norm has no gradient: what is left of it is rounding.
    assert_trees_close(actual, nnx.to_pure_dict(expected), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(changed["norm"]["var"], module.norm.var[...], rtol=1e-6)


def test_two_dropout_layers_of_nnx_draw_apart(key):
    """A quarter of the values survives two layers of rate 1/2, half if they agree."""

    class Twice(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Dropout(0.5, rngs=rngs)
            self.second = nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, images):
            return self.second(self.first(images))

    model = as_model(Twice)
    kept, _ = model.apply(key, {}, {}, None, jnp.ones((64, 64)), train=True)
    np.testing.assert_allclose((kept != 0).mean(), 0.25, atol=0.03)


def test_nnx_layers_stacked_by_vmap_draw_apart(key):
    class Stacked(nnx.Module):
        def __init__(self, rngs):
            @nnx.split_rngs(splits=2)
            @nnx.vmap
            def make(rngs):
                return nnx.Dropout(0.5, rngs=rngs)

            self.layers = make(rngs)

        def __call__(self, images):
            return nnx.vmap(lambda layer, x: layer(x), in_axes=(0, None))(
                self.layers, images
            )

    model = as_model(Stacked)
    first, second = model.apply(key, {}, {}, None, jnp.ones((8, 8)), train=True)[0]
    assert (first != second).any()


def test_what_nnx_draws_outside_variables_stays(key):
    """A table that followed the step's key would make every step another network."""
    keys = jax.random.split(key, 2)
    first, second = (
        apply("nnx, traced rate", k, train=True, rate=0.0)[0] for k in keys
    )
    np.testing.assert_array_equal(first, second)


def test_weights_and_statistics_go_back_into_flax_modules(key):
    linen_model = as_model(LinenNet())
    params, variables = later(linen_model.init(key, IMAGES))
    expected, _ = linen_model.apply(key, params, variables, None, IMAGES, train=False)
    actual = LinenNet().apply({"params": params, **variables}, IMAGES, train=False)
    np.testing.assert_array_equal(actual, expected)

    nnx_model = as_model(NnxNet)
    params, variables = later(nnx_model.init(key, IMAGES))
    expected, _ = nnx_model.apply(key, params, variables, None, IMAGES, train=False)
    module = NnxNet(rngs=nnx.Rngs(7))
    nnx.update(module, params)
    nnx.update(module, variables)
    module.eval()
    np.testing.assert_allclose(module(IMAGES), expected, rtol=1e-5, atol=1e-6)


def later(member):
    """A member whose weights and statistics are no longer those of any `init`."""
    return jax.tree.map(lambda leaf: leaf + 0.5, member)


@pytest.mark.parametrize(
    ("setting", "in_training"),
    [
        ("train", True),
        ("training", True),
        ("is_training", True),
        ("deterministic", False),
        ("use_running_average", False),
    ],
)
@pytest.mark.parametrize("base", [linen.Module, nnx.Module])
def test_modules_get_the_settings_they_name(base, setting, in_training, key):
    scope = {}
    exec(
        f"def __call__(self, x, *, hparams, {setting}): return {setting}, hparams",
        scope,
    )
    module = type("Net", (base,), {"__call__": scope["__call__"]})
    model = as_model(module() if base is linen.Module else lambda rngs: module())
    for train in (True, False):
        (got, hparams), _ = model.apply(key, {}, {}, HPARAMS, IMAGES, train=train)
        assert got is (in_training if train else not in_training)
        assert hparams is HPARAMS


def test_any_name_of_a_linen_random_stream_has_a_key(key):
    class Noisy(linen.Module):
        @linen.compact
        def __call__(self, images):
            names = ("dropout", "noise", "mixup")
            return [jax.random.normal(self.make_rng(name), (4,)) for name in names]

    model = as_model(Noisy())
    params, variables = model.init(key, IMAGES)
    draws, _ = model.apply(key, params, variables, None, IMAGES, train=True)
    assert len(np.unique(np.stack(draws))) == 12


def test_linen_keeps_its_state_when_it_sows(key):
    class Sowing(linen.Module):
        @linen.compact
        def __call__(self, images):
            self.sow("intermediates", "images", images)
            return linen.Dense(3)(images.reshape(images.shape[0], -1))

    model = as_model(Sowing())
    params, variables = model.init(key, IMAGES)
    _, after = model.apply(key, params, variables, None, IMAGES, train=True)
    assert variables == after == {}


def test_nnx_keeps_its_state_when_it_stores_intermediates(key):
    class Storing(nnx.Module):
        def __init__(self, rngs):
            self.dense = nnx.Linear(64, 3, rngs=rngs)

        def __call__(self, images):
            self.hidden = nnx.Intermediate(images)
            return self.dense(images.reshape(images.shape[0], -1))

    model = as_model(Storing)
    params, variables = model.init(key, IMAGES)
    _, after = model.apply(key, params, variables, None, IMAGES, train=True)
    assert variables == after == {}


def test_linen_that_reads_hyperparameters_at_init_says_so(key):
    with pytest.raises(
        ValueError, match=r"LinenTraced reads a hyperparameter.*hparams"
    ):
        as_model(LinenTraced()).init(key, IMAGES)


def test_partials_build_nnx_modules(key):
    model = as_model(functools.partial(NnxNet, rate=0.0))
    params, variables = model.init(key, IMAGES)
    assert model.apply(key, params, variables, None, IMAGES, train=True)[0].shape == (
        6,
        3,
    )


def test_models_and_pairs_pass():
    def init(key, images):
        return {"w": jnp.ones(())}, {}

    def apply(key, params, variables, hparams, images, *, train):
        return params["w"] * images, variables

    adapted = as_model((init, apply))
    assert isinstance(adapted, Model)
    assert as_model(adapted) == adapted
    assert adapted.init(None, None, HPARAMS)[0]["w"] == 1


class ReferenceCNN(linen.Module):
    """The architecture that CNN documents, in flax's words."""

    @linen.compact
    def __call__(self, x):
        for name, features in (("conv1", 16), ("conv2", 32)):
            x = linen.Conv(features, (3, 3), padding="SAME", name=name)(x)
            x = linen.relu(linen.max_pool(x, (2, 2), strides=(2, 2)))
        x = linen.relu(linen.Dense(64, name="dense1")(x.reshape(x.shape[0], -1)))
        return linen.Dense(10, name="dense2")(x)


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3), (5, 7, 2), (4, 4, 1)])
def test_cnn_is_the_documented_network(shape, key):
    images = jax.random.normal(key, (3, *shape))

    @jit
    def both(key):
        variables = CNN().init(key, images)
        variables = jax.tree.map(lambda leaf: leaf + 0.01, variables)  # biases too
        return [model.apply(variables, images) for model in (CNN(), ReferenceCNN())]

    logits, expected = both(key)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["cnn", "mlp"])
def test_own_models_promote_no_ranks(name):
    with jax.numpy_rank_promotion("raise"):
        jax.eval_shape(member_of(name), KEYS[0], RATES[0])


@pytest.mark.parametrize("model", [CNN(), MLP(hidden=(256, 256, 256))])
def test_first_logits_have_the_scale_of_the_images(model, key):
    """He initialisation keeps the variance, about, through every ReLU layer."""

    @jit
    def deviation(key):
        images = jax.random.normal(key, (64, 28, 28, 1))
        return model.apply(model.init(key, images), images).std()

    assert 0.5 < deviation(key) < 3


def test_members_start_apart(name):
    model = MODELS[name]()
    init = jit(lambda key: model.init(key, jnp.asarray(IMAGES), HPARAMS)[0])
    weights = [jax.tree.leaves(init(jax.random.key(seed))) for seed in (0, 1)]
    assert any((a != b).any() for a, b in zip(*weights, strict=True))


def test_layers_of_one_size_start_apart(key):
    params = MLP(num_classes=64, hidden=(64, 64)).init(key, IMAGES)["params"]
    kernels = [np.ravel(layer["kernel"]) for layer in params.values()]
    np.testing.assert_allclose(np.corrcoef(kernels), np.eye(3), atol=0.06)


@pytest.mark.parametrize("hidden", [(), (5,), (7, 5)])
def test_mlp_is_the_written_out_formula(hidden, key):
    model = MLP(num_classes=2, hidden=hidden)
    params = model.init(key, IMAGES)["params"]
    x = IMAGES.reshape(6, 64).astype(np.float64)
    for i in range(len(hidden)):
        layer = params[f"dense{i + 1}"]
        x = np.maximum(x @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"]), 0)
    head = params[f"dense{len(hidden) + 1}"]
    expected = x @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
    logits = model.apply({"params": params}, IMAGES)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_layers_of_an_mlp_drop_apart(key):
    """Through two layers of rate 1/2 a quarter survives, half if their masks agree."""
    identity = {"kernel": jnp.eye(64), "bias": jnp.zeros(64)}
    params = {f"dense{i}": identity for i in (1, 2, 3)}
    model = MLP(num_classes=64, hidden=(64, 64), dropout=0.5)
    ones, rngs = jnp.ones((64, 64)), {"dropout": key}
    kept = model.apply({"params": params}, ones, train=True, rngs=rngs)
    np.testing.assert_allclose((kept != 0).mean(), 0.25, atol=0.03)


@pytest.mark.parametrize("shape", [(2, 28, 28), (2, 3, 28, 1), (2, 28, 3, 1), (2, 784)])
def test_cnn_refuses_other_shapes_of_images(shape, key):
    with pytest.raises(ValueError, match=r"at least 4x4 pixels.*got shape \(2, "):
        CNN().init(key, jnp.zeros(shape))


def test_mlp_refuses_single_numbers(key):
    with pytest.raises(ValueError, match=r"got shape \(5,\)"):
        MLP().init(key, jnp.zeros(5))
