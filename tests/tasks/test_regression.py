"""Regression: what it scores, that it learns, and what it refuses."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tiny_task import train

import jepbt

rng = np.random.default_rng(0)
INPUTS = rng.normal(size=(200, 3))
TARGETS = np.stack([INPUTS @ [1.0, -2.0, 0.5] + 3, INPUTS[:, 0] * 2], 1)


@dataclass
class Hyper(jepbt.HyperParameters):
    rate: float = jepbt.hparam(0.05, min=1e-3, max=0.3, log=True)
    mixup: float = jepbt.hparam(0.1, min=0.0, max=1.0)


PARTS = {
    "hparams": Hyper,
    "model": jepbt.models.MLP(num_classes=2, hidden=()),
    "optimizer": lambda h: optax.sgd(h.rate),
}


def make(data=(INPUTS, TARGETS), **changes):
    return jepbt.regression(data, **(PARTS | changes))


def test_score_is_the_negative_mean_squared_error_of_each_example():
    constant = (
        lambda key, x: ({}, ()),
        lambda key, params, variables, h, x, train: (x[:, :2], ()),
    )
    task = make(model=constant)
    batch = task.data.validation
    got = task.evaluate(jax.random.key(0), task.init(None, Hyper()), Hyper(), batch, ())
    expected = -((batch["input"][:, :2] - batch["target"]) ** 2).mean(1)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert got.shape == (20,)


def test_a_linear_map_is_found():
    """Its targets are linear in the inputs, so the error goes to 0."""
    task = make(augment=lambda h: jepbt.augment.mixup(h.mixup))
    result = train(task, 4, 3, 40, batch_size=32)
    assert -1e-3 < result.best.fitness.mean <= 0
    kernel = result.best.params["dense1"]["kernel"]
    expected = [[1.0, 2.0], [-2.0, 0.0], [0.5, 0.0]]
    np.testing.assert_allclose(kernel, expected, atol=0.05)


def test_the_defaults_train_on_one_target():
    task = jepbt.regression((INPUTS, TARGETS[:, 0]), batch_size=16)
    state = task.init(jax.random.key(0), task.hparams())
    batch = jax.tree.map(jnp.asarray, task.data.train)
    step = jax.jit(
        lambda s: task.train_step(jax.random.key(0), s, task.hparams(), batch, ())
    )
    losses = []
    for _ in range(40):
        state, metrics = step(state)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0] / 2


def test_validation_is_carved_by_seed_and_every_example_is_used_once():
    splits = [make(seed=seed).data for seed in (0, 0, 1)]
    carved = [set(split.validation["input"][:, 0].tolist()) for split in splits]
    assert carved[0] == carved[1] != carved[2]
    together = np.concatenate([splits[0].train["input"], splits[0].validation["input"]])
    np.testing.assert_array_equal(
        np.sort(together[:, 0]), np.sort(INPUTS[:, 0].astype(np.float32))
    )


def test_splits_of_the_user_are_kept_apart():
    data = jepbt.Splits((INPUTS, TARGETS), (INPUTS[:7], TARGETS[:7]), None)
    task = make(data)
    assert (len(task.data.train["input"]), len(task.data.validation["input"])) == (
        200,
        7,
    )
    assert task.data.test is None


def test_uint8_inputs_are_standardised_and_stay_uint8():
    images = rng.integers(0, 256, (50, 4, 4, 1), np.uint8)
    seen = (
        lambda key, x: ({}, ()),
        lambda key, params, variables, h, x, train: (
            jnp.stack([x.mean((1, 2, 3)), x.std((1, 2, 3))], -1),
            (),
        ),
    )
    targets = np.zeros((50, 2))
    task = make(jepbt.Splits((images, targets), (images, targets)), model=seen)
    assert task.data.train["input"].dtype == np.uint8
    batch = jax.tree.map(jnp.asarray, task.data.train)
    got = task.evaluate(jax.random.key(0), task.init(None, Hyper()), Hyper(), batch, ())
    x = (images.astype(float) - images.mean()) / images.std()
    expected = -(x.mean((1, 2, 3)) ** 2 + x.std((1, 2, 3)) ** 2) / 2
    np.testing.assert_allclose(got, expected, rtol=1e-4)
