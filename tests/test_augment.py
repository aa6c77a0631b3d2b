"""Augmentations: what they do to a batch, at traced strengths, and at none."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_task import train

import jepbt
from jepbt import augment, losses

rng = np.random.default_rng(0)
IMAGES = rng.normal(size=(64, 7, 9, 2)).astype(np.float32)
IMAGES[0, 0, 0, 0] = -0.0
LABELS = np.eye(4, dtype=np.float32)[np.arange(64) % 4]
BUILDERS = {
    "shift": augment.shift,
    "flip": augment.flip,
    "cutout": augment.cutout,
    "mixup": augment.mixup,
    "brightness": augment.brightness,
    "contrast": augment.contrast,
}


@functools.partial(jax.jit, static_argnums=0)
def applied(name, strength, key):
    """With a traced strength, as in a population."""
    return BUILDERS[name](strength)(key, jnp.asarray(IMAGES), jnp.asarray(LABELS))


@pytest.mark.parametrize("name", BUILDERS)
def test_strength_zero_leaves_every_bit(name, key):
    images, labels = applied(name, 0.0, key)
    np.testing.assert_array_equal(
        np.asarray(images).view(np.uint32), IMAGES.view(np.uint32)
    )
    np.testing.assert_array_equal(labels, LABELS)


@pytest.mark.parametrize("name", BUILDERS)
def test_a_traced_strength_and_a_number_do_the_same(name, key):
    plain = jax.jit(
        lambda key: BUILDERS[name](0.75)(key, jnp.asarray(IMAGES), jnp.asarray(LABELS))
    )
    for got, expected in zip(applied(name, 0.75, key), plain(key), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", BUILDERS)
def test_each_member_has_its_own_strength(name, key):
    """Of three members with one key, that of strength 0 alone sees what was given."""
    strengths = jnp.array([0.0, 0.75, 1.0])
    images, _ = jax.jit(
        jax.vmap(
            lambda strength: BUILDERS[name](strength)(
                key, jnp.asarray(IMAGES), jnp.asarray(LABELS)
            )
        )
    )(strengths)
    changed = (np.asarray(images) != IMAGES).reshape(3, -1).any(1)
    assert changed.tolist() == [False, True, True]


@pytest.mark.parametrize("name", BUILDERS)
def test_bfloat16_images_stay_bfloat16(name, key):
    images = jnp.asarray(IMAGES, jnp.bfloat16)
    out, labels = jax.eval_shape(BUILDERS[name](jnp.float32(0.5)), key, images, LABELS)
    assert (out.dtype, labels.dtype) == (jnp.bfloat16, jnp.float32)


def moved(image, down, right):
    """An image whose content is shifted, the edge repeated: by padding and slicing."""
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="edge")
    height, width, _ = image.shape
    return padded[2 + down : 2 + down + height, 2 + right : 2 + right + width]


def test_shifts_are_crops_of_the_padded_image_and_uniform(key):
    """Rounded from [-2, 2]: of 5 distances the outermost are half as likely."""
    counts = np.zeros((5, 5), int)
    for seed in range(40):
        images, labels = applied("shift", 2.0, jax.random.key(seed))
        np.testing.assert_array_equal(labels, LABELS)
        for before, after in zip(IMAGES, np.asarray(images), strict=True):
            found = [
                (down, right)
                for down in range(5)
                for right in range(5)
                if np.array_equal(moved(before, down - 2, right - 2), after)
            ]
            assert len(found) == 1
            counts[found[0]] += 1
    marginal = np.array([1, 2, 2, 2, 1]) / 8
    expected = np.outer(marginal, marginal)
    np.testing.assert_allclose(counts / counts.sum(), expected, atol=0.02)


def test_flip_mirrors_at_its_rate():
    num_flipped = 0
    for seed in range(40):
        images, _ = applied("flip", 0.3, jax.random.key(seed))
        for before, after in zip(IMAGES, np.asarray(images), strict=True):
            is_flipped = np.array_equal(after, before[:, ::-1])
            assert is_flipped or np.array_equal(after, before)
            num_flipped += is_flipped
    assert abs(num_flipped / (40 * 64) - 0.3) < 0.03


def test_cutout_clears_a_square_with_its_centre_anywhere():
    """On average a square of side 3 covers of a 7x9 image what arithmetic says."""
    covered, places = [], np.zeros((7, 9))
    for seed in range(40):
        images, _ = applied("cutout", 3.0, jax.random.key(seed))
        is_cut = (np.asarray(images) == 0) & (IMAGES != 0)
        np.testing.assert_array_equal(images, np.where(is_cut, 0, IMAGES))
        area = is_cut[..., 1]
        rows, columns = area.any(2), area.any(1)
        np.testing.assert_array_equal(area, rows[:, :, None] & columns[:, None, :])
        assert rows.sum(1).max() == columns.sum(1).max() == 3
        covered.append(area.mean())
        places += area.sum(0)
    # Of a line of n pixels, a square of side s whose centre is uniform covers
    # s - s^2 / 4n pixels on average, up to the rounding to whole ones.
    expected = np.prod([(3 - 9 / (4 * n)) / n for n in (7, 9)])
    np.testing.assert_allclose(np.mean(covered), expected, rtol=0.03)
    assert (places > 0).all()


def test_mixup_mixes_labels_in_the_share_of_the_images(key):
    images, labels = applied("mixup", 0.8, key)
    other = np.roll(LABELS, 1, 0)
    share = (np.asarray(labels) * other).sum(1)  # neighbours' labels differ
    np.testing.assert_allclose(
        labels, (1 - share[:, None]) * LABELS + share[:, None] * other, rtol=1e-6
    )
    weight = share.reshape(-1, 1, 1, 1)
    expected = (1 - weight) * IMAGES + weight * np.roll(IMAGES, 1, 0)
    np.testing.assert_allclose(images, expected, rtol=1e-4, atol=1e-6)
    assert 0 <= share.min() < 0.05 and 0.35 < share.max() <= 0.4
    np.testing.assert_allclose(share.mean(), 0.2, atol=0.05)


def test_brightness_adds_one_number_to_an_image(key):
    images, _ = applied("brightness", 0.5, key)
    added = np.asarray(images) - IMAGES
    assert np.ptp(added, axis=(1, 2, 3)).max() < 1e-5
    added = added.mean((1, 2, 3))
    assert -0.5 <= added.min() < -0.4 and 0.4 < added.max() <= 0.5


def test_contrast_keeps_the_mean_and_scales_the_deviation(key):
    images = np.asarray(applied("contrast", 0.5, key)[0], np.float64)
    np.testing.assert_allclose(
        images.mean((1, 2, 3)), IMAGES.mean((1, 2, 3)), atol=1e-5
    )
    factor = images.std((1, 2, 3)) / IMAGES.astype(np.float64).std((1, 2, 3))
    assert 0.5 <= factor.min() < 0.6 and 1.4 < factor.max() <= 1.5


def test_parts_of_a_chain_draw_apart_and_in_order(key):
    """Two mirrorings of rate 1/2 restore an image half of the time."""
    twice = augment.chain(augment.flip(0.5), augment.flip(0.5))
    images = np.concatenate(
        [twice(k, IMAGES, LABELS)[0] for k in jax.random.split(key)]
    )
    same = (images == np.concatenate([IMAGES, IMAGES])).reshape(128, -1).all(1)
    assert 0.3 < same.mean() < 0.7
    lit = augment.chain(lambda k, x, y: (x + 1, y), lambda k, x, y: (x * 2, y))
    np.testing.assert_array_equal(lit(key, IMAGES, LABELS)[0], (IMAGES + 1) * 2)


@dataclass
class Hyper(jepbt.HyperParameters):
    rate: float = jepbt.hparam(0.05, min=1e-3, max=0.5, log=True)
    shift: float = jepbt.hparam(1.0, min=0.0, max=3.0)


PIXELS = rng.integers(0, 256, (60, 8, 8, 1), np.uint8)
PARTS = {
    "hparams": Hyper,
    "model": jepbt.models.MLP(num_classes=3, hidden=(8,)),
    "loss": lambda h: jepbt.losses.cross_entropy,
    "optimizer": lambda h: optax.sgd(h.rate),
}


def make(**changes):
    return jepbt.classification((PIXELS, np.arange(60) % 3), **(PARTS | changes))


def lowered(step):
    task = make()
    batch = jax.tree.map(lambda leaf: leaf[:16], task.data.train)
    state = task.init(jax.random.key(0), Hyper())
    return jax.jit(step).lower(jax.random.key(1), state, Hyper(), batch, ()).as_text()


def test_no_augmentation_costs_nothing():
    """The program is that of a step which has never heard of augmentation."""
    pixels = make().data.train["image"].astype(np.float64)
    mean, deviation = pixels.mean(), pixels.std()
    network = jepbt.models.as_model(PARTS["model"])

    def train_step(key, state, hparams, batch, shared):
        labels = jax.nn.one_hot(batch["label"], 3)
        scale, add = np.float32([1 / deviation]), np.float32([-mean / deviation])
        images = batch["image"].astype(jnp.float32) * scale.reshape(1, 1, 1, 1)
        images = images + add.reshape(1, 1, 1, 1)

        def objective(params):
            logits, variables = network.apply(
                key, params, state.variables, hparams, images, train=True
            )
            return jnp.mean(losses.cross_entropy(logits, labels)), variables

        by_params = jax.value_and_grad(objective, has_aux=True)
        (loss, variables), gradients = by_params(state.params)
        updates, opt_state = optax.sgd(hparams.rate).update(
            gradients, state.opt_state, state.params
        )
        params = optax.apply_updates(state.params, updates)
        return type(state)(params, opt_state, variables), {"loss": loss}

    expected = lowered(train_step)
    assert lowered(make(augment=None).train_step) == expected
    assert lowered(make(augment=lambda h: augment.flip(0.5)).train_step) != expected


def test_strengths_evolve_and_only_training_is_augmented():
    """An augmentation that wipes every image out leaves evaluation alone."""

    def wipe(key, images, labels):
        return images * 0, labels

    plain = make()
    wiped = make(augment=lambda h: augment.chain(augment.shift(h.shift), wipe))
    state = plain.init(jax.random.key(0), Hyper())
    batch = jax.tree.map(jnp.asarray, plain.data.validation)
    scores = [
        t.evaluate(jax.random.key(0), state, Hyper(), batch, ()) for t in (plain, wiped)
    ]
    np.testing.assert_array_equal(*scores)
    after, _ = wiped.train_step(jax.random.key(0), state, Hyper(), batch, ())
    np.testing.assert_array_equal(  # no light, no gradient
        after.params["dense1"]["kernel"], state.params["dense1"]["kernel"]
    )
    task = make(augment=lambda h: augment.shift(h.shift))
    result = train(task, 4, 2, 2, batch_size=8)
    assert len(np.unique(result.history.hparams["shift"])) > 1
