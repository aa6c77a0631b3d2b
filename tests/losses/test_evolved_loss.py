"""The discovered loss in its forms, each against the formula."""

import ast
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from jepbt import taylorglo
from jepbt.hyperparameters import Real, TaylorLoss
from jepbt.losses import EvolvedLoss
from jepbt.results import Generation, History, Recorded

rng = np.random.default_rng(0)
THETA = rng.normal(size=8).astype(np.float32)
LOSS = EvolvedLoss("loss", THETA, np.stack([THETA * 0, THETA]))
LOGITS = rng.normal(size=(5, 3)).astype(np.float32)
LABELS = np.eye(3, dtype=np.float32)[[0, 2, 1, 1, 0]]


def by_formula(logits, labels):
    """In float64, term by term."""
    probs = np.exp(logits.astype(float))
    probs /= probs.sum(-1, keepdims=True)
    a_y, a_yy, a_yyy, a_xy, a_xyy, a_xxy, x0, y0 = THETA.astype(float)
    x, y = labels - x0, probs - y0
    terms = a_y * y + a_yy * y**2 + a_yyy * y**3
    terms = terms + a_xy * x * y + a_xyy * x * y**2 + a_xxy * x**2 * y
    return -terms.sum(-1)


def test_it_can_be_called():
    np.testing.assert_allclose(
        LOSS(LOGITS, LABELS), by_formula(LOGITS, LABELS), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("library", ["jax", "numpy"])
def test_its_source_computes_it(library):
    namespace = {}
    exec(LOSS.source(library), namespace)
    value = namespace["loss"](LOGITS, LABELS)
    np.testing.assert_allclose(value, by_formula(LOGITS, LABELS), rtol=1e-4, atol=1e-5)
    if library == "jax":
        one = jax.grad(lambda logits: namespace["loss"](logits, LABELS).sum())(LOGITS)
        other = jax.grad(lambda logits: LOSS(logits, LABELS).sum())(LOGITS)
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("library", ["jax", "numpy"])
def test_its_source_is_numbers_and_arithmetic(library):
    tree = ast.parse(LOSS.source(library))
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
    names = [alias.name for node in imported for alias in node.names]
    assert names == [{"jax": "jax.numpy", "numpy": "numpy"}[library]]
    called = {
        ast.unparse(node.func).split(".")[-1]
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    }
    assert called == {"exp", "max", "sum", "loss_of_probabilities"}
    numbers = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, float)
    }
    assert {np.float32(n) for n in numbers} == set(np.abs(THETA))


def test_its_source_runs_without_jepbt(tmp_path):
    path = tmp_path / "loss.py"
    path.write_text(LOSS.source("numpy"))
    code = "import sys, loss, numpy; print(loss.loss(numpy.zeros(2), numpy.eye(2)[0]))"
    code += "; assert not {'jepbt', 'jax'} & set(sys.modules)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(pathlib.Path(np.__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_a_loss_that_is_not_finite_has_no_source():
    broken = EvolvedLoss("loss", THETA * np.nan, THETA[None])
    with pytest.raises(ValueError, match="it is not finite"):
        broken.source()
    with pytest.raises(ValueError, match="library='torch' must be 'jax' or 'numpy'"):
        LOSS.source("torch")


def test_latex_says_what_the_formula_says():
    theta = np.array([0, -1, 1e-5, 2e-5, 0, 3e-5, -1.25, 0], np.float32)
    theta[1] = -0.005
    loss = EvolvedLoss("loss", theta, theta[None])
    assert loss.latex() == (
        r"\mathcal{L} = -\sum_{i=1}^{C} \left[ -0.005\,y_i^{2} + "
        r"1\times 10^{-5}\,y_i^{3} + 2\times 10^{-5}\,(x_i + 1.25)\,y_i + "
        r"3\times 10^{-5}\,(x_i + 1.25)^{2}\,y_i \right]"
    )


def test_latex_is_understood_by_a_typesetter():
    from matplotlib.mathtext import MathTextParser

    text = LOSS.latex().replace(r"\left[", "[").replace(r"\right]", "]")
    MathTextParser("path").parse(f"${text}$")


def test_effective_numbers_and_attraction_are_the_published_ones():
    published = taylorglo.EVOLVED_ON_MNIST
    assert round(EvolvedLoss("loss", published, published[None]).attraction) == -143
    seed = taylorglo.CROSS_ENTROPY_EXPANSION
    assert EvolvedLoss("l", seed, seed[None]).effective == (-4.0, 4.0, -4.0, 4.0, 0.0)


def make_run(thetas, parents, fresh=(), **spaces):
    """A run of so many generations whose last generation has the winner."""
    history = History()
    for number, theta in enumerate(thetas):
        fitness = np.full(len(theta), number, np.float32)
        fitness[:-1] -= 0.5
        info = {"fresh": np.full(len(theta), number in fresh)}
        line = (number, fitness, fitness, np.array(parents[number]), {"own": theta})
        history.generations.append(Generation(*line, {}, info, {}))
    return Recorded(history, {"rate": Real(1.0, None, None, False), **spaces})


def test_the_loss_of_each_generation_is_that_of_the_winners_ancestor():
    thetas = rng.normal(size=(3, 4, 8)).astype(np.float32)
    parents = [[0, 1, 2, 3], [2, 2, 2, 2], [0, 0, 0, 0]]
    own = TaylorLoss((), 0.0, 0.1)
    loss = make_run(thetas, parents, own=own).evolved_loss
    assert loss.name == "own" and len(loss) == 3
    for generation, slot in enumerate([2, 0, 3]):
        at = loss.at_generation(generation)
        np.testing.assert_array_equal(at.theta, thetas[generation, slot])
        assert len(at) == generation + 1
    np.testing.assert_array_equal(loss.theta, thetas[2, 3])
    with pytest.raises(
        ValueError, match="generation=3 must be a whole number from 0 to 2"
    ):
        loss.at_generation(3)
    restarted = make_run(thetas, parents, fresh=[1], own=own).evolved_loss
    np.testing.assert_array_equal(restarted.thetas, thetas[[1, 2], [0, 3]])


def test_where_no_loss_evolved_the_error_says_why():
    run = make_run(np.zeros((1, 1, 8), np.float32), [[0]])
    with pytest.raises(
        ValueError, match=r"\(rate\) none is declared with jepbt.taylor"
    ):
        _ = run.evolved_loss
