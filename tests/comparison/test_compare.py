"""Arms over seeds: what they share, what is compiled, what is kept, what is refused."""

import dataclasses
import errno
import json
import os
import re
import signal
from dataclasses import dataclass
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jepbt
from jepbt.checkpoints import folder as run_directory
from jepbt.comparison import loop, plan_comparison, runs
from jepbt.datasets import with_label_noise
from jepbt.engine.programs import place_inputs

rng = np.random.default_rng(0)
LABELS = np.arange(360) % 3
IMAGES = (4 * np.eye(3)[LABELS] + rng.normal(size=(360, 3))).astype(np.float32)
DATA = jepbt.datasets.from_arrays(
    (IMAGES[:240], LABELS[:240]), validation=60, test=(IMAGES[240:], LABELS[240:])
)
NAMES = ("a", "twin", "stuck")
SMALL = {
    "population_size": 4,
    "num_generations": 2,
    "steps_per_generation": 5,
    "progress": False,
    "chunk_size": 1,
}


@dataclass
class Hyper(jepbt.HyperParameters):
    rate: float = jepbt.hparam(0.05, min=0.01, max=0.3, log=True)


def make_task(data=DATA, **changes):
    parts = {
        "hparams": Hyper,
        "model": jepbt.models.MLP(num_classes=3, hidden=()),
        "loss": lambda h: jepbt.losses.cross_entropy,
        "optimizer": lambda h: optax.sgd(h.rate),
        "batch_size": 16,
    }
    return jepbt.classification(data, **(parts | changes))


def make_stuck(data=DATA):
    return make_task(
        data,
        loss=lambda h: jepbt.losses.brier,
        optimizer=lambda h: optax.sgd(0.0 * h.rate),
    )


def by_seed(make):
    """An arm with other wrong labels at each seed."""
    return lambda seed: make(with_label_noise(DATA, 0.2, seed=seed))


ARMS = {
    "a": by_seed(make_task),
    "twin": by_seed(make_task),
    "stuck": by_seed(lambda data: jepbt.Arm(make_stuck(data), step_cost=1.0)),
}
OPTIONS = SMALL | {"seeds": 4, "primary": "stuck", "post_hoc": True}


