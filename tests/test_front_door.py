"""Every public feature through the front door: `train_population`, at its smallest.

`RUNS` is a table of whole trainings, `CLAIMS` one of what shows, in one of them, that a
feature acted. Most runs walk two numbers downhill, in closed form; what learns from
images has sixteen pixels and a linear network. No run is trained twice.
"""

import dataclasses
import functools
from dataclasses import dataclass
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from resumable import assert_equal_bits

import jepbt
from jepbt import augment, losses, strategies, taylorglo
from jepbt.operators import gaussian, perturb, significant, uniform, welch_test
from jepbt.strategies import duel, epbt, pbt, pulsation, random_search, truncation
from jepbt.tasks import shrink_and_perturb

same, close = np.testing.assert_array_equal, np.testing.assert_allclose
of = dataclasses.replace


@dataclass
class Hyper(jepbt.HyperParameters):
    rate: float = jepbt.hparam(0.05, min=1e-3, max=0.3, log=True)


@dataclass
class WithLoss(Hyper):
    loss: jepbt.Loss = jepbt.taylor_hparam(noise=0.3, genome="effective")


@dataclass
class Mixed(Hyper):
    pair: tuple[float, ...] = jepbt.hparam((0.5, 0.5), min=0.1, max=1.0)
    repeats: int = jepbt.hparam(2, min=1, max=8)
    scale: float = jepbt.hparam(1.0, choices=(0.25, 0.5, 0.75, 1.0), ordered=True)
    direction: str = jepbt.hparam("down", choices=("down", "nowhere"))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Point:
    """A state of which the engine sees the weights, `f32[2]`."""

    params: jax.Array


def walk(key, state, h, batch, shared):
    x, seen = state.params, 0.0 if batch is None else batch["row"].mean()
    metrics = {"loss": jnp.sum(x**2), "seen": jnp.float32(seen)}
    return Point(x - 2 * h.rate * x), metrics


def walk_mixed(key, state, h, batch, shared):
    options = {"down": lambda x: -x, "nowhere": jnp.zeros_like}
    step = jepbt.choose(h.direction, options)(state.params) * h.rate * h.pair * h.scale
    metrics = {"loss": h.rate, "moves": jnp.any(step != 0), "scale": h.scale}
    return Point(state.params + step), jax.tree.map(jnp.float32, metrics)


def height(key, state, h, batch, shared):
    """Two scores, the lower one first, so that their mean and error tell them."""
    scores = jnp.sort(-(state.params**2))
    return scores if batch is None else scores[batch["row"]]


WALK = jepbt.Task(
    hparams=Hyper,
    init=lambda key, h: Point(jax.random.uniform(key, (2,), minval=1.0, maxval=2.0)),
    train_step=walk,
    evaluate=height,
    data=jepbt.Splits({"row": np.arange(12)}, {"row": np.arange(2)}),
    batch_size=4,
    behaviour=lambda key, state, h, batch, shared: h.rate,
)
STAND = of(WALK, train_step=lambda key, x, *_: (x, {"loss": jnp.sum(x.params**2)}))
FRAGILE = of(WALK, evaluate=lambda *a: jnp.where(a[2].rate < 0.02, jnp.nan, height(*a)))
REPAIRED = of(WALK, repair=lambda h: of(h, rate=jnp.minimum(h.rate, 0.01)))
PREPARED = of(
    WALK,
    prepare=lambda key, population, batches, shared: jnp.arange(2.0),
    train_step=lambda key, x, h, b, five: (x, {"loss": h.rate, "seen": b[1] * five}),
    shared=np.float32(5),
)

random = np.random.default_rng(0)
IMAGES = random.normal(size=(72, 4, 4, 1)).astype(np.float32)
LABELS = (IMAGES[:, 0, 0, 0] > 0).astype(int) + (IMAGES[:, 1, 1, 0] > 0.5)
DATA = jepbt.datasets.from_arrays(
    (IMAGES[:48], LABELS[:48]), validation=12, test=(IMAGES[48:], LABELS[48:])
)


