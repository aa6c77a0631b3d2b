"""The winner's schedule, replayed by jepbt and by plain optax from a run's files."""

import dataclasses
import json
import pathlib
import runpy
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_task

import jepbt
from jepbt.engine.batches import batch_indices
from jepbt.population import BATCHES, FIRST_STATES, derive_key
from jepbt.results import Schedules, load_schedules

EXAMPLE = pathlib.Path(jepbt.__file__).parents[1] / "examples" / "replay_with_optax.py"
rng = np.random.default_rng(0)
CENTRES = rng.normal(size=(4, 12))
LABELS = np.arange(900) % 4
IMAGES = (CENTRES[LABELS] + 1.3 * rng.normal(size=(900, 12))).astype(np.float32)
DATA = jepbt.datasets.from_arrays((IMAGES, LABELS), validation=200)
SETTINGS = {"population_size": 6, "num_generations": 4, "steps_per_generation": 5}
SETTINGS |= {"progress": False, "chunk_size": 1}


@dataclass
class Hyper(jepbt.HyperParameters):
    learning_rate: float = jepbt.hparam(0.03, min=1e-3, max=0.1, log=True)
    momentum: float = jepbt.hparam(0.7, min=0.0, max=0.9)
    weight_decay: float = jepbt.hparam(1e-4, min=1e-6, max=1e-2, log=True)
    power: float = jepbt.hparam(0.1, choices=(0.1, 0.3))
    activation: str = jepbt.hparam("relu", choices=("relu", "tanh"))
    loss: jepbt.Loss = jepbt.taylor_hparam(sigma=0.5)


