"""`train_population` as a user calls it."""

import dataclasses
import json
import os
import pathlib
import signal
import time
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jepbt
from jepbt.results.lineage import ancestry
from jepbt.training.interruption import listen

rng = np.random.default_rng(0)
CENTRES = rng.normal(size=(4, 12))
LABELS = np.arange(1_200) % 4
IMAGES = (CENTRES[LABELS] + 1.3 * rng.normal(size=(1_200, 12))).astype(np.float32)
DATA = jepbt.datasets.from_arrays(
    (IMAGES[:800], LABELS[:800]), validation=200, test=(IMAGES[800:], LABELS[800:])
)


@dataclass
class Hyper(jepbt.HyperParameters):
    rate: float = jepbt.hparam(1e-3, min=1e-4, max=0.3, log=True)
    activation: str = jepbt.hparam("relu", choices=("relu", "tanh"))
    loss: jepbt.Loss = jepbt.taylor_hparam()


def make_task(**changes):
    parts = {
        "hparams": Hyper,
        "model": jepbt.models.MLP(num_classes=4, hidden=(16,)),
        "loss": lambda h: jepbt.losses.taylor(h.loss),
        "optimizer": lambda h: optax.sgd(h.rate, momentum=0.9),
        "batch_size": 32,
    }
    return jepbt.classification(DATA, **(parts | changes))


SMALL = {
    "population_size": 8,
    "num_generations": 4,
    "steps_per_generation": 10,
    "progress": False,
    "chunk_size": 1,
}


def train(task=None, **settings):
    return jepbt.train_population(task or make_task(), **(SMALL | settings))


def test_evolution_beats_its_first_generation_and_fixed_hyperparameters():
    """A seed of the learning rate that is far too small is left behind."""
    evolved = train(num_generations=8)
    fixed = train(
        strategy=jepbt.strategies.Strategy(
            init=lambda key, kind, num, generations: (
                (),
                dataclasses.replace(
                    jepbt.strategies.random_search().init(key, kind, num, 1)[1],
                    rate=jnp.full(num, 1e-3),
                ),
            ),
            step=jepbt.strategies.random_search().step,
        ),
        num_generations=8,
    )
    assert evolved.best.fitness.mean > evolved.first_best.fitness.mean + 0.03
    assert evolved.best.fitness.mean > fixed.best.fitness.mean + 0.03
    assert evolved.test().best.mean > evolved.test().first.mean


def test_results_agree_with_each_other():
    result = train()
    history = result.history
    assert history.fitness.shape == history.parents.shape == (4, 8)
    assert result.best.fitness.mean == history.fitness.max()
    assert result.best.slot == history.fitness[result.best.generation].argmax()
    assert result.final_best.fitness.mean == history.fitness[-1].max()
    assert result.first_best.fitness.mean == history.fitness[0].max()
    assert np.sort(history.fitness[-1])[4 - 1] <= result.median.fitness.mean
    assert result.median.fitness.mean <= np.sort(history.fitness[-1])[4]
    assert set(history.hparams["activation"].ravel()) == {"relu", "tanh"}
    where = result.best.generation, result.best.slot
    for name, values in history.hparams.items():
        np.testing.assert_array_equal(
            values[where], np.asarray(getattr(result.best.hparams, name), values.dtype)
        )
    line = ancestry(history.parents, *where, history.fresh)
    assert line.slots[-1] == where[1]
    roots = np.arange(8)
    for parents in history.parents[1:]:
        roots = roots[parents]
    assert result.num_founders == len(set(roots)) < 8


def test_the_winner_scores_what_the_run_said():
    """Its weights, on validation data, by a forward pass in NumPy."""
    task = make_task()
    result = train(task)
    correct = is_correct(result.best, task.data.validation)
    np.testing.assert_allclose(correct.mean(), result.best.fitness.mean, atol=1e-6)
    np.testing.assert_allclose(
        result.best.fitness.standard_error, correct.std() / np.sqrt(200), atol=1e-6
    )


def is_correct(winner, rows):
    """A forward pass in NumPy."""
    first, last = winner.params["dense1"], winner.params["dense2"]
    hidden = np.maximum(rows["image"] @ first["kernel"] + first["bias"], 0)
    return (hidden @ last["kernel"] + last["bias"]).argmax(-1) == rows["label"]