network = functools.partial(jepbt.models.MLP, num_classes=3, hidden=())
teaching = functools.partial(jepbt.distillation, weight=0.9)
learning = {"optimizer": lambda h: optax.sgd(h.rate), "batch_size": 8}


def classify(hparams=Hyper, loss=lambda h: losses.cross_entropy, **parts):
    parts = {"model": network()} | learning | parts
    return jepbt.classification(DATA, hparams=hparams, loss=loss, **parts)


def flatten(x):
    return x.reshape(len(x), -1)


def flat_nnx(rngs):
    return nnx.Sequential(flatten, nnx.Linear(16, 3, rngs=rngs))


def half_or_double(key, hparams):
    factor = jnp.where(jnp.arange(hparams.rate.size) % 2, 2.0, 0.5)
    return of(hparams, rate=jnp.minimum(hparams.rate * factor, 0.3))


KEEP = gaussian(sigma=0.0, reset=0.0, redraw=0.0)
WORST, OWN = (
    lambda _, fitness: jnp.full(4, jnp.argmin(fitness)),
    lambda *_: jnp.arange(4),
)
UNCROSSED = {"mutate": KEEP, "crossover": uniform(0.0)}
PULSE = functools.partial(pulsation, period=2, pool=2.0)
HALF = pbt(exploit=truncation(0.5))
TO_NUMBERS = (IMAGES, IMAGES[:, 0, 0, 0] * 2)
ONE_GENERATION, TWO, FIVE = ({"num_generations": n} for n in (1, 2, 5))
EIGHT = {"population_size": 8}

# fmt: off
RUNS = {  # by name: the task, the strategy, and what else is not as usual
    "epbt": (WALK, "epbt"),
    "select": (WALK, epbt(num_elites=1, select=WORST, **UNCROSSED)),
    "swap": (WALK, epbt(select=OWN, mutate=KEEP, crossover=uniform(1.0))),
    "scores": (WALK, epbt(novelty=PULSE())),
    "behaviour": (WALK, epbt(novelty=PULSE(metric="probabilities"))),
    "losses": (of(WALK, hparams=WithLoss), epbt(novelty=PULSE(metric="loss"))),
    "mixed": (of(WALK, hparams=Mixed, train_step=walk_mixed),
              epbt(num_elites=1, mutate=gaussian(reset=0.5, redraw=0.5))),
    "pbt": (WALK, "pbt"),
    "late": (WALK, pbt(exploit=truncation(0.5), burn_in=1,
                       explore=perturb(factors=(0.5,), resample=0.0))),
    "duel": (WALK, pbt(exploit=duel, explore=KEEP, copy_hparams=False)),
    "welch": (WALK, pbt(exploit=welch_test(2, level=1.0))),
    "careful": (WALK, pbt(exploit=significant(level=1e-12))),
    "pb2": (WALK, "pb2", TWO),
    "bandits": (WALK, strategies.pb2(propose=half_or_double, num_candidates=4,
                                     num_observations=8)),
    "mf_pbt": (WALK, "mf_pbt", EIGHT),
    "groups": (WALK, strategies.mf_pbt(intervals=(1, 2)), EIGHT),
    "random": (WALK, "random_search"),
    "cosine": (WALK, random_search(schedules={"rate": strategies.cosine_decay})),
    "halving": (WALK, "successive_halving"),
    "rung": (WALK, strategies.successive_halving(first_rung=2, factor=4)),
    "frozen": (WALK, strategies.frozen(HALF, {"rate": (0, 2)})),
    "rounds": (shrink_and_perturb(STAND, shrink=0.5, noise=0.0),
               strategies.restarts(pbt(), interval=2, patience=1), FIVE),
    "repaired": (REPAIRED, pbt(explore=perturb(factors=(9.0,), resample=0.0))),
    "prepared": (PREPARED, "random_search"),
    "without data": (of(WALK, data=None), "random_search"),
    "fragile": (FRAGILE, "pbt", TWO),
    "own batches": (WALK, "random_search", {"batches": "per_member"}),
    "target": (WALK, "random_search", {"target_fitness": -100.0}),
    "deadline": (WALK, "random_search", {"max_seconds": 1e-9}),
    "chunks": (WALK, "random_search", {"chunk_size": 2}),
    "seed": (WALK, "random_search", {"config": jepbt.Config(seed=1)}),
    "weights": (STAND, "random_search", {"initial": np.float32([1.5, 1.0])}),
    "plain": (classify(), "random_search"),
    "taught": (classify(distillation=teaching()), "random_search"),
    "elites teach": (classify(distillation=teaching(teacher="elites")),
                     "random_search"),
    "linen": (classify(model=linen.Sequential([flatten, linen.Dense(3)])),
              "random_search", ONE_GENERATION),
    "nnx": (classify(model=flat_nnx), "random_search", ONE_GENERATION),
    "bfloat16": (classify(compute_dtype="bfloat16"), "random_search"),
    "regression": (
        jepbt.regression(TO_NUMBERS, hparams=Hyper, model=network(num_classes=1),
                         **learning),
        "random_search", ONE_GENERATION),
    "evolved": (classify(WithLoss, lambda h: losses.taylor(h.loss)), HALF),
}
# fmt: on


