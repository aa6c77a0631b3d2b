"""Augments batches at strengths that may evolve, a member's own each.

An augmentation is a pure function `(key, images, labels) -> (images, labels)` of a
batch: images `f32[B, H, W, C]`, labels one-hot or soft `f32[B, C]`. At a setting of 0
every augmentation returns its batch unchanged, to the bit. Each builder raises
`ValueError` for a setting that is not a scalar, or is a Python number outside its
range; a traced value cannot be checked.

    augment=lambda h: jepbt.augment.chain(
        jepbt.augment.shift(h.shift),
        jepbt.augment.flip(0.5),
        jepbt.augment.cutout(h.cutout),
    )

Images are augmented as the network sees them. Those given as `uint8` are standardised
by then: 0 is the mean colour and 1 one standard deviation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from jepbt.arguments import check_scalar

Augmentation: TypeAlias = Callable[
    [jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]
]


def chain(*augmentations: Augmentation) -> Augmentation:
    """Applies several augmentations in the order given, each with its own key.

    Args:
        augmentations: functions `(key, images, labels) -> (images, labels)`.

    Raises:
        TypeError: if one of them is not a function.

    Example:
        >>> twice = chain(flip(1.0), flip(1.0))  # there and back
        >>> images = jnp.arange(4.0).reshape(1, 1, 4, 1)
        >>> twice(jax.random.key(0), images, jnp.ones((1, 1)))[0].ravel().tolist()
        [0.0, 1.0, 2.0, 3.0]
    """
    for each in augmentations:
        if not callable(each):
            raise TypeError(
                "augment.chain takes augmentations such as jepbt.augment.flip(0.5), "
                f"got {each!r}."
            )

    def augment(key, images, labels):
        keys = jax.random.split(key, len(augmentations))
        for i, each in enumerate(augmentations):
            images, labels = each(keys[i], images, labels)
        return images, labels

    return augment


def shift(pixels: float | jax.Array) -> Augmentation:
    """Moves every image by a random distance in each direction.

    Both distances are uniform in [-pixels, pixels] and rounded to whole pixels, so that
    below 1/2 nothing moves. The pixels of the edge are repeated to fill the image.

    Args:
        pixels: `f32[]` the largest distance, at least 0.

    Example:
        >>> images = jnp.arange(25.0).reshape(1, 5, 5, 1)
        >>> moved, _ = shift(1.0)(jax.random.key(0), images, jnp.ones((1, 1)))
        >>> bool(jnp.abs(moved[0, 2, 2, 0] - 12) <= 6)  # a neighbour of the middle
        True
    """
    check_scalar("augment.shift", "pixels", pixels, 0)

    def augment(key, images, labels):
        _check_images("shift", images)
        batch, height, width, _ = images.shape
        reach = jax.random.uniform(key, (2, batch, 1), minval=-1.0, maxval=1.0)
        rows, columns = jnp.round(reach * pixels).astype(jnp.int32)
        rows = jnp.clip(jnp.arange(height)[None] + rows, 0, height - 1)
        columns = jnp.clip(jnp.arange(width)[None] + columns, 0, width - 1)
        which = jnp.arange(batch).reshape(-1, 1, 1)
        moved = images.at[which, rows[:, :, None], columns[:, None, :]].get(
            mode="promise_in_bounds"
        )
        return moved, labels

    return augment


def flip(probability: float | jax.Array) -> Augmentation:
    """Mirrors images left to right.

    Args:
        probability: `f32[]` the probability of each image to be mirrored, in [0, 1].

    Example:
        >>> images = jnp.arange(3.0).reshape(1, 1, 3, 1)
        >>> flip(1.0)(jax.random.key(0), images, jnp.ones((1, 1)))[0].ravel().tolist()
        [2.0, 1.0, 0.0]
    """
    check_scalar("augment.flip", "probability", probability, 0, 1)

    def augment(key, images, labels):
        _check_images("flip", images)
        is_flipped = jax.random.uniform(key, (images.shape[0], 1, 1, 1)) < probability
        return jnp.where(is_flipped, images[:, :, ::-1], images), labels

    return augment


def cutout(size: float | jax.Array) -> Augmentation:
    """Sets a square of each image, centred anywhere in it, to 0.

    Args:
        size: `f32[]` the square's side in pixels, at least 0. A square may reach over
            the edge of the image.

    Example:
        >>> images = jnp.ones((1, 8, 8, 1))
        >>> cut, _ = cutout(2.0)(jax.random.key(1), images, jnp.ones((1, 1)))
        >>> int((cut == 0).sum())
        4

    Reference:
        DeVries & Taylor, "Improved Regularization of Convolutional Neural Networks with
        Cutout", 2017, https://arxiv.org/abs/1708.04552
    """
    check_scalar("augment.cutout", "size", size, 0)

    def augment(key, images, labels):
        _check_images("cutout", images)
        batch, height, width, _ = images.shape
        centre = jax.random.uniform(key, (2, batch, 1))

        def is_near(place, length):
            distance = jnp.abs(jnp.arange(length)[None] + 0.5 - place * length)
            return distance < size / 2

        rows, columns = is_near(centre[0], height), is_near(centre[1], width)
        is_cut = rows[:, :, None, None] & columns[:, None, :, None]
        return jnp.where(is_cut, jnp.zeros((), images.dtype), images), labels

    return augment


def mixup(strength: float | jax.Array) -> Augmentation:
    """Mixes every example and its label with another one of the batch.

    Inputs may have any shape `[B, ...]`. The other's share is uniform in [0, strength /
    2], drawn for each example. Strength 1 is the mixup of the paper with its alpha = 1,
    whose larger share is uniform in [1/2, 1]. Labels become soft, which every loss of
    `jepbt.losses` takes.

    Args:
        strength: `f32[]` twice the largest share of the other example, in [0, 1].

    Example:
        >>> labels = jnp.eye(2)
        >>> _, mixed = mixup(1.0)(jax.random.key(0), jnp.zeros((2, 1, 1, 1)), labels)
        >>> bool((mixed.argmax(1) == labels.argmax(1)).all()), mixed.sum(1).tolist()
        (True, [1.0, 1.0])

    Reference:
        Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018,
        https://arxiv.org/abs/1710.09412
    """
    check_scalar("augment.mixup", "strength", strength, 0, 1)

    def augment(key, images, labels):
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise ValueError(
                f"augment.mixup mixes floats, got inputs of {images.dtype}: token ids "
                "cannot be mixed; counts can, as floats."
            )
        share = jax.random.uniform(key, (images.shape[0],)) * strength / 2

        def mix(values):
            weight = share.reshape(-1, *[1] * (values.ndim - 1)).astype(values.dtype)
            mixed = (1 - weight) * values + weight * jnp.roll(values, 1, 0)
            return jnp.where(weight > 0, mixed, values)

        return mix(images), mix(labels)

    return augment


def brightness(strength: float | jax.Array) -> Augmentation:
    """Adds one number to each image, uniform in [-strength, strength].

    Args:
        strength: `f32[]` at least 0, in the images' units: standard deviations for
            images given as `uint8`.

    Example:
        >>> images = jnp.zeros((1, 2, 2, 1))
        >>> lit, _ = brightness(0.5)(jax.random.key(0), images, jnp.ones((1, 1)))
        >>> bool(jnp.abs(lit).max() <= 0.5), len(set(lit.ravel().tolist()))
        (True, 1)
    """
    check_scalar("augment.brightness", "strength", strength, 0)

    def augment(key, images, labels):
        _check_images("brightness", images)
        added = _draw_around_zero(key, images, strength)
        return jnp.where(added != 0, images + added, images), labels

    return augment


def contrast(strength: float | jax.Array) -> Augmentation:
    """Stretches each image about its mean, by a factor in [1 - strength, 1 + strength].

    Args:
        strength: `f32[]` the largest change of contrast, in [0, 1].

    Example:
        >>> images = jnp.array([1.0, 3.0]).reshape(1, 1, 2, 1)
        >>> out, _ = contrast(0.5)(jax.random.key(0), images, jnp.ones((1, 1)))
        >>> float(out.mean()), bool(0.5 <= (out.max() - out.min()) / 2 <= 1.5)
        (2.0, True)
    """
    check_scalar("augment.contrast", "strength", strength, 0, 1)

    def augment(key, images, labels):
        _check_images("contrast", images)
        stretch = _draw_around_zero(key, images, strength)
        mean = images.mean((1, 2, 3), keepdims=True)
        changed = images + stretch * (images - mean)
        return jnp.where(stretch != 0, changed, images), labels

    return augment


def _draw_around_zero(key, images, strength) -> jax.Array:
    shape = (images.shape[0], 1, 1, 1)
    drawn = jax.random.uniform(key, shape, minval=-1.0, maxval=1.0) * strength
    return drawn.astype(images.dtype)


def _check_images(name: str, images: jax.Array) -> None:
    if images.ndim != 4:
        raise ValueError(
            f"augment.{name} takes images [B, H, W, C], got shape {images.shape}. For "
            "vectors there is augment.mixup."
        )