def test_the_test_split_is_read_once(monkeypatch):
    """Every third of its labels is wrong, so that no other split scores like it."""
    task = make_task()
    rows = {**task.data.test, "label": (LABELS[800:] + (np.arange(400) % 3 == 0)) % 4}
    task = dataclasses.replace(task, data=task.data._replace(test=rows))
    result = train(task)
    report = result.test()
    winners = result.best, result.median, result.first_best
    assert len({(winner.generation, winner.slot) for winner in winners}) == 3
    for winner, got in zip(winners, report, strict=True):
        correct = is_correct(winner, rows)
        np.testing.assert_allclose(got.mean, correct.mean(), atol=1e-6)
        expected = correct.std() / np.sqrt(400)
        np.testing.assert_allclose(got.standard_error, expected, atol=1e-6)
    monkeypatch.setattr("jepbt.training.result.score_on_test", None)
    assert result.test() is report  # a second reading would fail


def test_training_never_sees_the_test_split():
    clean = train()
    poisoned = dataclasses.replace(
        DATA, test={"image": DATA.test["image"] * np.nan, "label": DATA.test["label"]}
    )
    task = make_task()
    task = dataclasses.replace(task, data=task.data._replace(test=poisoned.test))
    np.testing.assert_array_equal(train(task).history.fitness, clean.history.fitness)


def test_a_repeated_run_gives_the_same_bits_and_another_seed_does_not():
    first, again, other = train(seed=3), train(seed=3), train(seed=4)
    for left, right in zip(
        jax.tree.leaves((first.population, first.best.state)),
        jax.tree.leaves((again.population, again.best.state)),
        strict=True,
    ):
        np.testing.assert_array_equal(left, right)
    assert not np.array_equal(first.history.fitness, other.history.fitness)


def test_driver_and_pure_run_compute_the_same_generations():
    task = make_task()
    config = jepbt.Config(**SMALL, seed=5)
    run = jax.jit(jepbt.make_run(task, jepbt.strategies.epbt(), config))
    _, best, history = run(jax.random.key(5), task.data)
    result = train(task, config=config, devices=jax.devices()[:1])
    np.testing.assert_array_equal(result.history.parents, history.parents)
    np.testing.assert_allclose(result.history.fitness, history.fitness, atol=1e-6)
    np.testing.assert_allclose(result.best.fitness.mean, best.member.fitness)


def test_each_function_is_traced_once_over_five_generations():
    counts = {"train_step": 0, "evaluate": 0}
    task = make_task()

    def counting(name):
        def function(*args):
            counts[name] += 1
            return getattr(task, name)(*args)

        return function

    counted = dataclasses.replace(task, **{name: counting(name) for name in counts})
    prepared = jepbt.training.prepare(counted, **SMALL | {"num_generations": 5})
    before = dict(counts)
    jepbt.training.execute(prepared)
    assert counts == before  # nothing compiles once it runs
    assert max(counts.values()) <= 4  # checked, shapes taken, lowered


def test_generations_move_nothing_but_the_record_to_the_host():
    """A silent transfer inside the loop would raise under the guard."""
    prepared = jepbt.training.prepare(make_task(), **SMALL)
    with jax.transfer_guard_device_to_host("disallow"):
        jepbt.training.execute(prepared)