def train(task, strategy, settings=None, **more):
    usual = {"population_size": 4, "num_generations": 3, "steps_per_generation": 2}
    usual |= {"chunk_size": 1, "progress": False, "devices": jax.devices()[:1]}
    settings = usual | (settings or {}) | more
    return jepbt.train_population(task, strategy=strategy, **settings)


@functools.cache
def run(name):
    return train(*RUNS[name])


def evolutions(name, field="rate"):
    """What every evolution read and made; `inherited` is what a slot copied."""
    history = run(name).history
    values = history.hparams[field]
    for number in range(1, len(history)):
        parents, fitness = history.parents[number], history.fitness[number - 1]
        yield SimpleNamespace(
            fitness=fitness,
            error=history.standard_error[number - 1],
            ranked=np.argsort(-fitness, kind="stable"),
            parents=parents,
            inherited=values[number - 1, parents],
            before=values[number - 1],
            after=values[number],
            moved=parents != np.arange(parents.size),
            changed=values[number] != values[number - 1],
            explored=values[number] != values[number - 1, parents],
            fresh=history.fresh[number],
            elites=history.generations[number].info.get("elites"),
        )


def always(fact):
    """Something is true in each evolution, for each slot."""
    return lambda name: [np.testing.assert_(np.all(fact(e))) for e in evolutions(name)]


def count(what, *expected):
    """Of how many slots something is true, in each evolution."""
    return lambda name: same(
        [getattr(e, what).sum() for e in evolutions(name)], expected
    )


def has(read, expected):
    def check(name):
        values = read(run(name).history)
        close(values, np.broadcast_to(expected, np.shape(values)), rtol=1e-4)

    return check


def novel_by(points):
    """In the pulse the best survives with who differs most from all others."""

    def check(name):
        first, pulse = evolutions(name)
        assert set(np.flatnonzero(first.elites)) == set(first.ranked[:2])
        places = points(run(name).history.generations[1])
        between = np.linalg.norm(places[:, None] - places[None], axis=-1).sum(1)
        best, *others = pulse.ranked
        novel = max(others, key=lambda slot: between[slot])
        assert set(np.flatnonzero(pulse.elites)) == {best, novel}
        assert novel != others[0], "this seed shows nothing"

    return check


