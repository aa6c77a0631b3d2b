"""What a user declares, what the device holds, and what each refuses."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jepbt
from jepbt.hyperparameters import (
    Categorical,
    Integer,
    Real,
    TaylorLoss,
    Vector,
    columns,
    decode,
    draw_for,
    encode,
    normal,
    read_space,
    sample_population,
    spaces,
    to_python,
    whole_below,
)
from jepbt.hyperparameters.draws import whole_of_two
from jepbt.operators import perturb

uniform = jax.random.uniform


@dataclass
class Hyper(jepbt.HyperParameters):
    rate: float = jepbt.hparam(0.05, min=1e-4, max=1.0, log=True)
    dropout: float = jepbt.hparam(0.6, min=0.0, max=0.6)
    width: int = jepbt.hparam(3, min=1, max=5)
    depth: int = jepbt.hparam(8, min=1, max=1024, log=True)
    nesterov: bool = jepbt.hparam(True)
    decay: float = jepbt.hparam(0.5, choices=(0.25, 0.5, 1.0))
    activation: str = jepbt.hparam("relu", choices=("relu", "tanh"))
    bare: float = 0.9
    loss: jepbt.Loss = jepbt.taylor_hparam(noise=0.5)


def test_kinds_follow_from_defaults():
    kinds = {name: type(space) for name, space in spaces(Hyper).items()}
    assert kinds == {
        "rate": Real,
        "dropout": Real,
        "width": Integer,
        "depth": Integer,
        "nesterov": Categorical,
        "decay": Categorical,
        "activation": Categorical,
        "bare": Real,
        "loss": TaylorLoss,
    }


@pytest.mark.parametrize(
    "options", [{}, {"frozen": True}, {"slots": True}, {"kw_only": True}]
)
def test_every_dataclass_is_a_pytree_of_its_fields(options):
    class Plain(jepbt.HyperParameters):
        first: float = jepbt.hparam(0.5, min=0.0, max=1.0)
        second: int = jepbt.hparam(3, min=1, max=9)

    decorated = dataclass(**options)(Plain)
    hparams = decorated(first=0.25, second=7)
    doubled = jax.jit(lambda h: jax.tree.map(lambda leaf: 2 * leaf, h))(hparams)
    assert isinstance(doubled, decorated)
    assert (float(doubled.first), int(doubled.second)) == (0.5, 14)
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(hparams)]
    assert [jax.tree_util.keystr(path) for path in paths] == [".first", ".second"]


def test_leaves_have_the_dtypes_of_their_kinds(key):
    hparams = sample_population(key, Hyper, 4)
    dtypes = {name: getattr(hparams, name).dtype for name in spaces(Hyper)}
    assert {str(dtype) for dtype in dtypes.values()} == {"float32", "int32"}
    assert dtypes["width"] == dtypes["activation"] == jnp.int32
    assert hparams.loss.shape == (4, 8)


def test_slot_zero_of_the_first_population_takes_the_defaults(key):
    hparams = sample_population(key, Hyper, 3)
    first = to_python(jax.tree.map(lambda leaf: leaf[0], hparams))
    default = Hyper()
    assert first.activation == default.activation
    assert (first.width, first.nesterov, first.decay) == (3, True, 0.5)
    np.testing.assert_allclose(first.rate, default.rate, rtol=1e-6)
    np.testing.assert_array_equal(first.loss, default.loss)


@pytest.mark.parametrize(
    ("space", "transform", "low", "high"),
    [
        (Real(0.5, -2.0, 3.0, False), lambda x: x, -2.0, 3.0),
        (Real(0.5, 1e-4, 1.0, True), np.log, math.log(1e-4), 0.0),
    ],
)
def test_real_priors_are_uniform(key, space, transform, low, high):
    draws = transform(np.asarray(space.prior(uniform(key, (4_000,))), np.float64))
    result = stats.kstest(draws, stats.uniform(low, high - low).cdf)
    assert result.pvalue > 0.01


def test_integer_prior_gives_both_ends_their_share(key):
    draws = np.asarray(Integer(3, 1, 5, False).prior(uniform(key, (10_000,))))
    np.testing.assert_allclose(np.bincount(draws)[1:] / 10_000, 0.2, atol=0.015)


def test_log_integer_prior_is_uniform_over_octaves(key):
    """A cell [n, n+1) has probability log((n+1)/n) / log(17)."""
    draws = np.asarray(Integer(1, 1, 16, True).prior(uniform(key, (20_000,))))
    numbers = np.arange(1, 17)
    expected = np.log((numbers + 1) / numbers) / math.log(17)
    np.testing.assert_allclose(
        np.bincount(draws, minlength=17)[1:] / 20_000, expected, atol=0.012
    )


def test_unbounded_prior_is_lognormal_about_the_default(key):
    draws = np.asarray(Real(0.9, None, None, False).prior(uniform(key, (4_000,))))
    assert stats.kstest(np.log(draws / 0.9), stats.norm(0, 0.5).cdf).pvalue > 0.01


def test_normal_draws_are_the_quantiles_of_uniform_ones():
    """To their very ends: what `jax.random.uniform` draws goes by steps of 2^-23."""
    given = np.float32([0.0, 2**-23, 0.01, 0.3, 0.5, 0.9, 0.999, 1 - 2**-23])
    expected = stats.norm.ppf(np.maximum(np.float64(given), 2**-26))
    draws = np.asarray(normal(jnp.asarray(given)))
    np.testing.assert_allclose(draws[1:], expected[1:], rtol=1e-5, atol=1e-6)
    assert -5.5 < draws[0] < draws[1]


def test_draws_for_many_leaves_are_independent(key):
    leaves = [jnp.zeros(5_000), jnp.zeros((5_000, 2))]
    draws = draw_for(key, leaves, 2)
    first, second = columns(draws, leaves)
    assert (first.shape, second.shape) == ((2, 5_000), (2, 5_000, 2))
    rows = np.concatenate([first, *np.moveaxis(second, 2, 0)])
    np.testing.assert_allclose(np.corrcoef(rows), np.eye(6), atol=0.06)


def test_whole_numbers_below_a_count_are_equally_likely_and_below_it(key):
    draws = np.asarray(whole_below(7, uniform(key, (20_000,))))
    np.testing.assert_allclose(
        np.bincount(draws) / 20_000, np.full(7, 1 / 7), atol=0.01
    )
    largest = jnp.float32(1 - 2**-23)
    for count in (1, 2, 3, 1000, 2**20 + 1, 2**23 - 1):
        assert int(whole_below(count, largest)) == count - 1


@pytest.mark.parametrize("name", ["rate", "width", "decay", "activation", "loss"])
def test_a_space_is_read_again_from_json(name):
    space = spaces(Hyper)[name]
    assert read_space(json.loads(json.dumps(space.describe()))) == space


@pytest.mark.parametrize("count", [2, 2**16 + 1, 10**9, 2**30 + 1, 2**32 - 1])
def test_two_uniform_numbers_make_a_whole_one_exactly(count):
    """`floor(46 random bits * count / 2^46)`, by Python's own whole numbers."""
    generator = np.random.default_rng(0)
    bits = generator.integers(0, 2**23, (2, 1_000))
    bits[:, :3] = [[0, 2**23 - 1, 1], [0, 2**23 - 1, 2**23 - 1]]
    drawn = whole_of_two(count, *jnp.asarray(np.float32(bits) / np.float32(2**23)))
    expected = [(((a << 23) | b) * count) >> 46 for a, b in bits.T.tolist()]
    assert np.asarray(drawn).tolist() == expected