def read_history(folder):
    text = (folder / "history.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_a_run_directory_holds_everything_and_needs_no_jepbt(tmp_path):
    result = train(run_dir=tmp_path / "run")
    folder = tmp_path / "run"
    config = json.loads((folder / "config.json").read_text())
    assert config["config"]["population_size"] == 8
    assert config["chunk_size"] == 1 and config["strategy"] == "epbt"
    assert config["versions"]["jax"] == jax.__version__
    assert config["data"] == "arrays" and config["model"] == "MLP"
    lines = read_history(folder)
    assert [line["generation"] for line in lines] == [0, 1, 2, 3]
    for name in ("fitness", "parents"):
        expected = getattr(result.history, name)
        values = np.array([line[name] for line in lines], expected.dtype)
        np.testing.assert_array_equal(values, expected)  # to the last bit
    rates = np.array([line["hparams"]["rate"] for line in lines], np.float32)
    np.testing.assert_array_equal(rates, result.history.hparams["rate"])
    assert set(lines[0]["hparams"]["activation"]) <= {"relu", "tanh"}
    assert np.shape(lines[0]["hparams"]["loss"]) == (8, 8)
    losses = np.array([line["metrics"]["loss"] for line in lines], np.float32)
    np.testing.assert_array_equal(losses, result.history.metrics["loss"])
    with np.load(folder / "best" / "weights.npz", allow_pickle=False) as weights:
        np.testing.assert_array_equal(
            weights["params/dense1/kernel"], result.best.params["dense1"]["kernel"]
        )
    member = json.loads((folder / "best" / "member.json").read_text())
    assert np.float32(member["fitness"]) == np.float32(result.best.fitness.mean)
    assert member["hparams"]["activation"] == result.best.hparams.activation
    picture = (folder / "figures" / "fitness.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 10_000


def test_failed_members_are_null_in_the_history(tmp_path):
    task = make_task(
        optimizer=lambda h: optax.sgd(jnp.where(h.rate > 0.01, 1e38, 0.01))
    )
    result = train(task, run_dir=tmp_path / "run", strategy="random_search")
    line = read_history(tmp_path / "run")[0]
    failed = np.isnan(result.history.fitness[0])
    assert failed.any() and not failed.all()
    assert [value is None for value in line["fitness"]] == failed.tolist()
    assert result.num_failed == np.isnan(result.history.fitness).sum()
    live = np.sort(result.history.fitness[-1][~np.isnan(result.history.fitness[-1])])
    assert result.median.fitness.mean == live[::-1][live.size // 2]


def test_debug_stops_at_the_first_member_that_fails_and_names_it():
    def sometimes_nan(h):
        return lambda logits, labels: jnp.where(
            h.rate > 0.01, jnp.nan, jepbt.losses.cross_entropy(logits, labels)
        )

    task = make_task(loss=sometimes_nan)
    seen = []
    with pytest.raises(RuntimeError) as stop:
        train(task, debug=True, callbacks=[seen.append])
    first = train(task, num_generations=1).history
    slot = int(np.isnan(first.fitness[0]).argmax())
    rate = first.hparams["rate"][0, slot]
    assert f"member {slot} failed in generation 0" in str(stop.value)
    assert f"rate={rate}" in str(stop.value) and rate > 0.01
    assert len(seen) == 1


def test_a_run_logs_a_line_a_generation_if_asked(caplog):
    train(num_generations=2)
    assert not caplog.records
    train(num_generations=2, log_level="info")
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split("  ")[0] for line in lines] == [
        "generation 1/2",
        "generation 2/2",
    ]


def test_a_full_disk_costs_the_files_and_not_the_run(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(jepbt.checkpoints.folder, "append_history", full)
    monkeypatch.setattr(jepbt.checkpoints.folder, "save_member", full)
    with pytest.warns(RuntimeWarning, match="No space left on device.*goes on"):
        result = train(run_dir=tmp_path / "run")
    assert len(result.history) == 4
    monkeypatch.setattr(jepbt.checkpoints.folder, "replace", full)
    with pytest.warns(RuntimeWarning, match=r"test\.json is not .*No space left"):
        assert 0 < result.test().best.mean <= 1


@pytest.mark.parametrize("content", ["file", "run", "read-only"])
def test_a_run_directory_is_never_overwritten(tmp_path, content):
    folder = tmp_path / "run"
    if content == "file":
        folder.write_text("mine")
    elif content == "run":
        train(run_dir=folder, num_generations=1)
    else:
        folder = pathlib.Path("/proc/jepbt")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=r"run_dir=.*Name (a|another) folder"):
        train(run_dir=folder)
    assert sorted(tmp_path.rglob("*")) == before


def test_callbacks_get_copies_of_every_generation():
    seen = []
    result = train(callbacks=[seen.append])
    assert [generation.number for generation in seen] == [0, 1, 2, 3]
    for generation in seen:
        np.testing.assert_array_equal(
            generation.fitness, result.history.fitness[generation.number]
        )
        assert generation.fitness.flags.owndata and generation.fitness.flags.writeable
        assert set(generation.seconds) == {"evolve", "train", "evaluate"}


def test_limits_end_a_run_normally():
    assert len(train(target_fitness=0.01).history) == 1
    assert len(train(max_seconds=1e-9).history) == 1
    assert len(train(target_fitness=2.0).history) == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_generation_and_hands_over_the_result(number):
    handler = signal.getsignal(number)

    def press(generation):
        if generation.number == 1:
            os.kill(os.getpid(), number)
            time.sleep(0.01)  # lets Python handle it

    with pytest.raises(jepbt.Interrupted) as stop:
        train(callbacks=[press], num_generations=50)
    assert isinstance(stop.value, KeyboardInterrupt)
    assert stop.value.signal_number == number
    assert len(stop.value.result.history) == 2
    assert stop.value.result.best.fitness.mean > 0
    assert signal.getsignal(number) is handler


def test_a_signal_in_the_last_generation_is_not_lost():
    """Whoever runs several after each other stops them all."""

    def press(generation):
        if generation.number == 3:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)

    with pytest.raises(jepbt.Interrupted) as stop:
        train(callbacks=[press])
    assert len(stop.value.result.history) == 4
    assert "after all 4 generations" in str(stop.value)


@pytest.fixture
def default_interrupts():
    """Python's own handler: a process started in the background ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_listening_ends_with_the_run_and_a_second_signal_acts_at_once(
    default_interrupts,
):
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with listen():
        assert signal.getsignal(signal.SIGINT) is not handlers[0]
    assert handlers == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt), listen() as request:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        assert request.signal_number == signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)


def test_numeric_choices_reach_every_function_as_values():
    @dataclass
    class Decay(jepbt.HyperParameters):
        decay: float = jepbt.hparam(0.25, choices=(0.25, 0.5))

    rows = np.zeros(3, np.float32)
    task = jepbt.Task(
        hparams=Decay,
        init=lambda key, h: h.decay,
        train_step=lambda key, born, h, batch, shared: (
            born,
            {"loss": h.decay, "born": born},
        ),
        evaluate=lambda key, born, h, batch, shared: batch + h.decay,
        data=jepbt.Splits(rows, rows, rows),
    )
    small = SMALL | {"num_generations": 1}
    result = jepbt.train_population(task, strategy="random_search", **small)
    history = result.history
    decays = history.hparams["decay"]
    assert set(decays.ravel()) == {0.25, 0.5}
    for seen in (history.fitness, history.metrics["loss"], history.metrics["born"]):
        np.testing.assert_array_equal(seen, decays)
    assert result.best.hparams.decay == result.test().best.mean == 0.5


def test_saved_members_keep_every_type_of_array(tmp_path):
    state = {"half": jnp.array([1.5, -3.0], jnp.bfloat16), "key": jax.random.key(3)}
    jepbt.checkpoints.folder.save_member(tmp_path, state, Hyper(), {"fitness": 0.5})
    with np.load(tmp_path / "weights.npz", allow_pickle=False) as saved:
        np.testing.assert_array_equal(saved["half"], np.float32([1.5, -3.0]))
        np.testing.assert_array_equal(saved["key"], jax.random.key_data(state["key"]))


def test_a_score_is_written_with_its_95_percent_interval():
    assert str(jepbt.results.Score(0.5, 0.1)) == "0.500 ±0.196"


def test_a_run_whose_members_all_fail_says_what_did_it():
    task = make_task(optimizer=lambda h: optax.sgd(jnp.float32(1e38)))
    with pytest.raises(RuntimeError, match=r"all members failed .* rate .* learned"):
        train(task)


def test_a_run_that_fails_later_keeps_its_best():
    @dataclass
    class Fuse(jepbt.HyperParameters):
        fuse: float = jepbt.hparam(0.5, min=0.0, max=1.0)

    task = jepbt.Task(
        hparams=Fuse,
        init=lambda key, h: jnp.float32(0.0),
        train_step=lambda key, x, h, batch, shared: (x + 1, {"loss": 1 / (25 - x)}),
        evaluate=lambda key, x, h, batch, shared: (jnp.sqrt(25 - x) * 0 + x)[None],
    )
    with pytest.warns(RuntimeWarning, match=r"all members failed in generation 2"):
        result = jepbt.train_population(task, **SMALL)
    assert len(result.history) == 3
    assert (result.best.generation, result.best.fitness.mean) == (1, 20.0)


def test_strategies_that_copy_the_dead_are_stopped():
    backwards = jepbt.strategies.pbt(
        exploit=lambda key, fitness: jnp.full(
            fitness.size, jnp.argmax(jnp.isnan(fitness)), jnp.int32
        )
    )
    task = make_task(
        optimizer=lambda h: optax.sgd(jnp.where(h.rate > 0.01, 1e38, 0.01))
    )
    with pytest.raises(RuntimeError, match="which is no live member"):
        train(task, strategy=backwards)


def broken_task(**changes):
    good = {
        "hparams": Hyper,
        "init": lambda key, h: {"x": jnp.zeros(3)},
        "train_step": lambda key, s, h, batch, shared: (s, {"loss": jnp.zeros(())}),
        "evaluate": lambda key, s, h, batch, shared: jnp.zeros(batch.shape[0]),
        "data": jepbt.Splits(np.zeros((9, 2)), np.zeros((5, 2))),
    }
    return jepbt.Task(**(good | changes))
