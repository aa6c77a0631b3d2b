"""Models of Equinox and of Haiku, as the examples make them, in the real libraries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from example_scripts import load_example

import jepbt

HYPER = jepbt.tasks.StandardHyperParameters
IMAGES = np.random.default_rng(0).normal(size=(6, 28, 28, 1)).astype(np.float32)
SMALL = {"population_size": 2, "steps_per_generation": 25, "chunk_size": 1}
SMALL |= {"progress": False, "checkpoint_every": 1, "devices": jax.devices()[:1]}


def load(name, package):
    pytest.importorskip(package, reason="pip install 'jepbt[models]'")
    return load_example(name)


def logits_of(model, params, variables, dropout, key, train):
    h = HYPER(dropout=dropout)
    return model[1](key, params, variables, h, IMAGES, train=train)


def check_dropout(model, params, variables, key):
    """It draws while training alone, by the member's own rate and the step's key."""

    def logits(dropout, key, train):
        return logits_of(model, params, variables, dropout, key, train)[0]

    other = jax.random.key(9)
    np.testing.assert_array_equal(logits(0.5, key, False), logits(0.1, other, False))
    np.testing.assert_array_equal(logits(0.0, key, True), logits(0.0, other, True))
    assert (logits(0.5, key, True) != logits(0.5, other, True)).any()
    assert (logits(0.5, key, True) != logits(0.1, key, True)).any()


def test_an_equinox_module_is_a_model(key):
    example = load("equinox_model", "equinox")
    model = example.from_equinox(example.Network)
    params, variables = model[0](key, IMAGES)
    module = example.Network(key)
    logits, _ = logits_of(model, params, variables, 0.3, key, False)
    expected = [module(image, HYPER(), False, None) for image in IMAGES]
    np.testing.assert_allclose(logits, jnp.stack(expected), rtol=1e-4, atol=1e-5)
    check_dropout(model, params, variables, key)

    result = example.main(num_generations=2, **SMALL)
    assert result.best.fitness.mean > 0.4  # by chance 0.1
    winner = example.eqx.combine(result.best.params, module)
    np.testing.assert_array_equal(winner.head.bias, result.best.params.head.bias)
    assert winner(IMAGES[0], result.best.hparams, False, None).shape == (10,)


def test_a_haiku_function_is_a_model(key):
    """Its state, the statistics of batch normalisation, travels with the member."""
    example = load("haiku_model", "haiku")
    model = example.from_haiku(example.network)
    params, variables = model[0](key, IMAGES, HYPER())
    _, after = logits_of(model, params, variables, 0.3, key, True)
    weights, bias = (np.asarray(params["linear"][name]) for name in "wb")
    hidden = IMAGES.reshape(6, -1) @ weights + bias
    average = after["batch_norm/~/mean_ema"]["average"]
    np.testing.assert_allclose(np.ravel(average), hidden.mean(0), rtol=1e-4, atol=1e-5)
    check_dropout(model, params, after, key)

    result = example.main(num_generations=2, **SMALL)
    assert result.best.fitness.mean > 0.4  # by chance 0.1
    counter = result.population.state.variables["batch_norm/~/mean_ema"]["counter"]
    np.testing.assert_array_equal(counter, [50, 50])


@pytest.mark.slow
def test_a_population_of_equinox_modules_goes_on_from_its_files(tmp_path):
    main = load("equinox_model", "equinox").main
    whole = main(num_generations=3, **SMALL)
    main(num_generations=2, run_dir=tmp_path / "run", **SMALL)
    rest = main(num_generations=3, run_dir=tmp_path / "run", resume=True, **SMALL)
    np.testing.assert_array_equal(rest.history.fitness, whole.history.fitness)