WIDE = {
    "from zero": Integer(7, 0, 2**30, False),
    "of all bits": Integer(0, -(2**31), 2**31 - 2, False),
    "far out": Integer(2**30 + 1, 2**30, 2**30 + 8, False),
    "log": Integer(2**29 + 1, 1, 2**30, True),
    "log, far out": Integer(2**30 + 1, 2**30, 2**30 + 8, True),
    "without bounds": Integer(2**29 + 1, None, None, False),
}


@pytest.mark.parametrize("kind", WIDE)
def test_every_number_of_a_wide_range_can_be_drawn_and_reached(kind, key):
    """Drawn, or moved from one value: spread as is said, and every remainder alike."""
    space = WIDE[kind]
    uniforms = uniform(key, (4, 20_000))
    drawn = np.asarray(space.prior(uniforms[0], uniforms[1]), np.float64)
    if space.min is None:
        quantiles = stats.norm.cdf(2 * np.log(drawn / space.default))
    elif space.log:
        width = math.log(space.max + 1) - math.log(space.min)
        inside = uniform(jax.random.key(1), drawn.shape)  # each number is a cell
        quantiles = (np.log(drawn + inside) - math.log(space.min)) / width
    else:
        quantiles = (drawn - space.min + 0.5) / (space.max + 1 - space.min)
    if kind.endswith("far out"):
        counts = np.bincount(drawn.astype(int) - space.min, minlength=9)
        assert stats.chisquare(counts).pvalue > 0.01
        return
    assert stats.kstest(quantiles, "uniform").pvalue > 0.01
    value = jnp.full(20_000, space.default, jnp.int32)
    moved = space.move(value, normal(uniforms[2]), uniforms[3], sigma=0.1, redraw=0.0)
    for numbers in (drawn[drawn > 1e6], np.asarray(space.clip(moved))):
        remainders = np.bincount(numbers.astype(np.int64) % 64, minlength=64)
        inside = remainders[1:] if 0 in (space.min, space.default) else remainders
        assert stats.chisquare(inside).pvalue > 0.001