def assert_equal_bits(left, right):
    for one, other in zip(*map(jax.tree.leaves, (left, right)), strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


class Listener:
    """Counts what XLA compiles."""

    count = 0

    def __call__(self, event, duration, **facts):
        self.count += event.endswith("backend_compile_duration")


@pytest.fixture(scope="module")
def done():
    """One comparison of three arms, and all that one can see of it from outside."""
    seen = SimpleNamespace(listener=Listener(), compiled={}, read=[])
    seen.results, seen.counts = [], []
    jax.monitoring.register_event_duration_secs_listener(seen.listener)
    patch = pytest.MonkeyPatch()

    def compile_arm(entrant, *args, **options):
        compiled = runs.compile_arm(entrant, *args, **options)
        score = compiled.score

        def count(seed, member, rows, shared):
            seen.read.append((entrant.name, int(seed), len(rows["label"])))
            return score(seed, member, rows, shared)

        compiled = dataclasses.replace(compiled, score=count)
        seen.compiled[entrant.name] = compiled
        return compiled

    def execute(prepared, callbacks):
        seen.counts.append(seen.listener.count)
        seen.results.append(runs_execute(prepared, callbacks))
        return seen.results[-1]

    runs_execute = runs.execute
    patch.setattr(loop, "compile_arm", compile_arm)
    patch.setattr(runs, "execute", execute)
    jax.random.key(0)
    seen.listener.count = 0
    seen.comparison = jepbt.compare(ARMS, **OPTIONS)
    seen.counts.append(seen.listener.count)
    patch.undo()
    return seen


def test_each_arm_compiles_once_and_no_seed_does(done):
    """Five programs of a run, and one each for validation and test rows.

    Arms may share the program that picks members.
    """
    assert len(done.compiled) == 3
    assert 3 * 7 - 2 <= done.counts[3] <= 3 * 7 + 2
    assert done.counts[3] == done.counts[-1]  # none after the first seed
    assert sum(c.compile_seconds > 0 for c in done.comparison.costs.values()) == 3


def test_equal_arms_differ_by_nothing_at_all(done):
    a, twin = done.comparison.scores[:2]
    np.testing.assert_array_equal(a, twin)
    difference = done.comparison.rows[1].difference
    assert difference.estimate[:4] == (0, 0, 0, 0) and difference.p_t == 1
    for first, second in zip(done.results[::3], done.results[1::3], strict=True):
        assert_equal_bits(first.history.fitness, second.history.fitness)
        assert_equal_bits(first.population.state, second.population.state)
    assert len({result.history.fitness.tobytes() for result in done.results[::3]}) == 4


def test_arms_start_from_the_same_weights_and_hyperparameters(done):
    """Another loss and another optimizer change neither."""
    for seed in (0, 3):
        starts = [
            compiled.prepared.programs.init(
                place_inputs(make_task(), seed, compiled.prepared.mesh)
            ).population
            for compiled in done.compiled.values()
        ]
        for other in starts[1:]:
            assert_equal_bits(starts[0].state.params, other.state.params)
            assert_equal_bits(starts[0].hparams, other.hparams)


def test_an_arm_that_cannot_learn_loses(done):
    row = done.comparison.rows[2]
    assert row.name == "stuck" and row.is_significant
    assert row.difference.estimate.high < -0.1
    assert "stuck *: -" in str(done.comparison)


def test_the_test_split_is_read_once_an_arm_and_seed(done):
    expected = [(name, seed, 120) for seed in range(4) for name in NAMES]
    assert [each for each in done.read if each[2] == 120] == expected
    assert sum(each[2] == 60 for each in done.read) == 12  # tunes biases
    assert done.comparison.split == "test"


def test_a_seed_in_anothers_programs_is_that_seeds_own_run(done):
    """Its wrong labels, too: a fresh run of that task and seed has the same bits."""
    alone = jepbt.train_population(by_seed(make_task)(2), seed=2, **SMALL)
    (result,) = [r for r in done.results[::3] if r.config.seed == 2]
    assert_equal_bits(result.history.fitness, alone.history.fitness)
    np.testing.assert_allclose(
        done.comparison.scores[0, 2], alone.test().best.mean, rtol=1e-6
    )
    assert done.comparison.validation[0, 2] == alone.best.fitness.mean


def test_biases_stand_beside_each_arm(done):
    """A network of one layer, in NumPy."""
    names = done.comparison.names
    assert names[3:] == ("a + biases", "twin + biases", "stuck + biases")
    a, biased = done.comparison.scores[0], done.comparison.scores[3]
    assert np.abs(a - biased).max() < 0.3 and (biased > 0.4).all()
    assert (done.comparison.scores[5] >= done.comparison.scores[2] - 0.2).all()


@pytest.fixture
def reused(done, monkeypatch):
    """Further comparisons of the same arms, in the programs that are there."""
    ran = []

    def compile_arm(entrant, *args, **options):
        return done.compiled[entrant.name]

    def run_arm(compiled, entrant, arm, seed, callback, **options):
        ran.append((entrant.name, seed))
        return runs.run_arm(compiled, entrant, arm, seed, callback, **options)

    monkeypatch.setattr(loop, "compile_arm", compile_arm)
    monkeypatch.setattr(loop, "run_arm", run_arm)
    monkeypatch.setattr(loop, "serves", lambda *args: True)
    return ran


TWO_ARMS = {name: ARMS[name] for name in ("a", "stuck")}
FEW = OPTIONS | {"seeds": 2}


def test_an_interrupted_comparison_goes_on(done, reused, monkeypatch, tmp_path):
    plain = runs.execute

    def execute(prepared, callbacks):
        def press(report):
            if len(reused) == 3:
                os.kill(os.getpid(), signal.SIGINT)

        return plain(prepared, [*callbacks, press])

    monkeypatch.setattr(runs, "execute", execute)
    folder = {"run_dir": tmp_path / "c"}
    with pytest.raises(jepbt.Interrupted) as stop:
        jepbt.compare(TWO_ARMS, **FEW, **folder)
    said = str(stop.value.__notes__)
    assert "2 of 4 runs of the comparison are finished and kept" in said
    monkeypatch.setattr(runs, "execute", plain)
    with pytest.raises(ValueError, match="holds a run already"):
        jepbt.compare(TWO_ARMS, **FEW, **folder)
    others = FEW | {"primary": None, "control": "stuck", "steps_per_generation": 6}
    with pytest.raises(ValueError, match="steps_per_generation was 5 and is 6") as no:
        jepbt.compare(TWO_ARMS, **others, **folder, resume=True)
    assert "primary was 'stuck' and is 'a'" in str(no.value)
    path = tmp_path / "c" / "runs.jsonl"
    path.write_text(path.read_text() + '{"arm": "a", "se')  # as kill -9 leaves it
    del reused[:]
    again = jepbt.compare(TWO_ARMS, **FEW, **folder, resume=True)
    assert reused == [("a", 1), ("stuck", 1)]
    expected = done.comparison.scores[[0, 2, 3, 5], :2]
    np.testing.assert_array_equal(again.scores, expected)
    assert len([json.loads(line) for line in path.read_text().splitlines()]) == 4


def test_a_damaged_line_is_run_again_and_seeds_may_be_added(done, reused, tmp_path):
    folder = {"run_dir": tmp_path / "c", "resume": True}
    jepbt.compare(TWO_ARMS, **(FEW | {"seeds": 1}), **folder)
    path = tmp_path / "c" / "runs.jsonl"
    first, second = path.read_text().splitlines(keepends=True)
    path.write_text(first + second.replace('"seed": 0', '"seed": 1'))
    del reused[:]
    with pytest.warns(RuntimeWarning, match="line 2 of .* is damaged"):
        after = jepbt.compare(TWO_ARMS, **FEW, **folder)
    assert reused == [("stuck", 0), ("a", 1), ("stuck", 1)]
    expected = done.comparison.scores[[0, 2, 3, 5], :2]
    np.testing.assert_array_equal(after.scores, expected)


def descend(limit=0.3, hparams=Hyper):
    """A member walks down x², without data; `limit` is a constant of the program."""
    return jepbt.Task(
        hparams=hparams,
        init=lambda key, h: jax.random.normal(key),
        train_step=lambda key, x, h, batch, shared: (
            x - jnp.minimum(h.rate, limit) * 2 * x,
            {"loss": x**2},
        ),
        evaluate=lambda key, x, h, batch, shared: -(x**2)[None],
    )


def test_constants_that_depend_on_the_seed_compile_anew():
    limits = [0.02, 0.02, 0.3]
    arms = {"same": descend(0.02), "other": lambda seed: descend(limits[seed])}
    with pytest.warns(
        RuntimeWarning, match="arm 'other' computes .* at seed 2"
    ) as seen:
        found = jepbt.compare(arms, seeds=3, **SMALL)
    assert len(seen) == 1
    alone = jepbt.train_population(descend(0.3), seed=2, **SMALL)
    same, other = found.scores
    assert (same[:2] == other[:2]).all() and other[2] == alone.best.fitness.mean
    assert found.split == "validation" and "no test split" in str(found)
    assert not found.is_accuracy


def test_a_declared_cost_is_matched_by_fewer_steps():
    arms = {"plain": descend(), "dear": jepbt.Arm(descend(), "pbt", step_cost=1.4)}
    plan = plan_comparison(arms, **(SMALL | {"steps_per_generation": 112}))
    steps = [entrant.config.steps_per_generation for entrant in plan.entrants]
    assert steps == [112, 80]


@dataclass
class Wider(Hyper):
    more: float = jepbt.hparam(0.5, min=0.1, max=1.0)


TASK = make_task()
OTHER_DATA = jepbt.datasets.from_arrays((IMAGES[:200], LABELS[:200]), validation=60)
SHUFFLED = with_label_noise(DATA, 0.5)
BIG = make_task(model=jepbt.models.MLP(num_classes=3, hidden=(64,)))
TWO = {"a": TASK, "b": (TASK, "pbt")}
REFUSED = [
    (
        {"arms": [TASK, TASK]},
        "arms=[Task(hparams=Hyper, data=Splits(train={'image': float32[180, 3] ... "
        "must be a dictionary",
        TypeError,
    ),
    ({"arms": {"a": TASK}}, "arms=['a'] must be at least two"),
    ({"arms": {"a": TASK, "": TASK}}, "'' must be a name"),
    ({"arms": {"a": TASK, "b": 3}}, "arm 'b' must be (task, strategy)", TypeError),
    ({"arms": {"a": TASK, "b": lambda: TASK}}, "a function of one seed", TypeError),
    ({"arms": {"a": TASK, "b": (TASK, "ebpt")}}, "arm 'b': strategy='ebpt' is none"),
    ({"control": "c"}, "control='c' must be one of ['a', 'b']"),
    ({"control": "b", "primary": "b"}, "primary='b' must be one of ['a']"),
    ({"seeds": 0}, "seeds=0 must be a whole number from 1"),
    ({"seeds": [1, 2, 1]}, "seeds are repeated: [1]"),
    ({"seeds": []}, "seeds are missing"),
    ({"seeds": [1, -2]}, "a seed=-2 must be a whole number from 0"),
    ({"seeds": "ab"}, "seeds='ab' must be a number of seeds, or a list"),
    ({"seed": 3}, "seed=3 is not taken. The seeds are an argument of their own"),
    ({"max_seconds": 3.0}, "max_seconds=3.0 is not taken. It would end arms"),
    ({"config": jepbt.Config(target_fitness=0.5)}, "target_fitness=0.5 is not taken"),
    ({"populationsize": 3}, "no setting 'populationsize'. Did you mean", TypeError),
    ({"population_size": 0}, "population_size=0 must be a whole number"),
    ({"post_hoc": 1}, "post_hoc=1 must be True or False"),
    ({"post_hoc": True, "arms": {"a": descend(), "b": descend()}}, "no predictions"),
    (
        {"post_hoc": True, "arms": {"a": TASK, "a + biases": TASK}},
        "makes an arm 'a + biases' of its own",
    ),
    (
        {"post_hoc": True, "arms": dict.fromkeys("ab", make_task(OTHER_DATA))},
        "has no test split, and biases",
    ),
    ({"arms": {"a": TASK, "b": make_task(batch_size=8)}}, "batch sizes differ"),
    ({"arms": {"a": TASK, "b": make_task(OTHER_DATA)}}, "data of other shapes"),
    ({"arms": {"a": TASK, "b": descend()}}, "data of other shapes"),
    ({"arms": {"a": TASK, "b": make_task(SHUFFLED)}}, "other examples at seed 0"),
    (
        {"arms": {"a": TASK, "b": BIG}},
        "of arm 'b' costs ... that of 'a' ... step_cost=",
    ),
    (
        {"arms": {"a": TASK, "b": jepbt.Arm(TASK, step_cost=1.4)}},
        "steps_per_generation=5 cannot be matched ... Choose steps_per_generation=7",
    ),
]


@pytest.mark.parametrize(
    ("given", "words", "error"),
    [(given, words, *(error or [ValueError])) for given, words, *error in REFUSED],
    ids=[words for _, words, *_ in REFUSED],
)
def test_unfair_comparisons_are_refused_before_anything_compiles(
    given, words, error, monkeypatch, tmp_path
):
    monkeypatch.setattr(loop, "compile_arm", None)
    pattern = ".*".join(map(re.escape, words.split(" ... ")))
    pattern = pattern.replace(re.escape("..."), ".*")
    with pytest.raises(error, match=f"(?s){pattern}"):
        jepbt.compare(**({"arms": TWO, "run_dir": tmp_path / "c"} | SMALL | given))
    assert not list(tmp_path.iterdir())


def test_a_folder_is_for_one_process(monkeypatch, tmp_path):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="run_dir is for one process, and there are 2"):
        plan_comparison(TWO, **SMALL, run_dir=tmp_path / "c")


