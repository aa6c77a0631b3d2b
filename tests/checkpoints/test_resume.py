"""A run that was stopped goes on as if it had not been."""

import dataclasses
import json
import os
import shutil
import signal
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as orbax
import pytest
from resumable import IMAGES, SMALL, Hyper, assert_equal_bits, make_task, train

import jepbt
from jepbt.checkpoints import Keeper, RunFolder, checkpoint, keeper
from jepbt.checkpoints import folder as run_directory
from jepbt.engine.checks import check_elements
from jepbt.results import json_lines

COMPILES_EMPTY = jax.__version_info__[:2] != (0, 11)
"""Whether JAX's compiler survives arrays without elements over several devices."""


class Stop(Exception):
    pass


def stop_after(number):
    def stop(generation):
        if generation.number == number:
            raise Stop

    return stop


def interrupt_after(number):
    def press(generation):
        if generation.number == number:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)

    return press


WEIGHTS = {
    "dense1": {"kernel": np.ones((6, 8), "f4"), "bias": np.ones(8, "f4")},
    "dense2": {"kernel": np.ones((8, 2), "f4"), "bias": np.ones(2, "f4")},
}


def checkpoints(folder):
    return [int(path.name) for path in checkpoint.list_all(folder / "checkpoints")]


@pytest.fixture(scope="module")
def whole():
    """The run that everything here is compared with: no files, nothing stops it."""
    return train()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    train(run_dir=folder, resume=True, keep_checkpoints=2)
    return folder


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("ending", "every", "num_devices"),
    [
        ("signal", 1, 4),
        ("callback", 100, 4),
        slow("signal", 100, 1),
        slow("callback", 1, 1),
        slow("limit", 1, 1),
        slow("limit", 100, 4),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    tmp_path, whole, ending, every, num_devices
):
    devices = jax.devices()[:num_devices]
    expected = whole if num_devices == 4 else train(devices=devices)
    same = {
        "run_dir": tmp_path / "run",
        "devices": devices,
        "checkpoint_every": every,
    }
    if ending == "limit":
        assert len(train(max_seconds=1e-9, **same).history) == 1
    elif ending == "signal":
        with pytest.raises(jepbt.Interrupted, match="resume=True"):
            train(callbacks=[interrupt_after(2)], **same)
    else:
        with pytest.raises(Stop) as caught:
            train(callbacks=[stop_after(3)], **same)
        assert len(caught.value.result.history) == 4
    done = {"limit": 1, "signal": 3, "callback": 4}[ending]
    assert checkpoints(tmp_path / "run")[0] == done - 1
    seen = []
    result = train(resume=True, callbacks=[seen.append], **same)
    assert [generation.number for generation in seen] == list(range(done, 6))
    assert_equal_bits(result, expected)
    lines = (tmp_path / "run" / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["generation"] for line in lines] == list(range(6))


def test_a_finished_run_returns_its_result_without_training(copy, whole):
    before = (copy / "history.jsonl").read_bytes()
    seen = []
    again = train(run_dir=copy, resume=True, callbacks=[seen.append])
    assert not seen
    assert_equal_bits(again, whole)
    assert (copy / "history.jsonl").read_bytes() == before
    assert again.seconds["train"] > 0
    assert again.test().best == whole.test().best


