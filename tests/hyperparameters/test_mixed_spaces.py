"""Ordered choices and vectors of reals: how they vary, run, and are written down."""

import dataclasses
import json
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from simple_parsing import ArgumentParser
from tiny_task import train

import jepbt
from jepbt import Candidate, plots, strategies
from jepbt.hyperparameters import Categorical, Vector, clip_all, spaces, to_python
from jepbt.operators import gaussian, perturb, uniform
from jepbt.results import load_schedules, recorded
from jepbt.strategies.pb2 import coordinates

NUM = 4_000
SIZES = ("s", "m", "l", "xl")


@dataclass
class Hyper(jepbt.HyperParameters):
    rates: tuple[float, ...] = jepbt.hparam((0.1, 0.02), min=1e-3, max=0.5, log=True)
    size: str = jepbt.hparam("m", choices=SIZES, ordered=True)
    crop: int = jepbt.hparam(2, choices=(0, 2, 8), ordered=True)


def copies(size=1, rates=(0.1, 0.02)):
    """`NUM` copies of one parent."""
    return Hyper(
        rates=jnp.broadcast_to(jnp.float32(rates), (NUM, 2)),
        size=jnp.full(NUM, size),
        crop=jnp.full(NUM, 1),
    )


def shares(leaf):
    return np.bincount(leaf, minlength=4) / NUM


@pytest.mark.parametrize(
    ("parent", "expected"),
    [(1, [0.15, 0.7, 0.15, 0]), (0, [0.7, 0.3, 0, 0]), (3, [0, 0, 0.3, 0.7])],
)
def test_gaussian_moves_ordered_choices_to_a_neighbour(key, parent, expected):
    children = gaussian(redraw=0.3, reset=0.0)(key, copies(parent))
    np.testing.assert_allclose(shares(children.size), expected, atol=0.025)


@pytest.mark.parametrize(
    ("parent", "expected"),
    [(1, [0.5, 0, 0.5, 0]), (0, [0, 1, 0, 0]), (3, [0, 0, 1, 0])],
)
def test_perturb_always_moves_ordered_choices_to_a_neighbour(key, parent, expected):
    children = perturb(resample=0.0)(key, copies(parent))
    np.testing.assert_allclose(shares(children.size), expected, atol=0.025)
    still = perturb(factors=(1.0,), resample=0.0)(key, copies(parent))
    np.testing.assert_array_equal(still.size, parent)


@pytest.mark.parametrize(
    "mutate",
    [gaussian(redraw=0.0, reset=0.4), perturb(factors=(1.0,), resample=0.4)],
)
def test_ordered_choices_are_drawn_anew_as_numbers_are(key, mutate):
    """A draw among 4 keeps the old choice a quarter of the time."""
    np.testing.assert_allclose(
        shares(mutate(key, copies()).size), [0.1, 0.7, 0.1, 0.1], atol=0.025
    )


def test_entries_of_a_vector_vary_each_on_its_own(key):
    moved = np.asarray(gaussian(sigma=0.1, reset=0.0)(key, copies()).rates)
    factors = moved / np.float32([0.1, 0.02])
    for entry in factors.T:
        assert stats.kstest(entry, stats.norm(1.0, 0.1).cdf).pvalue > 0.01
    assert abs(np.corrcoef(factors.T)[0, 1]) < 0.06
    moved = np.asarray(perturb(resample=0.0)(key, copies()).rates)
    ups = moved > np.float32([0.1, 0.02])
    np.testing.assert_allclose(ups.mean(0), 0.5, atol=0.03)
    np.testing.assert_allclose(ups.all(1).mean(), 0.25, atol=0.03)
    reset = np.asarray(gaussian(sigma=0.0, reset=0.5)(key, copies()).rates)
    anew = reset != np.float32([0.1, 0.02])
    np.testing.assert_allclose(anew.all(1).mean(), 0.25, atol=0.03)