def scale_of_losses(history):
    ch, chh, chy, cx, cxx = taylorglo.effective(history.hparams["loss"])
    norms = np.sqrt(ch**2 + chh**2 + chy**2 + (cx + cxx) ** 2)
    return norms / norms[0, 0]


def high_rates_gain(name):
    """Candidates come as half, double, half, ...: a blind choice takes the first."""
    *_, last = evolutions(name)
    assert last.moved.any() and (last.after >= last.inherited).all()


def groups_move_when_due(name):
    first, second = evolutions(name)
    assert (
        first.moved[:4].any() and not first.moved[4:].any() and second.moved[4:].any()
    )
    crossed = [(e.parents < 4) != (np.arange(8) < 4) for e in (first, second)]
    same([g.info["migrates"] for g in run(name).history.generations[1:]], crossed)
    assert np.any(crossed), "this seed shows nothing"


def several_move(name):
    """More than the one of four that truncation replaces."""
    assert max(e.moved.sum() for e in evolutions(name)) > 1


def moves_later(name):
    first, second = evolutions(name)
    assert not first.moved.any() and second.moved.any()


def moves_if_significant(name):
    """The worst copies the best if their distance is 7 standard errors: p < 1e-12."""
    held_back = []
    for e in evolutions(name):
        best, worst = e.ranked[[0, -1]]
        error = np.hypot(e.error[best], e.error[worst])
        is_significant = (e.fitness[best] - e.fitness[worst]) / error > 7.03
        assert e.moved[worst] == is_significant and e.moved.sum() <= 1
        held_back.append(not is_significant)
    assert any(held_back), "this seed shows nothing"


def every_kind_varies(name):
    h, metrics = run(name).history.hparams, run(name).history.metrics
    assert (
        h["pair"].shape == (3, 4, 2) and 0.1 <= h["pair"].min() < h["pair"].max() <= 1
    )
    assert set(h["repeats"].ravel()) <= set(range(1, 9))
    close(metrics["scale"], h["scale"].astype(float))
    same(metrics["moves"] == 1, h["direction"] == "down")
    assert all(any(e.explored.any() for e in evolutions(name, field)) for field in h)


def is_truncation(e):
    copies = np.arange(4) == e.ranked[-1]
    return (
        (e.parents[copies] == e.ranked[0])
        & (e.moved == copies)
        & (e.explored == copies)
    )


def keeps_half(e):
    is_fitter = np.isin(np.arange(4), e.ranked[:2])
    return (
        (e.elites == is_fitter) & (e.explored == ~is_fitter) & (e.moved <= ~is_fitter)
    )


SIGNS = np.sqrt(2) * np.array([[-1, 1]])  # of two scores about their mean
COSINE = np.cos(np.pi * np.arange(3) / 3)[:, None] / 2 + 0.5
LEAST, REPAIRED_TO = np.float32(1e-3), np.float32(0.01)