def test_without_a_folder_a_callbacks_error_holds_the_result():
    with pytest.raises(Stop) as caught:
        train(callbacks=[stop_after(1)])
    result = caught.value.result
    assert len(result.history) == 2 and result.best.fitness.mean > 0
    assert "`.result`" in caught.value.__notes__[0]


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(copy, whole):
    files = [p for p in (copy / "checkpoints" / "000005").rglob("*") if p.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    with pytest.warns(RuntimeWarning, match="000005.* is damaged .*of generation 4"):
        result = train(run_dir=copy, resume=True)
    assert_equal_bits(result, whole)
    assert (copy / "checkpoints" / "damaged-000005").is_dir()


def test_without_a_whole_checkpoint_a_run_is_refused(copy):
    for path in checkpoint.list_all(copy / "checkpoints"):
        (path / "manifest.json").write_text("{}")
    with pytest.raises(
        ValueError, match=r"no checkpoint is whole .*000005: its manifest"
    ):
        train(run_dir=copy, resume=True)


def shorten(lines):
    return lines[:3]


def change_a_digit(lines):
    return [*lines[:2], lines[2].replace(b"1", b"2", 1), *lines[3:]]


@pytest.mark.parametrize("harm", [shorten, change_a_digit])
def test_a_history_that_is_not_whole_is_refused_and_stays(copy, harm):
    path = copy / "history.jsonl"
    path.write_bytes(b"".join(harm(path.read_bytes().splitlines(keepends=True))))
    (copy / "config.json").unlink()  # it is written before, with the new settings
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    with pytest.raises(
        ValueError, match=r"history.jsonl does not hold the 6 gen.*best/"
    ):
        train(run_dir=copy, resume=True)
    (copy / "config.json").unlink()
    assert before == {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}


def test_lines_beyond_the_checkpoint_are_cut(copy, whole):
    before = (copy / "history.jsonl").read_bytes()
    shutil.rmtree(copy / "checkpoints" / "000005")
    with open(copy / "history.jsonl", "ab") as file:
        file.write(b'{"generation": 6, "fit')
    assert_equal_bits(train(run_dir=copy, resume=True), whole)
    after = (copy / "history.jsonl").read_bytes().splitlines()
    assert after[:5] == before.splitlines()[:5] and len(after) == 6


def test_a_history_keeps_what_json_cannot_hold(tmp_path):
    """Inf, other nans than Python's, bfloat16, unsigned integers; odd choices."""
    choices = (None, "relu", jnp.tanh, (3, 4))

    @dataclasses.dataclass
    class Odd(jepbt.HyperParameters):
        rate: float = jepbt.hparam(0.1, min=0.01, max=1.0)
        odd: object = jepbt.hparam(None, choices=choices)

    odd = np.empty(4, object)
    odd[:] = [None, "relu", jnp.tanh, None]
    odd[3] = choices[3]
    nan = np.array(0xFFC00001, np.uint32).view(np.float32)
    report = jepbt.results.Generation(
        0,
        np.float32([1.0, np.nan, -0.0, 1e-45]),
        np.array([nan, 0.1, np.inf, -np.inf], np.float32),
        np.arange(4, dtype=np.int32),
        {"rate": np.float32([0.1, 0.2, 0.3, 0.4]), "odd": odd},
        {
            "half": np.array([1.5, np.inf, 0, -0.0], jnp.bfloat16),
            "loss": np.array([np.inf, 1, 2, 3], np.float32),
        },
        {"count": np.array([1, 2, 3, 2**32 - 1], np.uint32), "none": np.zeros((0, 2))},
        {"train": 1.0},
    )
    odd_choices = json_lines.odd_choices(Odd)
    run_directory.append_history(tmp_path, report, odd_choices)
    (again,) = run_directory.read_history(tmp_path, 1, odd_choices)
    (read,) = jepbt.load_history(tmp_path).generations
    assert read.hparams["odd"].tolist()[:2] == [None, "relu"]
    for name, metric in report.metrics.items():
        assert read.metrics[name].tobytes() == metric.tobytes()
    columns, others = json_lines._columns(report), json_lines._columns(again)
    assert columns.keys() == others.keys()
    for name, column in columns.items():
        other = others[name]
        assert (column.dtype, column.shape) == (other.dtype, other.shape), name
        if column.dtype == object:
            assert column.tolist() == other.tolist()
        else:
            assert column.tobytes() == other.tobytes(), name


def test_one_file_that_cannot_be_written_keeps_no_other_from_it(copy):
    loss = (copy / "loss.py").read_bytes()
    (copy / "loss.py").write_text("stale")
    (copy / "schedule.json").unlink()
    (copy / "schedule.json").mkdir()
    with pytest.warns(RuntimeWarning, match=r"/schedule\.json does not show the best"):
        train(run_dir=copy, resume=True)
    assert (copy / "loss.py").read_bytes() == loss


@pytest.mark.parametrize("name", ["config.json", ".history.jsonl", "best", ".lock"])
def test_a_run_does_not_write_where_a_link_leads(copy, tmp_path, name):
    (tmp_path / "elsewhere").mkdir()
    if (copy / name).is_dir():
        shutil.rmtree(copy / name)
    (copy / name).unlink(missing_ok=True)
    (copy / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=f"{name} is a link"):
        train(run_dir=copy, resume=True)
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("name", ["confusions.json", "runs.jsonl", "candidates.pkl"])
def test_no_file_that_a_run_may_write_is_a_link(tmp_path, name):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=f"{name} is a link"):
        run_directory.claim(tmp_path / "run")


