"""CMA-ES over the loss, at toy size, and what it says where CMA-ES is missing."""

import sys

import jax
import numpy as np
import optax
import pytest
from example_scripts import load_example

import jepbt


def test_it_searches_and_compares(capsys):
    pytest.importorskip("cma", reason="pip install jepbt[examples]")
    scores = load_example("cma_taylorglo").main(
        num_generations=2, population_size=4, num_steps=30, num_seeds=1
    )
    assert list(scores) == ["evolved", "cross-entropy's expansion"]
    assert min(scores.values()) > 0.3  # guessing: 0.1
    assert "generation   2" in capsys.readouterr().out


def test_members_train_with_the_losses_they_are_given(monkeypatch):
    """A loss a thousand times smaller learns next to nothing at the same rate."""
    monkeypatch.setitem(sys.modules, "cma", object())
    example = load_example("cma_taylorglo")
    images = np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32)
    task = jepbt.classification(
        (images, (images[:, 0] > 0).astype(int)),
        hparams=example.Hyper,
        model=jepbt.models.MLP(num_classes=2, hidden=(8,)),
        loss=lambda h: jepbt.losses.taylor(h.loss),
        optimizer=lambda h: optax.sgd(0.1),
    )
    seed = jepbt.taylorglo.CROSS_ENTROPY_EXPANSION
    train = example.make_trainer(task, 2, 60)
    scores = train(jax.random.key(0), task.data, np.stack([seed, seed * 0.001]))
    assert scores[0] > 0.85 and scores[0] > scores[1] + 0.1


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cma", None)
    with pytest.raises(SystemExit, match=r"needs cma: pip install 'jepbt\[examples\]'"):
        load_example("cma_taylorglo")
