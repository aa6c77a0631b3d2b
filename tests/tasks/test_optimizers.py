"""Optimizers that ask for more than gradients, and losses of other signatures."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jepbt

contrib = optax.contrib
INPUTS = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)


@dataclass
class Hyper(jepbt.HyperParameters):
    rate: float = jepbt.hparam(0.05, min=1e-3, max=0.5, log=True)


def make(**changes):
    parts = {
        "hparams": Hyper,
        "model": jepbt.models.MLP(num_classes=2, hidden=()),
        "loss": lambda h: jepbt.losses.cross_entropy,
        "optimizer": lambda h: optax.sgd(h.rate),
    }
    labels = (INPUTS[:, 0] > 0).astype(int)
    return jepbt.classification((INPUTS, labels), **(parts | changes))


def sam(h, **settings):
    return contrib.sam(optax.sgd(h.rate), optax.sgd(0.05), **settings)


# fmt: off
OPTIMIZERS = {
    "plateau": lambda h: optax.chain(optax.sgd(h.rate), contrib.reduce_on_plateau()),
    "momo": lambda h: contrib.momo(h.rate),
    "line search": lambda h: optax.lbfgs(),
    "backtracking": lambda h: optax.chain(
        optax.sgd(1.0), optax.scale_by_backtracking_linesearch(4)),
    "accumulated": lambda h: optax.MultiSteps(optax.polyak_sgd(h.rate), 2),
    "sophia": lambda h: contrib.sophia(h.rate),
    "sam": lambda h: sam(h, opaque_mode=True),
    "sam in a chain": lambda h: optax.chain(optax.clip(1.0), sam(h)),
}
# fmt: on


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_get_what_they_ask_for(name):
    """A step lowers the loss or keeps it, as each of them does on a convex problem."""
    task = make(optimizer=OPTIMIZERS[name])
    batch = jax.tree.map(lambda rows: rows[:16], task.data.train)
    key, h = jax.random.key(0), Hyper(0.05)
    state = jax.jit(task.init)(key, h)
    step = jax.jit(task.train_step)
    before = None
    for _ in range(4):
        state, metrics = step(key, state, h, batch, ())
        before = metrics["loss"] if before is None else before
    assert float(metrics["loss"]) < float(before)


def test_polyaks_step_uses_the_members_own_loss():
    """A line's mean squared error: the step's size is loss / |gradient|², at most 1."""
    task = jepbt.regression(
        (INPUTS, 3 * INPUTS[:, 0]),
        hparams=Hyper,
        model=jepbt.models.MLP(num_classes=1, hidden=()),
        optimizer=lambda h: optax.polyak_sgd(1.0),
    )
    batch = task.data.train
    state = task.init(jax.random.key(0), Hyper(0.05))
    after, _ = task.train_step(jax.random.key(1), state, Hyper(0.05), batch, ())
    kernel, bias = (np.float64(jax.tree.leaves(state.params)[i]) for i in (1, 0))
    error = batch["input"] @ kernel + bias - batch["target"]
    gradient = 2 * batch["input"].T @ error / len(error), 2 * error.mean(0)
    square = sum(np.sum(part**2) for part in gradient)
    size = min(np.mean(error**2) / square, 1.0)
    new = jax.tree.leaves(after.params)
    np.testing.assert_allclose(new[1], kernel - size * gradient[0], rtol=1e-5)
    np.testing.assert_allclose(new[0], bias - size * gradient[1], atol=1e-6)


def test_optimizers_of_pairs_of_weights_get_a_note():
    with pytest.raises(AttributeError, match="fast") as refusal:
        make(optimizer=lambda h: optax.lookahead(optax.sgd(h.rate), 5, 0.5))
    assert "cannot be used" in refusal.value.__notes__[-1]


def test_what_nobody_offers_is_refused_by_name():
    def update(updates, state, params=None, *, temperature, **more):
        return updates, state

    needy = optax.GradientTransformationExtraArgs(lambda params: (), update)
    with pytest.raises(TypeError, match=r"(?s)optimizer: .*value_fn.*'temperature'"):
        make(optimizer=lambda h: needy)


def by_index(logits, labels):
    log_probs = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(log_probs, labels[:, None], 1)[:, 0]


@pytest.mark.parametrize(
    ("loss", "match"),
    [
        (optax.softmax_cross_entropy_with_integer_labels, "use softmax_cross_entropy,"),
        (by_index, r"labels\.argmax"),
        (lambda *args: by_index(*args).mean(), r"labels\.argmax"),
        (optax.sigmoid_binary_cross_entropy, r"shape \[B\], such as its mean"),
    ],
)
def test_losses_of_other_signatures_are_told_what_to_use(loss, match):
    with pytest.raises(ValueError, match=f"loss: .*{match}"):
        make(loss=lambda h: loss)