# fmt: off
CLAIMS = {
    "epbt keeps half and varies the rest": ("epbt", always(keeps_half)),
    "select chooses the parents": ("select", always(
        lambda e: e.elites | (e.fitness[e.parents] == e.fitness.min()))),
    "num_elites stay": ("select", count("elites", 1, 1)),
    "mutate makes all variation": ("select", count("explored", 0, 0)),
    "crossover swaps what children have": ("swap", always(
        lambda e: e.after[~e.elites] == e.before[~e.elites][::-1])),
    "novelty compares scores": ("scores", novel_by(
        lambda g: g.fitness[:, None] + g.standard_error[:, None] * SIGNS)),
    "novelty compares behaviour": ("behaviour", novel_by(
        lambda g: g.hparams["rate"][:, None])),
    "novelty compares losses": ("losses", novel_by(
        lambda g: np.stack(taylorglo.effective(g.hparams["loss"]), -1))),
    "effective losses keep their scale": ("losses", has(scale_of_losses, 1)),
    "every kind of hyperparameter varies": ("mixed", every_kind_varies),
    "pbt copies the best": ("pbt", always(is_truncation)),
    "truncation copies half, after burn_in": ("late", count("moved", 0, 2)),
    "explore changes what is copied": ("late", always(
        lambda e: ~e.moved | (e.after == np.maximum(e.inherited / 2, LEAST)))),
    "a duel is lost to the fitter": ("duel", always(
        lambda e: ~e.moved | (e.fitness[e.parents] > e.fitness))),
    "several lose a duel": ("duel", several_move),
    "hyperparameters are not copied": ("duel", count("changed", 0, 0)),
    "welch_test waits for evaluations": ("welch", moves_later),
    "only what is significant moves": ("careful", moves_if_significant),
    "pb2 copies the best": ("pb2", always(is_truncation)),
    "pb2 learns that high rates gain": ("bandits", high_rates_gain),
    "mf_pbt has four groups": ("mf_pbt", count("moved", 1, 1)),
    "mf_pbt's groups move when due": ("groups", groups_move_when_due),
    "random_search copies nobody": ("random", count("moved", 0, 0)),
    "random_search changes nothing": ("random", count("changed", 0, 0)),
    "schedules are followed": ("cosine", has(
        lambda h: h.hparams["rate"] / np.maximum(h.hparams["rate"][0] * COSINE, LEAST),
        1)),
    "halving halves": ("halving", count("fresh", 2, 2)),
    "halving takes first_rung and factor": ("rung", count("fresh", 0, 3)),
    "frozen rests": ("frozen", count("explored", 0, 2)),
    "restarts evolve at intervals": ("rounds", count("moved", 0, 1, 0, 0)),
    "restarts start over": ("rounds", count("fresh", 0, 0, 0, 4)),
    "restarts draw anew": ("rounds", count("changed", 0, 1, 0, 4)),
    "shrink_and_perturb shrinks": ("rounds", has(
        lambda h: h.fitness[4] / h.fitness[3], 0.5**2)),
    "a task repairs": ("repaired", has(
        lambda h: np.maximum(h.hparams["rate"], REPAIRED_TO), REPAIRED_TO)),
    "a task prepares and shares": ("prepared", has(lambda h: h.metrics["seen"], 2.5)),
    "a task needs no data": ("without data", has(lambda h: h.metrics["seen"], 0)),
    "failed members are replaced": ("fragile", always(
        lambda e: np.isnan(e.fitness).any() & np.isfinite(e.fitness[e.parents]))),
    "members share batches": ("random", has(
        lambda h: np.ptp(h.metrics["seen"], 1), 0)),
    "members have batches of their own": ("own batches", has(
        lambda h: np.ptp(h.metrics["seen"], 1) > 0, True)),
    "a target ends a run": ("target", has(len, 1)),
    "a deadline ends a run": ("deadline", has(len, 1)),
    "weights are where all start": ("weights", has(lambda h: h.fitness, -1.625)),
    "chunks change no draws": ("chunks", has(
        lambda h: h.fitness / run("random").history.fitness, 1)),
    "another seed changes them": ("seed", has(
        lambda h: h.fitness != run("random").history.fitness, True)),
}
# fmt: on


@pytest.mark.parametrize("claim", CLAIMS)
def test_it_acts(claim):
    name, check = CLAIMS[claim]
    check(name)
    rates = run(name).history.hparams["rate"]
    assert rates.min() >= LEAST and rates.max() <= np.float32(0.3)


def test_a_population_goes_on_in_another_size_and_callbacks_see_it():
    reports, before = [], -np.sort(-run("rounds").history.fitness[-1])
    settings = {"initial": run("rounds"), "callbacks": [reports.append]}
    later = train(STAND, "random_search", EIGHT | settings)
    close(later.history.fitness[0], np.tile(before, 2))
    assert [report.number for report in reports] == [0, 1, 2]


