"""A run's folder gives its result back, or a sentence that says why not."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from host_functions import climb, population
from resumable import IMAGES, Hyper, assert_equal_bits, make_task, train

import jepbt


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "0001"
    return train(run_dir=folder), folder


def test_a_loaded_result_is_the_result(run):
    result, folder = run
    again = jepbt.load(str(folder), make_task())
    assert_equal_bits(again, result)
    assert type(again) is type(result)
    inputs = result.task.data.validation["image"]
    np.testing.assert_array_equal(again.predict(inputs), result.predict(inputs))
    logits = result.best.model(inputs)
    np.testing.assert_array_equal(again.best.model(inputs), logits)
    assert again.schedule.to_json() == result.schedule.to_json()
    assert again.evolved_loss.source() == result.evolved_loss.source()
    assert repr(again) == repr(result)
    same = ("population_size", "num_generations", "steps_per_generation", "seed")
    for name in same:
        assert getattr(again.config, name) == getattr(result.config, name)
    assert again.ensemble(3).mean == result.ensemble(3).mean
    assert again.average(3).fitness == result.average(3).fitness
    assert str(again.best.fitness) in again._repr_html_()
    assert again.test() == result.test()


def test_a_new_run_starts_from_a_loaded_one(run):
    result, folder = run
    again = jepbt.load(folder, make_task())
    more, expected = (
        train(initial=each, population_size=4, num_generations=1)
        for each in (again, result)
    )
    assert_equal_bits(more, expected)


def with_test(test):
    task = make_task()
    return dataclasses.replace(task, data=task.data._replace(test=test))


def test_a_task_may_lack_the_test_split_or_have_gained_it(run, tmp_path):
    result, folder = run
    assert_equal_bits(jepbt.load(folder, with_test(None)), result)
    train(with_test(None), run_dir=tmp_path / "run")
    again = jepbt.load(tmp_path / "run", make_task())
    assert again.test() == result.test()


def test_a_replay_is_loaded_too(run, tmp_path):
    replayed = jepbt.replay(
        make_task(), run[0], run_dir=tmp_path / "again", progress=False
    )
    assert_equal_bits(jepbt.load(tmp_path / "again", make_task()), replayed)


@dataclasses.dataclass
class Odd(jepbt.HyperParameters):
    rate: float = jepbt.hparam(0.1, min=0.01, max=1.0)
    function: object = jepbt.hparam(None, choices=(None, jnp.tanh))


def make_odd_task(scale=1.0):
    """A random key, a small float and nothing at all in a state of the user's own."""

    def init(key, h):
        state = {"key": key, "half": jnp.bfloat16(scale), "none": jnp.zeros((0, 2))}
        return state | {"count": jnp.int32(0)}

    def train_step(key, state, h, batch, shared):
        return state | {"key": key, "count": state["count"] + 1}, {"loss": h.rate}

    return jepbt.Task(
        hparams=Odd,
        init=init,
        train_step=train_step,
        evaluate=lambda key, state, h, batch, shared: h.rate[None],
    )


def test_states_and_choices_of_the_users_own_come_back(tmp_path):
    result = jepbt.train_population(
        make_odd_task(),
        population_size=4,
        num_generations=2,
        steps_per_generation=3,
        strategy="random_search",
        devices=jax.devices()[:1],
        progress=False,
        run_dir=tmp_path / "run",
    )
    again = jepbt.load(tmp_path / "run", make_odd_task())
    assert_equal_bits(again, result)
    assert set(again.history.hparams["function"].ravel()) == {None, jnp.tanh}
    assert again.best.state["half"].dtype == jnp.bfloat16
    for holder in (again.best, again.population):
        assert holder.state["key"].dtype == result.best.state["key"].dtype


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(6, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.head = nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, images):
        return self.head(nnx.relu(self.norm(self.hidden(images))))


def make_nnx_task():
    return jepbt.classification(
        (IMAGES, (IMAGES[:, 0] > 0).astype(int)),
        hparams=Hyper,
        model=NnxNet,
        loss=lambda h: jepbt.losses.taylor(h.loss),
        optimizer=lambda h: optax.adam(h.rate),
    )


def test_a_module_of_nnx_comes_back_with_its_statistics(tmp_path):
    with jax.numpy_rank_promotion("allow"):
        result = train(make_nnx_task(), run_dir=tmp_path / "run", num_generations=2)
        model = jepbt.load(tmp_path / "run", make_nnx_task()).best.model
        assert type(model) is NnxNet
        before = nnx.state(result.best.model)
        for one, other in zip(
            jax.tree.leaves(nnx.state(model)), jax.tree.leaves(before), strict=True
        ):
            np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(model(IMAGES), result.best.model(IMAGES))


@dataclasses.dataclass
class Wider(Hyper):
    rate: float = jepbt.hparam(0.05, min=1e-3, max=0.6, log=True)