def test_wide_integers_move_as_far_as_narrow_ones_and_stop_at_their_bounds(key):
    ends = Integer(0, -(2**31), 2**31 - 2, False)
    near = Integer(10**9 + 1, 10**9, 2**31 - 2, False)
    sides = uniform(key, (2, 20_000))
    for space, value, deviation in (
        (ends, 5, 0.01 * (2**32 - 2)),
        (near, 15 * 10**8 + 1, 0.01 * 15 * 10**8),
    ):
        values = jnp.full(20_000, value, jnp.int32)
        noise = normal(sides[0])
        moved = space.move(values, noise, sides[1], sigma=0.01, redraw=0.0)
        steps = np.asarray(space.clip(moved), np.float64) - value
        assert stats.kstest(steps / deviation, stats.norm.cdf).pvalue > 0.01
    values, noise = jnp.array([2**31 - 3, -(2**31) + 1]), jnp.array([1.0, -1.0])
    moved = ends.clip(ends.move(values, noise, jnp.full(2, 0.5), sigma=0.9, redraw=0.0))
    assert moved.tolist() == [2**31 - 2, -(2**31)]
    multiplied = ends.clip(ends.multiply(values, jnp.float32(1.2), noise))
    assert multiplied.tolist() == [2**31 - 2, -(2**31)]


@pytest.mark.parametrize("value", [5, 2**24 + 1, -(2**30) - 1, 2**31 - 2])
def test_a_factor_of_a_schedule_keeps_every_digit_that_it_can(value):
    space = Integer(0, -(2**31), 2**31 - 2, False)
    factors = jnp.float32([1, 0, 0.25, 0.75, -0.5])
    scaled = np.asarray(space.scale(jnp.full(5, value, jnp.int32), factors), int)
    assert scaled[:2].tolist() == [value, 0]
    exact = value * np.array([0.25, 0.75, -0.5])
    assert (np.abs(scaled[2:] - exact) <= 0.5 + abs(value) * 2.0**-24).all()
    ends = space.scale(jnp.full(2, value, jnp.int32), jnp.float32([-1e9, 1e9]))
    assert sorted(ends.tolist()) == [-(2**31), 2**31 - 2]


def test_only_a_class_with_wide_integers_draws_a_second_time(key):
    """Its other fields' values stay those that they would have without."""

    @dataclass
    class Wide(jepbt.HyperParameters):
        rate: float = jepbt.hparam(0.05, min=1e-4, max=1.0, log=True)
        seed: int = jepbt.hparam(7, min=0, max=2**30)

    @dataclass
    class Narrow(jepbt.HyperParameters):
        rate: float = jepbt.hparam(0.05, min=1e-4, max=1.0, log=True)
        seed: int = jepbt.hparam(7, min=0, max=2**16)

    drawn = [sample_population(key, kind, 200) for kind in (Wide, Narrow)]
    np.testing.assert_array_equal(drawn[0].rate, drawn[1].rate)
    assert int(drawn[0].seed[0]) == 7
    ranks = stats.spearmanr(drawn[0].seed[1:], drawn[1].seed[1:])
    assert ranks.statistic > 0.999  # the first number still says where