def test_a_run_that_another_function_made_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"loop": "jepbt.epbt"}))
    with pytest.raises(ValueError, match=r"holds a run of jepbt\.epbt"):
        train(run_dir=tmp_path, resume=True)


def test_a_disk_that_cannot_hold_the_checkpoints_is_refused(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ValueError, match=r"keep_checkpoints=3 .* GB are free"):
        train(run_dir=tmp_path)


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path, monkeypatch):
    def refuse(path, content):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(jepbt.checkpoints.folder, "replace", refuse)
    with pytest.raises(ValueError, match="cannot be written to: Read-only file"):
        train(run_dir=tmp_path / "run")


def test_a_run_that_ended_before_its_first_generation_starts_again(
    tmp_path, monkeypatch, whole
):
    def stop(*_):
        raise MemoryError

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(Keeper, "find", stop)
        train(run_dir=tmp_path / "run")
    with pytest.warns(RuntimeWarning, match="starts again from its first generation"):
        again = train(run_dir=tmp_path / "run", resume=True)
    assert_equal_bits(again, whole)


def test_a_run_that_starts_again_begins_its_history_anew(copy, whole):
    shutil.rmtree(copy / "checkpoints")
    with pytest.warns(RuntimeWarning, match="starts again from its first generation"):
        assert_equal_bits(train(run_dir=copy, resume=True), whole)
    lines = (copy / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["generation"] for line in lines] == list(range(6))


def test_a_history_without_a_checkpoint_or_an_identity_is_kept(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "history.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match="does not say what it was"):
        train(run_dir=tmp_path, resume=True)
    assert (tmp_path / "history.jsonl").read_text() == "{}\n"


def test_the_settings_file_says_what_the_checkpoints_say(finished):
    identity = json.loads((finished / "config.json").read_text())["identity"]
    newest = checkpoint.list_all(finished / "checkpoints")[0]
    assert identity == checkpoint.verify(newest)["identity"]
    assert identity["settings"]["seed"] == 0


def test_fewer_generations_than_were_trained_are_refused(copy):
    with pytest.raises(ValueError, match="num_generations=4 must be at least 6"):
        train(run_dir=copy, resume=True, num_generations=4)


@pytest.mark.slow
def test_more_generations_continue_a_finished_run(tmp_path, whole):
    train(run_dir=tmp_path / "run", num_generations=3)
    assert_equal_bits(train(run_dir=tmp_path / "run", resume=True), whole)


@pytest.mark.slow
def test_a_reached_target_stays_reached_and_a_higher_one_goes_on(tmp_path, whole):
    assert len(train(run_dir=tmp_path / "run", target_fitness=0.01).history) == 1
    again = train(run_dir=tmp_path / "run", target_fitness=0.01, resume=True)
    assert len(again.history) == 1
    on = train(run_dir=tmp_path / "run", target_fitness=2.0, resume=True)
    assert_equal_bits(on, whole)


@pytest.mark.slow
def test_another_device_count_goes_on_with_the_same_draws(tmp_path, whole):
    before = train(
        run_dir=tmp_path / "run", max_seconds=1e-9, devices=jax.devices()[:1]
    )
    result = train(run_dir=tmp_path / "run", resume=True)
    assert len(result.history) == 6
    np.testing.assert_array_equal(result.history.fitness[0], before.history.fitness[0])
    np.testing.assert_allclose(
        result.history.hparams["rate"][1], whole.history.hparams["rate"][1]
    )


def test_a_folder_in_use_is_refused(copy):
    held = run_directory.lock(copy)
    with pytest.raises(ValueError, match="in use by another run"):
        train(run_dir=copy, resume=True)
    held.release()


@dataclasses.dataclass
class Wider(Hyper):
    rate: float = jepbt.hparam(0.05, min=1e-3, max=0.6, log=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"steps_per_generation": 6}, "steps_per_generation was 5 and is 6"),
        ({"population_size": 4}, "population_size was 8 and is 4"),
        ({"batch_size": 10}, "batch_size was 64 and is 10"),
        ({"batches": "per_member"}, "batches was 'shared' and is 'per_member'"),
        ({"task": make_task(images=IMAGES + 1e-7)}, "the train data are others"),
        ({"task": make_task(momentum=0.8)}, "program differs: the model, its loss"),
        ({"task": make_task(hidden=9)}, "program differs: how a first generation"),
        ({"task": make_task(hparams=Wider)}, "hyperparameter 'rate' was .* 0.5"),
        ({"strategy": "pbt"}, "program differs: the strategy"),
        ({"initial": WEIGHTS}, "initial was left out and is given"),
    ],
)
def test_another_run_is_refused_with_what_differs(finished, changes, message):
    before = sorted((p, p.stat().st_mtime_ns) for p in finished.rglob("*") if p.suffix)
    with pytest.raises(ValueError, match=message):
        train(run_dir=finished, resume=True, **changes)
    after = sorted((p, p.stat().st_mtime_ns) for p in finished.rglob("*") if p.suffix)
    assert after == before