def test_a_disk_that_fills_at_the_start_is_named(monkeypatch, tmp_path):
    plain = run_directory.replace

    def replace(path, content, **options):
        if path.name == "config.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        plain(path, content, **options)

    monkeypatch.setattr(run_directory, "replace", replace)
    with pytest.raises(ValueError, match="cannot be written to: No space left"):
        plan_comparison(TWO, **SMALL, run_dir=tmp_path / "c")


def test_shapes_must_not_depend_on_the_seed(monkeypatch):
    def shrink(seed):
        cut = {name: rows[seed:] for name, rows in DATA.train.items()}
        return make_task(dataclasses.replace(DATA, train=cut))

    plan = plan_comparison({"a": shrink, "b": shrink}, **SMALL)
    with pytest.raises(ValueError, match=r"'a' at seed 3: leaf .*data is .*180"):
        plan.entrants[0].at(3)


def test_another_search_space_is_told():
    plan = plan_comparison({"a": descend(), "b": descend(hparams=Wider)}, **SMALL)
    (note,) = loop.describe_spaces(plan.entrants)
    assert "those of b are drawn from another search space than a's" in note


@pytest.mark.parametrize("cost", [0, -1, "2", float("nan")])
def test_an_arm_refuses_a_cost_that_is_none(cost):
    with pytest.raises(ValueError, match="Arm: step_cost="):
        jepbt.Arm(TASK, step_cost=cost)