def test_numeric_choices_that_do_not_fit_32_bits_are_kept_on_the_host_alone():
    space = Categorical(1, (1, 2**40))
    assert space.readable(np.array([1, 0])).tolist() == [2**40, 1]
    with pytest.raises(ValueError, match=r"seed: choices=.* do not fit the 32 bits"):
        space.decode(jnp.array(1), "seed")


def test_loss_starts_at_its_seed_plus_noise(key):
    draws = np.asarray(TaylorLoss((1.0,) * 8, 0.5, 0.1).prior(uniform(key, (3_000, 8))))
    assert stats.kstest(draws.ravel(), stats.norm(1.0, 0.5).cdf).pvalue > 0.01
    still = TaylorLoss((1.0,) * 8, 0.0, 0.1).prior(uniform(key, (3, 8)))
    np.testing.assert_array_equal(still, np.ones((3, 8)))


@pytest.mark.parametrize("bound", [0.6, 0.1, 1e-4, 0.3])
def test_values_on_a_bound_satisfy_the_users_own_comparison(bound):
    """float32(0.6) is above 0.6: a value there must be the float below."""
    high = float(Real(0.0, -1.0, bound, False).clip(jnp.float32(9.0)))
    low = float(Real(1.0, bound, 2.0, False).clip(jnp.float32(-9.0)))
    assert high <= bound <= low
    np.testing.assert_allclose([low, high], bound, rtol=1e-6)


def test_numeric_choices_reach_member_code_as_values():
    hparams = Hyper(decay=jnp.array(2), nesterov=jnp.array(0))
    assert float(decode(hparams).decay) == 1.0
    assert bool(decode(hparams).nesterov) is False


def test_choose_runs_the_members_own_choice():
    options = {"tanh": jnp.tanh, "relu": jax.nn.relu}  # order does not matter
    run = jax.vmap(lambda i: jepbt.choose(decode(i).activation, options)(-0.5))
    values = run(Hyper(*[jnp.array([0, 1])] * 8, jnp.zeros((2, 8))))
    np.testing.assert_allclose(values, [0.0, math.tanh(-0.5)], rtol=1e-6)


def test_encode_is_the_inverse_of_to_python(key):
    hparams = sample_population(key, Hyper, 5)
    member = jax.tree.map(lambda leaf: np.asarray(leaf[3]), hparams)
    again = encode(to_python(member))
    jax.tree.map(np.testing.assert_array_equal, again, member)


def test_every_field_draws_from_a_key_of_its_own(key):
    @dataclass
    class Equal(jepbt.HyperParameters):
        first: float = jepbt.hparam(0.5, min=0.0, max=1.0)
        second: float = jepbt.hparam(0.5, min=0.0, max=1.0)

    hparams = sample_population(key, Equal, 1_000)
    correlation = np.corrcoef(hparams.first, hparams.second)[0, 1]
    assert abs(correlation) < 0.1


def declare(field, annotation=None):
    namespace = {"x": field, "__annotations__": {"x": annotation or object}}
    return dataclass(type("Bad", (jepbt.HyperParameters,), namespace))


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (jepbt.hparam(1, choices=(1, 2), ordered="yes"), "ordered='yes' must be True"),
        (jepbt.hparam(0.1, min=0.0, max=1.0, ordered=True), "ordered=True needs choic"),
        (jepbt.hparam(True, ordered=True), "two values of a bool have no order"),
        (jepbt.hparam((1, 2)), r"default=\(1, 2\) must be a tuple of floats"),
        (jepbt.hparam(()), r"default=\(\) must be a tuple of floats"),
        (jepbt.hparam((0.1, "a")), "must be a tuple of floats"),
        (jepbt.hparam((0.1, 2.0), min=0.0, max=1.0), r"Bad\.x\[1\]: default=2.0 lies"),
        (jepbt.hparam((0.1, 0.0)), r"Bad\.x\[1\]: a default of 0 without bounds"),
    ],
)
def test_a_wrong_declaration_is_named(field, message):
    with pytest.raises(ValueError, match=message):
        spaces(declare(field))