@pytest.mark.parametrize("name", ["taught", "elites teach"])
def test_a_teacher_teaches_from_the_second_generation_on(name):
    alone, others = (run(n).history.metrics["loss"] for n in ("plain", name))
    close(others[0], alone[0], rtol=1e-5)
    assert (abs(others[1] / alone[1] - 1) > 0.01).all()


STRENGTHS = ("shift", "flip", "cutout", "mixup", "brightness", "contrast")
LOSSES = {
    "entropy": lambda h: losses.cross_entropy,
    "brier": lambda h: losses.brier,
    "smooth": lambda h: losses.label_smoothing(0.3),
    "general": lambda h: losses.generalized_cross_entropy(0.5),
    "taylor": lambda h: losses.taylor(h.loss),
    "sigmoid": lambda h: (
        lambda *args: optax.sigmoid_binary_cross_entropy(*args).sum(-1)
    ),
}
FIELDS = [(n, float, jepbt.hparam(0.0, min=0.0, max=1.0)) for n in STRENGTHS]
FIELDS.append(("kind", str, jepbt.hparam("entropy", choices=tuple(LOSSES))))
Everything = dataclasses.make_dataclass("Everything", FIELDS, bases=(WithLoss,))


def dictate(**values):
    """A strategy of one's own: slot `i` has the `i`-th of the values, always."""

    def init(key, hparams_type, num_members, num_generations):
        return (), hparams_type(**{k: jnp.asarray(v) for k, v in values.items()})

    def step(key, state, generation, hparams, evaluation):
        return state, strategies.Plan(jnp.arange(len(hparams.rate)), hparams, {})

    return strategies.Strategy(init, step)


def test_every_augmentation_and_every_loss_is_what_a_member_learns_with():
    """Twelve equal networks on equal batches, each with one thing of its own."""

    def distort(h):
        return augment.chain(*(getattr(augment, n)(getattr(h, n)) for n in STRENGTHS))

    def choose_loss(h):
        return jepbt.choose(h.kind, {name: make(h) for name, make in LOSSES.items()})

    strengths = np.eye(12, 6, dtype=np.float32).T
    values = dict(zip(STRENGTHS, strengths, strict=True))
    values["kind"] = np.array([0] * 7 + [1, 2, 3, 4, 5])
    values["loss"] = np.tile(taylorglo.CROSS_ENTROPY_EXPANSION, (12, 1))
    values["rate"] = np.full(12, 0.05, np.float32)
    task = classify(Everything, choose_loss, augment=distort)
    weights = run("plain").best.params
    result = train(
        task, dictate(**values), ONE_GENERATION, population_size=12, initial=weights
    )
    assert len(np.unique(result.history.metrics["loss"][0].round(6))) == 12


def linear(params, images):
    """The network by hand, in NumPy."""
    bias, kernel = map(np.asarray, jax.tree.leaves(params))
    return images.reshape(len(images), -1) @ kernel + bias[None]


def accuracy(params, rows):
    return np.mean(linear(params, rows["image"]).argmax(-1) == rows["label"])


@pytest.mark.parametrize("name", ["plain", "linen", "nnx"])
def test_a_models_fitness_is_its_accuracy(name):
    best = run(name).best
    close(best.fitness.mean, accuracy(best.params, DATA.validation), rtol=1e-6)


def test_bfloat16_is_less_precise_and_its_weights_are_not():
    rough, precise = (run(n).history.metrics["loss"] for n in ("bfloat16", "plain"))
    close(rough, precise, rtol=0.05)
    assert (rough != precise).any()
    assert jax.tree.leaves(run("bfloat16").best.params)[0].dtype == np.float32


def test_a_regressions_fitness_is_its_negative_squared_error():
    best, rows = run("regression").best, run("regression").task.data.validation
    error = linear(best.params, rows["input"]) - rows["target"]
    close(best.fitness.mean, -np.mean(error**2), rtol=1e-5)