def make_task(hparams=Hyper, data=DATA):
    return jepbt.classification(
        data,
        hparams=hparams,
        model=jepbt.models.MLP(num_classes=4, hidden=(16,)),
        loss=lambda h: jepbt.losses.taylor(h.loss),
        optimizer=lambda h: optax.chain(
            optax.add_decayed_weights(h.weight_decay),
            optax.sgd(h.learning_rate, momentum=h.momentum, nesterov=True),
        ),
        batch_size=32,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "0001"
    task = make_task()
    result = jepbt.train_population(task, run_dir=folder, seed=2, **SETTINGS)
    return result, folder


def test_the_schedule_is_what_the_winners_ancestors_trained_with(run):
    result, _ = run
    slots, slot = [], result.best.slot
    for number in range(result.best.generation, 0, -1):
        slots.append(slot)
        slot = result.history.parents[number, slot]
    line = [slot, *slots[::-1]]
    assert len(set(line)) > 1  # or this run would test nothing
    for name, values in result.history.hparams.items():
        for step in range(5 * len(line) + 7):
            number = min(step // 5, len(line) - 1)
            value = result.schedule[name](step)
            assert np.all(value == values[number, line[number]]), (name, step)


def test_the_schedule_is_one_of_optax(run):
    schedule = run[0].schedule["learning_rate"]
    optimizer = optax.inject_hyperparams(optax.sgd)(schedule)
    params = jnp.zeros(2)
    update = jax.jit(optimizer.update)
    state = optimizer.init(params)
    for step in range(12):
        updates, state = update(jnp.ones(2), state)
        np.testing.assert_allclose(updates, -schedule(step))


def test_the_schedule_comes_back_from_its_file(run):
    result, folder = run
    again = load_schedules(folder)
    assert list(again) == list(result.schedule)
    assert again.num_steps == 5 * (result.best.generation + 1)
    assert again.batch_size == 32
    for name, values in result.schedule.by_generation.items():
        assert again.by_generation[name].dtype == values.dtype
        np.testing.assert_array_equal(again.by_generation[name], values)


def test_the_run_leaves_its_loss_as_a_file(run):
    result, folder = run
    assert (folder / "loss.py").read_text() == result.evolved_loss.source()
    np.testing.assert_array_equal(result.evolved_loss.theta, result.best.hparams.loss)


def test_every_seed_starts_a_network_of_its_own_on_the_same_schedule(run):
    result, folder = run
    by_result = jepbt.replay(make_task(), result, progress=False)
    by_folder = jepbt.replay(make_task(), folder, progress=False)
    other = jepbt.replay(make_task(), result, seed=1, population_size=2, progress=False)
    for name, values in result.schedule.by_generation.items():
        for again in (by_result, by_folder, other):
            got = again.history.hparams[name]
            np.testing.assert_array_equal(got, np.stack([values] * got.shape[1], 1))
    same = by_result.history.fitness, by_folder.history.fitness
    np.testing.assert_array_equal(*same)
    assert by_result.history.fitness.shape == (result.best.generation + 1, 1)
    first, second = (leaf for leaf in other.population.state.params["dense1"]["kernel"])
    assert np.abs(first - second).max() > 0.01


def relu(x):
    return jnp.maximum(x, 0)


PAIR = tuple(lambda x, k=k: k * x for k in (1, 2))


@dataclass
class Odd(tiny_task.Hyper):
    """Choices that a file holds in other words, or with an address."""

    clip: object = jepbt.hparam(None, choices=(None, 0.1, 1.0))
    kernel: object = jepbt.hparam((3, 3), choices=((3, 3), (5, 5)))
    mixed: object = jepbt.hparam((1, 2), choices=(None, 0.1, "a", (1, 2)))
    function: object = jepbt.hparam(relu, choices=(relu, jnp.tanh))


ODD_TASK = dataclasses.replace(tiny_task.TASK, hparams=Odd)


@pytest.mark.parametrize("mixed", [(None, 0.1, "a", (1, 2)), 2 * (None, 0.1)])
def test_choices_of_any_kind_are_replayed_from_the_folder(mixed, tmp_path):
    columns = {
        "clip": (None, 0.1, 1.0, None),
        "kernel": ((5, 5), (3, 3), (5, 5), (3, 3)),
        "mixed": mixed,
        "function": (jnp.tanh, relu, relu, jnp.tanh),
    }
    values = {"rate": np.float32([0.1, 0.2, 0.1, 0.2])}
    for name, column in columns.items():
        values[name] = np.empty(4, object)
        values[name][:] = column
    text = Schedules(values, 2).to_json()
    # In another process an object has another address.
    (tmp_path / "schedule.json").write_text(text.replace(" at 0x", " at 0x1"))
    again = jepbt.replay(ODD_TASK, tmp_path, progress=False)
    for name, column in columns.items():
        assert tuple(again.history.hparams[name][:, 0]) == column, name


def test_choices_that_look_alike_in_a_file_are_not_guessed(tmp_path):
    task = dataclasses.replace(
        tiny_task.TASK,
        hparams=dataclasses.make_dataclass(
            "Alike",
            [("f", object, jepbt.hparam(PAIR[0], choices=PAIR))],
            bases=(tiny_task.Hyper,),
        ),
    )
    result = tiny_task.train(task, 2, 1, 1, run_dir=tmp_path)
    text = (tmp_path / "schedule.json").read_text()
    (tmp_path / "schedule.json").write_text(text.replace(" at 0x", " at 0x1"))
    with pytest.raises(ValueError, match=r"look alike in a file\. Pass jepbt\.load"):
        jepbt.replay(task, tmp_path, progress=False)
    again = jepbt.replay(task, jepbt.load(tmp_path, task), progress=False)
    assert again.best.hparams.f is result.best.hparams.f


def test_more_steps_stretch_the_schedule(run):
    result, _ = run
    again = jepbt.replay(make_task(), result, scale=3, progress=False)
    assert len(again.history) * 15 == 3 * result.schedule.num_steps
    assert again.config.steps_per_generation == 15


def test_sizes_are_given_beside_a_config_and_not_in_it(run):
    result, _ = run
    length = result.schedule.num_generations
    config = dataclasses.replace(result.config, run_dir=None, progress=False)
    again = jepbt.replay(make_task(), result, config=config, scale=2)
    sizes = again.config.steps_per_generation, again.config.batch_size
    assert (again.history.fitness.shape, *sizes) == ((length, 1), 10, 32)
    given = {"population_size": 3, "steps_per_generation": 9, "batch_size": 16}
    again = jepbt.replay(make_task(), result, config=config, **given)
    assert {name: getattr(again.config, name) for name in given} == given
    assert again.history.fitness.shape == (length, 3)


@pytest.mark.parametrize("scale", [1, 2])
def test_plain_optax_reaches_the_same_weights(run, scale, tmp_path):
    """From the run directory's files, by the example, which imports no jepbt."""
    result, folder = run
    task = make_task()
    replayed = jepbt.replay(task, folder, scale=scale, seed=5, progress=False)
    fields = json.loads((folder / "schedule.json").read_text())
    fields["steps_per_generation"] *= scale
    fields["num_steps"] *= scale
    (tmp_path / "schedule.json").write_text(json.dumps(fields))
    (tmp_path / "loss.py").write_text((folder / "loss.py").read_text())

    key = jax.random.key(5)
    start = task.init(derive_key(key, FIRST_STATES, 0), result.best.hparams).params
    params = {
        "w1": start["dense1"]["kernel"],
        "b1": start["dense1"]["bias"],
        "w2": start["dense2"]["kernel"],
        "b2": start["dense2"]["bias"],
    }
    train = task.data.train

    def batches():
        for generation in range(result.best.generation + 1):
            rows = batch_indices(
                derive_key(key, BATCHES),
                generation,
                num_examples=700,
                batch_size=32,
                num_steps=5 * scale,
            )
            for row in np.asarray(rows):
                yield train["image"][row], jax.nn.one_hot(train["label"][row], 4)

    example = runpy.run_path(str(EXAMPLE))
    with jax.numpy_rank_promotion("allow"):
        got = example["train"](tmp_path, example["apply"], params, batches())
    expected = replayed.final_best.params
    for name, layer, leaf in (
        ("w1", "dense1", "kernel"),
        ("b1", "dense1", "bias"),
        ("w2", "dense2", "kernel"),
        ("b2", "dense2", "bias"),
    ):
        np.testing.assert_allclose(got[name], expected[layer][leaf], atol=2e-5)
    moved = np.abs(got["w1"] - params["w1"]).max()
    assert moved > 0.05  # it trained


def test_the_example_imports_no_jepbt():
    text = EXAMPLE.read_text()
    assert "import jepbt" not in text and "from jepbt" not in text


def test_what_does_not_fit_is_said_before_anything_trains(run):
    result, _ = run

    @dataclass
    class Other(Hyper):
        extra: float = jepbt.hparam(0.5, min=0.0, max=1.0)

    with pytest.raises(ValueError, match=r"Other has .*extra. Replay with a task of"):
        jepbt.replay(make_task(Other), result)
    with pytest.raises(ValueError, match="scale=0 must be a number above 0"):
        jepbt.replay(make_task(), result, scale=0)
    with pytest.raises(ValueError, match=r"leaves no step .* at least 0.2"):
        jepbt.replay(make_task(), result, scale=0.01)
    with pytest.raises(TypeError, match="schedule must be a Result"):
        jepbt.replay(make_task(), 3)
    wrong = dict(result.schedule.by_generation)
    wrong["activation"] = np.array(["gelu"] * len(wrong["loss"]), object)
    with pytest.raises(ValueError, match="activation='gelu' is none of the task's"):
        jepbt.replay(make_task(), Schedules(wrong, 5))
    with pytest.raises(ValueError, match="is no schedule of a run"):
        jepbt.replay(make_task(), "/nowhere")


def test_a_run_without_an_evolved_loss_says_so(tmp_path):
    @dataclass
    class Plain(jepbt.HyperParameters):
        learning_rate: float = jepbt.hparam(0.05, min=1e-3, max=0.3, log=True)

    task = jepbt.classification(
        DATA,
        hparams=Plain,
        model=jepbt.models.MLP(num_classes=4, hidden=(4,)),
        loss=lambda h: jepbt.losses.cross_entropy,
        optimizer=lambda h: optax.sgd(h.learning_rate),
    )
    settings = SETTINGS | {"num_generations": 2}
    result = jepbt.train_population(task, run_dir=tmp_path / "run", **settings)
    with pytest.raises(ValueError, match=r"\(learning_rate\) none is declared"):
        _ = result.evolved_loss
    assert not (tmp_path / "run" / "loss.py").exists()
    assert (tmp_path / "run" / "schedule.json").exists()
    assert dataclasses.asdict(result.config)["num_generations"] == 2