def test_numpy_numbers_are_numbers():
    real = jepbt.hparam(np.float64(0.5), min=np.float32(0.0), max=np.int64(1))
    assert spaces(declare(real))["x"] == Real(0.5, 0.0, 1, False)
    whole = jepbt.hparam(np.int64(2), min=np.int32(1), max=3)
    assert spaces(declare(whole))["x"] == Integer(2, 1, 3, False)
    vector = jepbt.hparam((np.float32(0.5), 1), min=np.float32(0.0), max=np.int64(1))
    assert spaces(declare(vector))["x"] == Vector((0.5, 1.0), 0.0, 1, False)


def test_postponed_annotations_are_read_and_bounds_still_hold(key):
    """This file's annotations are text, as `from __future__` makes them."""
    assert Hyper.__annotations__["decay"] == "float"
    with pytest.raises(ValueError, match=r"annotated float, .* default 1 is an int"):
        spaces(declare(jepbt.hparam(1, min=0, max=2), "float"))
    low = spaces(Hyper)["rate"].clip(jnp.full(3, -9.0))
    assert float(low.min()) >= spaces(Hyper)["rate"].min


def test_an_annotation_that_disagrees_is_named():
    with pytest.raises(ValueError, match=r"annotated float, .* is a vector"):
        spaces(declare(jepbt.hparam((0.1, 0.2)), float))


def test_an_edited_class_is_read_anew(key):
    """IPython's autoreload gives the old class the new one's attributes, in place."""

    def define(high, **more):
        fields = {"rate": jepbt.hparam(0.1, min=0.01, max=high), **more}
        annotations = dict.fromkeys(fields, "float")
        namespace = {"__annotations__": annotations, **fields}
        return dataclass(type("Mine", (jepbt.HyperParameters,), namespace))

    def edit(new):
        for name in set(vars(new)) - {"__dict__", "__weakref__"}:
            setattr(Mine, name, vars(new)[name])

    Mine = define(1.0)
    before = sample_population(key, Mine, 50)
    explore = jax.jit(perturb(factors=(99.0,), resample=0.0))
    assert 0.5 < before.rate.max() <= 1 == explore(key, before).rate.min()
    edit(define(0.2))
    assert spaces(Mine)["rate"].max == 0.2
    assert sample_population(key, Mine, 50).rate.max() <= 0.2
    np.testing.assert_allclose(explore(key, before).rate, 0.2)
    edit(define(0.2, dropout=jepbt.hparam(0.3, min=0.0, max=0.5)))
    after = sample_population(key, Mine, 50)
    assert len(jax.tree.leaves(after)) == 2 and after.dropout.max() > 0.3
    again = define(0.5)  # a cell run again makes another class of the same name
    assert (spaces(again)["rate"].max, spaces(Mine)["rate"].max) == (0.5, 0.2)


def test_a_forgotten_decorator_is_named():
    class Forgotten(jepbt.HyperParameters):
        rate: float = jepbt.hparam(0.1, min=0.0, max=1.0)

    class Below(Hyper):
        other: float = jepbt.hparam(0.1, min=0.0, max=1.0)

    class Renamed(Hyper):
        """Adds nothing, so it needs no decorator."""

    for wrong in (Forgotten, Below):
        with pytest.raises(TypeError, match=r"write @dataclasses.dataclass above"):
            spaces(wrong)
    assert spaces(Renamed) == spaces(Hyper)


def test_importing_and_declaring_start_no_backend():
    code = (
        "import dataclasses, jepbt\n"
        "@dataclasses.dataclass\n"
        "class H(jepbt.HyperParameters):\n"
        "    rate: float = jepbt.hparam(0.1, min=0.0, max=1.0)\n"
        "    loss: jepbt.Loss = jepbt.taylor_hparam()\n"
        "H()\n"
        "import jax\n"
        "jax.config.update('jax_num_cpu_devices', 3)  # raises once a backend is up\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