@pytest.mark.slow
def test_a_strategy_that_plans_by_the_number_of_generations_is_told_so(tmp_path):
    pbt = jepbt.strategies.pbt()

    def init(key, kind, num_members, num_generations):
        state, hparams = pbt.init(key, kind, num_members, num_generations)
        return (jnp.float32(num_generations), state), hparams

    def step(key, state, *args):
        planned, inner = state
        inner, plan = pbt.step(key, inner, *args)
        return (planned, inner), plan

    strategy = jepbt.strategies.Strategy(init, step)
    train(run_dir=tmp_path / "run", strategy=strategy, num_generations=2)
    with pytest.raises(ValueError, match="num_generations was 2 and is 3, which this"):
        train(
            run_dir=tmp_path / "run",
            strategy=strategy,
            num_generations=3,
            resume=True,
        )


def test_the_last_few_checkpoints_are_kept_and_nothing_else(finished):
    names = sorted(path.name for path in (finished / "checkpoints").iterdir())
    assert names == ["000004", "000005"]


@pytest.fixture
def saved(monkeypatch):
    """The generations whose checkpoints got a manifest, in order."""
    numbers, seal = [], checkpoint.seal

    def note(root, generation, facts):
        numbers.append(generation)
        seal(root, generation, facts)

    monkeypatch.setattr(checkpoint, "seal", note)
    return numbers


def test_every_third_generation_is_saved_and_the_last(tmp_path, saved):
    train(run_dir=tmp_path / "run", checkpoint_every=3, num_generations=8)
    assert saved == [2, 5, 7]


@pytest.mark.parametrize(
    ("cost", "seconds_ago", "is_due"),
    [(3.0, 90, False), (3.0, 110, True), (0.1, 25, False), (0.1, 35, True)],
)
def test_auto_rests_until_saving_took_three_percent(
    tmp_path, cost, seconds_ago, is_due
):
    """After three seconds of writing: 97 seconds; but never less than half a minute."""
    folder = RunFolder(tmp_path, run_directory.lock(tmp_path))
    with Keeper(folder, jepbt.Config(run_dir=tmp_path)) as kept:
        kept._cost, kept._written_at = cost, time.monotonic() - seconds_ago
        assert kept._is_due(0) == is_due


@pytest.mark.slow
def test_auto_saves_less_often_where_saving_is_slow(tmp_path, saved, monkeypatch):
    seal = checkpoint.seal
    monkeypatch.setattr(keeper, "PAUSE", 0.0)

    def slow(*args):
        time.sleep(0.05)
        seal(*args)

    monkeypatch.setattr(checkpoint, "seal", slow)
    train(run_dir=tmp_path / "run", checkpoint_every="auto", num_generations=30)
    assert saved[0] == 0 and saved[-1] == 29 and len(saved) < 15


@pytest.mark.slow
def test_a_second_run_in_one_folder_is_refused(tmp_path):
    started, go_on = threading.Event(), threading.Event()

    def hold(generation):
        started.set()
        assert go_on.wait(60)

    first = threading.Thread(
        target=lambda: train(run_dir=tmp_path / "run", callbacks=[hold])
    )
    first.start()
    try:
        assert started.wait(60)
        with pytest.raises(ValueError, match="in use by another run"):
            train(run_dir=tmp_path / "run", resume=True)
    finally:
        go_on.set()
        first.join()
    train(run_dir=tmp_path / "run", resume=True)  # free again


def test_a_full_disk_costs_the_checkpoints_and_not_the_run(
    tmp_path, monkeypatch, whole
):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "seal", full)
    with pytest.warns(RuntimeWarning, match="No space left on device.*goes on"):
        result = train(run_dir=tmp_path / "run")
    assert_equal_bits(result, whole)
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_a_disk_that_was_full_for_a_while_costs_one_checkpoint(
    tmp_path, monkeypatch, whole
):
    seal, failed = checkpoint.seal, []

    def full_once(root, generation, facts):
        if generation == 2 and not failed:
            failed.append(generation)
            raise OSError(28, "No space left on device")
        seal(root, generation, facts)

    monkeypatch.setattr(checkpoint, "seal", full_once)
    with pytest.warns(RuntimeWarning, match="No space left on device.*goes on"):
        result = train(run_dir=tmp_path / "run", keep_checkpoints=4)
    assert_equal_bits(result, whole)
    assert checkpoints(tmp_path / "run") == [5, 4, 3, 1]