@pytest.mark.parametrize("name", ["scores", "bandits", "groups", "rounds", "taught"])
@pytest.mark.devices(2)
def test_two_devices_draw_what_one_draws(name):
    two, one = train(*RUNS[name], devices=jax.devices()[:2]), run(name).history
    assert len(jax.tree.leaves(two.population.state)[0].sharding.device_set) == 2
    same(two.history.hparams["rate"][0], one.hparams["rate"][0])
    close(two.history.fitness[0], one.fitness[0], rtol=1e-4)
    assert np.isfinite(two.history.fitness).all()


@pytest.mark.parametrize("name", ["bandits", "rounds"])
def test_a_stopped_run_goes_on_as_if_nothing_had_been(name, tmp_path):
    folder = tmp_path / "run"
    train(*RUNS[name], run_dir=folder, max_seconds=1e-9)
    assert len(jepbt.load_history(folder)) == 1
    assert_equal_bits(train(*RUNS[name], run_dir=folder, resume=True), run(name))
    same(jepbt.load_history(folder).fitness, run(name).history.fitness)


def test_a_run_is_one_function_of_key_and_data():
    """Mapped over seeds and jitted, with data as an argument or closed over."""
    config = jepbt.Config(population_size=4, num_generations=3, steps_per_generation=2)
    once = jepbt.make_run(WALK, random_search(), config)
    keys = jax.vmap(jax.random.key)(jnp.arange(2))
    given = jax.jit(jax.vmap(once, (0, None)))(keys, WALK.data)[2]
    closed = jax.jit(jax.vmap(lambda key: once(key, WALK.data)[2]))(keys)
    single = jax.jit(once)(keys[1], WALK.data)[2]
    same(given.hparams.rate[0], run("random").history.hparams["rate"])
    close(given.fitness[0], run("random").history.fitness, rtol=1e-5)
    for other, expected in (
        (closed, given),
        (single, jax.tree.map(lambda x: x[1], given)),
    ):
        same(other.hparams.rate, expected.hparams.rate)
        close(other.fitness, expected.fitness, rtol=1e-5)


def test_a_replay_follows_the_winners_schedule():
    result, schedule = run("evolved"), run("evolved").schedule
    one_device = {"progress": False, "devices": jax.devices()[:1]}
    again = jepbt.replay(result.task, result, **one_device).history
    for name in ("rate", "loss"):
        same(again.hparams[name][:, 0], schedule.by_generation[name])
    close(schedule["rate"](99), result.best.hparams.rate, rtol=1e-6)


def test_winners_predict_together_and_are_tested():
    result, rows = run("evolved"), DATA.validation
    ranked = np.argsort(-result.history.fitness[-1], kind="stable")[:2]
    layers = jax.tree.map(
        lambda x: np.asarray(x)[ranked], result.population.state.params
    )
    members = [jax.tree.map(lambda x, i=i: x[i], layers) for i in range(2)]
    together = sum(jax.nn.softmax(linear(m, rows["image"])) for m in members)
    mean = np.mean(together.argmax(-1) == rows["label"])
    close(result.ensemble(2).mean, mean, rtol=1e-6)
    assert result.average(4).fitness.mean >= result.final_best.fitness.mean
    close(result.test().best.mean, accuracy(result.best.params, DATA.test), rtol=1e-6)


def test_a_loss_can_be_taken_away_and_a_run_drawn(tmp_path):
    result, logits, labels = run("evolved"), random.normal(size=(3, 3)), np.eye(3)
    expected = losses.taylor(jnp.asarray(result.best.hparams.loss))(logits, labels)
    close(result.evolved_loss(logits, labels), expected)
    for name in (
        "fitness",
        "hparam_schedules",
        "lineage",
        "evolved_loss",
        "attraction",
    ):
        axes = np.ravel(getattr(jepbt.plots, name)(result))
        axes[0].figure.savefig(tmp_path / f"{name}.png")
        assert axes[-1].get_xlabel()