def test_entries_of_a_vector_cross_over_each_on_its_own():
    slots = jnp.arange(4)
    numbered = Hyper(slots[:, None] + jnp.float32([[0, 100]]), slots, slots)
    keys = jax.random.split(jax.random.key(1), 2_000)
    cross = jax.vmap(lambda k: uniform()(k, numbered, jnp.ones(4, bool)))
    swapped = np.asarray(cross(keys).rates)[:, 0] % 100 == 1
    np.testing.assert_allclose(swapped.mean(0), 0.5, atol=0.04)
    assert abs(np.corrcoef(swapped.T)[0, 1]) < 0.08


def test_priors_of_vectors_are_those_of_their_entries(key):
    space = spaces(Hyper)["rates"]
    uniforms = jax.random.uniform(key, (NUM, 2))
    draws = np.log(np.asarray(space.prior(uniforms), np.float64))
    even = stats.uniform(np.log(1e-3), np.log(500))
    free = Vector((0.1, 10.0), None, None, False)
    ratios = np.log(np.asarray(free.prior(uniforms)) / np.float32(free.default))
    for place in range(2):
        assert stats.kstest(draws[:, place], even.cdf).pvalue > 0.01
        assert stats.kstest(ratios[:, place], stats.norm(0, 0.5).cdf).pvalue > 0.01
    assert abs(np.corrcoef(draws.T)[0, 1]) < 0.06


def test_bounds_of_a_vector_are_every_entrys():
    wide = dataclasses.replace(copies(), rates=jnp.float32([[9.0, -9.0], [0.1, 0.0]]))
    low, high = np.nextafter(np.float32(1e-3), np.float32(1)), np.float32(0.5)
    np.testing.assert_allclose(
        clip_all(wide).rates, [[high, low], [0.1, low]], rtol=1e-6
    )


def test_coordinates_are_places_and_entries():
    hparams = Hyper(
        rates=jnp.float32([[1e-3, 0.5], [0.5, 1e-3]]),
        size=jnp.array([0, 2]),
        crop=jnp.array([1, 2]),
    )
    expected = [[0, 1, 0, 1 / 2], [1, 0, 2 / 3, 1]]
    np.testing.assert_allclose(coordinates(hparams), expected, atol=1e-6)


# A member is a point (1, 1) that descends x², each coordinate at a rate of its own.
TASK = jepbt.Task(
    hparams=Hyper,
    init=lambda key, h: jnp.ones(2),
    train_step=lambda key, x, h, batch, shared: (
        x - 2 * h.rates * x,
        {"loss": jnp.sum(x**2)},
    ),
    evaluate=lambda key, x, h, batch, shared: (
        (h.crop * 0.0 - jnp.sum(x**2)) * (h.size.index >= 0)
    )[None],
)


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    settings = {"chunk_size": 1, "devices": jax.devices()[:1]}
    folder = tmp_path_factory.mktemp("run") / "run"
    return train(TASK, 6, 5, 2, run_dir=folder, **settings)


def test_a_run_evolves_them_and_people_read_python_values(result):
    assert result.history.hparams["rates"].shape == (5, 6, 2)
    best = result.best.hparams
    assert isinstance(best.rates, tuple) and len(best.rates) == 2
    assert best.size in SIZES and best.crop in (0, 2, 8)
    # The winner's weights by hand: its ancestors' rates, each for two steps.
    rates = np.asarray(result.schedule.by_generation["rates"], np.float64)
    np.testing.assert_allclose(
        result.best.state,
        np.prod((1 - 2 * rates) ** 2, axis=0),
        rtol=1e-4,
    )
    assert set(result.history.hparams["size"].ravel()) <= set(SIZES)