def with_tanh():
    """The same weights, another network."""
    task = make_task()

    def evaluate(key, state, h, batch, shared):
        image = jnp.tanh(batch["image"])
        return task.evaluate(key, state, h, batch | {"image": image}, shared)

    return dataclasses.replace(task, evaluate=evaluate)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: make_task(images=IMAGES + 1), "the train data are others"),
        (
            lambda: with_test(make_task().data.validation),
            "the test data are others",
        ),
        (lambda: make_task(hparams=Wider), "hyperparameter 'rate' was"),
        (lambda: make_task(hidden=9), "the model differs, or how members are scored"),
        (with_tanh, "the model differs, or how members are scored"),
        (lambda: make_task(momentum=None), "does not fit the task: it has 12 arrays"),
        (make_odd_task, "hyperparameter 'function' was absent"),
    ],
)
def test_another_task_is_refused_before_anything_compiles(run, make, said, monkeypatch):
    task = make()

    def compile(*_, **__):
        raise AssertionError("something was compiled")

    monkeypatch.setattr(jax.stages.Lowered, "compile", compile)
    with pytest.raises(ValueError) as error:
        jepbt.load(run[1], task)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_under_another_jax_shapes_alone_are_compared(run, tmp_path, monkeypatch):
    shutil.copytree(run[1], tmp_path / "run")
    monkeypatch.setattr("jepbt.checkpoints.identity.jax.__version__", "0.0.1")
    assert_equal_bits(jepbt.load(tmp_path / "run", with_tanh()), run[0])
    with pytest.raises(ValueError, match=r"dense1.* is float32\[.* where .* is needed"):
        jepbt.load(tmp_path / "run", make_task(hidden=9))


def test_what_holds_no_run_is_refused(tmp_path):
    task = make_task()
    for folder, said in (
        (tmp_path / "nowhere", "it is not known what the run there was"),
        (tmp_path, "it is not known what the run there was"),
    ):
        with pytest.raises(ValueError, match=said):
            jepbt.load(folder, task)
    with pytest.raises(TypeError, match="run_dir must be a run's folder, got int"):
        jepbt.load(3, task)
    with pytest.raises(TypeError, match=r"task must be a jepbt\.Task, got str"):
        jepbt.load(tmp_path, "fashion_mnist")
    list(jepbt.epbt(1, population(2), climb, run_dir=tmp_path / "h"))
    with pytest.raises(ValueError, match=r"holds a run of jepbt\.epbt"):
        jepbt.load(tmp_path / "h", task)


def test_a_run_without_a_checkpoint_says_so(run, tmp_path):
    folder = shutil.copytree(run[1], tmp_path / "run")
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(ValueError, match="holds no whole checkpoint: nothing"):
        jepbt.load(folder, make_task())


def test_a_damaged_checkpoint_costs_its_generation_and_the_last_one_the_run(
    run, tmp_path
):
    result, original = run
    folder = shutil.copytree(original, tmp_path / "run")
    flip(largest(folder / "checkpoints" / "000005"))
    with pytest.warns(RuntimeWarning, match="000005: .* changed.* of generation 4 is"):
        again = jepbt.load(folder, make_task())
    assert len(again.history) == 5
    np.testing.assert_array_equal(again.history.fitness, result.history.fitness[:5])
    slots = again.population.fitness
    np.testing.assert_array_equal(slots, result.history.fitness[4])
    for number in (3, 4):
        flip(largest(folder / "checkpoints" / f"{number:06d}"))
    with pytest.raises(ValueError, match=r"no whole checkpoint \(000005: .*000003: "):
        jepbt.load(folder, make_task())


@pytest.mark.parametrize("name", ["history.jsonl", "config.json"])
def test_a_flipped_bit_in_a_text_is_found_or_without_effect(run, name, tmp_path):
    result, original = run
    folder = shutil.copytree(original, tmp_path / "run")
    content = (folder / name).read_bytes()
    generator, refused = np.random.default_rng(0), 0
    for place in generator.integers(len(content), size=25):
        changed = bytearray(content)
        changed[place] ^= 1 << int(generator.integers(7))
        (folder / name).write_bytes(changed)
        try:
            again = jepbt.load(folder, make_task())
        except ValueError as error:
            assert "\n" not in str(error)
            refused += 1
        else:
            assert_equal_bits(again, result)
    assert refused or name == "config.json"  # most of which is for people


@pytest.mark.parametrize(
    "change", [[], {}, {"config": 3}, {"config": {"log_level": "loud"}}]
)
def test_settings_that_are_none_are_refused(run, change, tmp_path):
    folder = shutil.copytree(run[1], tmp_path / "run")
    settings = json.loads((folder / "config.json").read_text())
    settings = settings | change if change else change
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"config\.json.* "):
        jepbt.load(folder, make_task())


def largest(folder):
    return max(
        (path for path in folder.rglob("*") if path.is_file()),
        key=lambda path: path.stat().st_size,
    )


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