def test_history_lines_that_a_full_disk_refused_are_written_later(
    tmp_path, monkeypatch, whole
):
    append = run_directory.append_history

    def full(folder, generation, choices):
        if len(refused) < 3 and generation.number:
            refused.append(generation.number)
            raise OSError(28, "No space left on device")
        append(folder, generation, choices)

    refused = []
    monkeypatch.setattr(run_directory, "append_history", full)
    with pytest.warns(RuntimeWarning, match="No space left on device.*goes on"):
        train(run_dir=tmp_path / "run")
    assert refused == [1, 1, 1]
    assert_equal_bits(train(run_dir=tmp_path / "run", resume=True), whole)


def test_states_of_every_type_come_back_bit_for_bit(tmp_path):
    """Keys of the user's, bfloat16, negative zeros, nan with a payload, no elements."""

    @dataclasses.dataclass
    class Rate(jepbt.HyperParameters):
        rate: float = jepbt.hparam(0.1, min=0.01, max=1.0)

    odd = np.array([-0.0, 0.0, np.nan], np.float32)
    odd.view(np.uint32)[2] = 0x7FC00123
    task = jepbt.Task(
        hparams=Rate,
        init=lambda key, h: {
            "key": jax.random.key(7),
            "half": jnp.array([h.rate, -0.0], jnp.bfloat16),
            "odd": jnp.array(odd),
            "zeros": jnp.full((3, 2), -0.0),
            "none": jnp.zeros((0 if COMPILES_EMPTY else 1, 2)),
            "flag": jnp.array(True),
        },
        train_step=lambda key, s, h, batch, shared: (
            s | {"key": jax.random.split(s["key"])[0]},
            {"loss": h.rate, "half": s["half"][0]},
        ),
        evaluate=lambda key, s, h, batch, shared: (
            jax.random.uniform(s["key"], (3,)) * h.rate
        ),
    )
    same = SMALL | {"strategy": "pbt"}
    expected = jepbt.train_population(task, **same)
    same |= {"run_dir": tmp_path / "run"}
    with pytest.raises(Stop):
        jepbt.train_population(task, **same, callbacks=[stop_after(2)])
    result = jepbt.train_population(task, **same, resume=True)
    assert_equal_bits(result, expected)
    key = result.best.state["key"]
    assert jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key)


def test_arrays_that_would_end_the_compiler_are_refused(monkeypatch):
    monkeypatch.setattr(jax, "__version_info__", (0, 11, 2))
    state = {"a": [jax.ShapeDtypeStruct((0, 2), jnp.float32)]}
    check_elements(state, 1)
    message = r"leaf \['a'\]\[0\] has no elements, \(0, 2\) .*devices=jax.devices"
    with pytest.raises(ValueError, match=message.replace(" .*", ".*")):
        check_elements(state, 2)


def test_a_dead_population_is_not_saved(tmp_path):
    @dataclasses.dataclass
    class Fuse(jepbt.HyperParameters):
        fuse: float = jepbt.hparam(0.5, min=0.0, max=1.0)

    task = jepbt.Task(
        hparams=Fuse,
        init=lambda key, h: jnp.float32(0.0),
        train_step=lambda key, x, h, batch, shared: (x + 1, {"loss": 1 / (12 - x)}),
        evaluate=lambda key, x, h, batch, shared: (jnp.sqrt(12 - x) * 0 + x)[None],
    )
    for resume in (False, True):
        with pytest.warns(RuntimeWarning, match="all members failed in generation 2"):
            result = jepbt.train_population(
                task, **SMALL, run_dir=tmp_path / "run", resume=resume
            )
        assert len(result.history) == 3 and result.best.generation == 1
        assert checkpoints(tmp_path / "run")[0] == 1


def test_nothing_saved_holds_the_runs_key(finished):
    path = finished / "checkpoints" / "000005" / "default"
    with orbax.StandardCheckpointer() as checkpointer:
        kinds = checkpointer.metadata(path).item_metadata.tree
    assert kinds and not [x for x in kinds.values() if x.dtype == np.uint32]