def test_files_give_vectors_and_ordered_choices_back(result):
    again = jepbt.load_history(result.run_dir)
    for name, values in result.history.hparams.items():
        np.testing.assert_array_equal(again.hparams[name], values)
    read = recorded.read(result.run_dir)
    assert dict(read.spaces) == dict(spaces(Hyper))
    assert read.spaces["size"] == Categorical("m", SIZES, ordered=True)
    rates = result.schedule["rates"]
    np.testing.assert_array_equal(load_schedules(result.run_dir)["rates"](3), rates(3))
    stored = json.loads((result.run_dir / "best" / "member.json").read_text())
    assert stored["hparams"]["rates"] == list(result.best.hparams.rates)


def test_replay_follows_every_entry(result):
    again = jepbt.replay(TASK, result.run_dir, chunk_size=1, progress=False)
    length = len(result.schedule.by_generation["rates"])
    np.testing.assert_array_equal(
        again.history.hparams["rates"][:, 0],
        result.schedule.by_generation["rates"][:length],
    )


def test_every_entry_has_a_picture_and_a_row(result):
    names = ["rates[0]", "rates[1]", "size", "crop"]
    axes = plots.hparam_schedules(result.run_dir)
    assert [axis.get_title(loc="left") for axis in axes] == names
    assert [axis.get_yscale() for axis in axes[:2]] == ["log", "log"]
    page = result._repr_html_()
    assert all(name in page for name in names)


def climb(candidate):
    x = np.ones(2) if candidate.model is None else np.array(candidate.model)
    x = x - 2 * np.array(candidate.hparams.rates) * x
    assert candidate.hparams.size in SIZES and candidate.hparams.crop in (0, 2, 8)
    return Candidate(x, candidate.hparams, fitness=-float(np.sum(x**2)))


def test_the_host_loop_evolves_them_and_writes_numbers(tmp_path):
    given = [Candidate(None, Hyper()) for _ in range(6)]
    best = list(jepbt.epbt(3, given, climb, run_dir=tmp_path / "run"))[-1]
    assert isinstance(best.hparams.rates, tuple)
    assert all(1e-3 <= rate <= 0.5 for rate in best.hparams.rates)
    assert jepbt.load_history(tmp_path / "run").hparams["rates"].shape == (3, 6, 2)
    more = list(jepbt.epbt(5, given, climb, run_dir=tmp_path / "run", resume=True))
    assert more[-1].fitness >= best.fitness


@pytest.mark.parametrize(
    ("rates", "error", "message"),
    [
        ((0.1,), ValueError, r"rates=\(0.1,\) must be 2 numbers"),
        (0.1, ValueError, "rates=0.1 must be 2 numbers"),
        ((0.1, 0.9), ValueError, r"rates\[1\]=0.9 lies outside its bounds"),
        ((0.1, "a"), TypeError, r"rates\[1\]='a' must be a number"),
    ],
)
def test_the_host_loop_names_the_entry_that_is_wrong(rates, error, message):
    with pytest.raises(error, match=message):
        next(jepbt.epbt(2, [Candidate(None, Hyper(rates=rates))], climb))


def test_flags_are_made_of_them():
    parser = ArgumentParser()
    parser.add_arguments(Hyper, dest="hparams")
    flags = "--rates 0.2 0.3 --size xl --crop 8"
    assert parser.parse_args(flags.split()).hparams == Hyper((0.2, 0.3), "xl", 8)
    given = parser.parse_args(flags.split()).hparams
    encoded = jepbt.hyperparameters.encode(given)
    assert to_python(encoded).size == "xl"


def test_a_schedule_scales_every_entry(key):
    strategy = strategies.random_search(schedules={"rates": strategies.cosine_decay})
    state, hparams = strategy.init(key, Hyper, 4, 10)
    evaluation = strategies.Evaluation(jnp.zeros(4), jnp.zeros(4))
    _, plan = strategy.step(key, state, jnp.int32(5), hparams, evaluation)
    half = np.maximum(hparams.rates / 2, 1e-3)
    np.testing.assert_allclose(plan.hparams.rates, half, rtol=1e-5)
