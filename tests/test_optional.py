"""What a run can do without costs itself, and neither the run nor its result."""

import errno
import io
import logging
import os
import shutil
import signal
import sys
import warnings
from concurrent.futures import Executor, Future
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import orbax.checkpoint as orbax
import pytest
from made_up_run import write_run
from tiny_task import Hyper

import jepbt
from jepbt.checkpoints import checkpoint
from jepbt.checkpoints import folder as run_directory
from jepbt.cli import say
from jepbt.engine import programs
from jepbt.host import evaluators
from jepbt.optional import optional, warn
from jepbt.report import write_report
from jepbt.training.progress import is_terminal

TASK = jepbt.Task(
    hparams=Hyper,
    init=lambda key, h: {"file": jnp.float32(1.0)},
    train_step=lambda key, s, h, batch, shared: (
        {"file": s["file"] * (1 - h.rate)},
        {"loss": s["file"]},
    ),
    evaluate=lambda key, s, h, batch, shared: -s["file"][None],
)


SMALL = {
    "strategy": "random_search",
    "population_size": 2,
    "steps_per_generation": 2,
    "chunk_size": 1,
    "checkpoint_every": 1,
}


def train(num_generations, **settings):
    return jepbt.train_population(
        TASK,
        num_generations=num_generations,
        devices=jax.devices()[:1],
        **(SMALL | settings),
    )


@pytest.fixture(scope="module")
def clean():
    return train(2, progress=False).history.fitness


def test_what_fails_is_said_once_and_where_the_user_called():
    told = set()
    with pytest.warns(RuntimeWarning) as caught:
        for _ in range(3):
            with optional("no figure", told) as attempt:
                raise OSError("no room\nat all")
    assert attempt.failed
    (one,) = caught
    assert str(one.message) == "no figure (OSError: no room): all else goes on."
    assert one.filename == __file__


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_who_stops_a_run_is_heard(error):
    with pytest.raises(error), optional("no figure"):
        raise error


class Stream(io.StringIO):
    """A terminal, unless told otherwise, whose every write may fail."""

    def __init__(self, error=None, in_terminal=True):
        super().__init__()
        self.error, self.in_terminal = error, in_terminal

    def isatty(self):
        return self.in_terminal

    def write(self, text):
        if self.error is not None:
            raise self.error
        return super().write(text)


class Tee:
    """The least that `print` needs: no isatty, fileno, encoding or flush."""

    def __init__(self):
        self.texts = []

    def write(self, text):
        self.texts.append(text)


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


def ascii_only():
    return io.TextIOWrapper(io.BytesIO(), encoding="ascii")


STREAMS = {
    "none": lambda: None,
    "tee": Tee,
    "closed": closed,
    "ascii": ascii_only,
    "broken terminal": lambda: Stream(BrokenPipeError("gone")),
    "broken file": lambda: Stream(OSError(errno.ENOSPC, "full"), in_terminal=False),
}


def stream(name, kind):
    def harm(patch):
        patch.setattr(sys, name, STREAMS[kind]())

    return harm


def raising(error):
    def fail(*args, **kwargs):
        raise error

    return fail


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def draw_too_large(patch):
    patch.setitem(matplotlib.rcParams, "savefig.dpi", 1e9)


def no_matplotlib(patch):
    patch.setitem(sys.modules, "matplotlib.figure", None)


def foreign_handler(patch):
    patch.setattr(signal, "getsignal", lambda number: None)


def log_to_nowhere(patch):
    handler = logging.Handler()
    handler.emit = raising(ValueError("closed"))
    patch.setattr(logging.getLogger("jepbt"), "handlers", [handler])


def fill_the_disk(patch):
    replace, seen = run_directory.replace, {"writable", "config.json"}

    def full(path, *args, **kwargs):
        if path.name not in seen:
            raise FULL
        replace(path, *args, **kwargs)

    patch.setattr(run_directory, "replace", full)


def stale_lock(patch):
    class Lock:
        def __init__(self, folder):
            self.real = take(folder)

        def release(self):
            self.real.release()
            raise OSError("stale")

    take = run_directory.lock
    patch.setattr(run_directory, "lock", Lock)


def patched(owner, name, error):
    def harm(patch):
        patch.setattr(owner, name, raising(error))

    return harm


def break_streams(kind):
    def harm(patch):
        stream("stdout", kind)(patch)
        stream("stderr", kind)(patch)

    return harm


def all_of(*harms):
    def harm(patch):
        for each in harms:
            each(patch)

    return harm


# What is harmed, and a part of each sentence that says what is missing.
HARMS = {
    **{f"streams: {k}": (break_streams(k), []) for k in ("none", "tee", "closed")},
    "streams: broken terminal": (
        break_streams("broken terminal"),
        ["the progress bar has stopped"],
    ),
    "before it compiles": (
        all_of(
            patched(jax.stages.Lowered, "cost_analysis", NotImplementedError()),
            patched(jax.stages.Compiled, "memory_analysis", NotImplementedError()),
            patched(shutil, "disk_usage", OSError("no such call")),
        ),
        [
            "the arithmetic of a training step is not counted",
            "what a program reserves is not known",
            "no one knows whether the disk has room",
        ],
    ),
    "while it trains": (
        all_of(
            foreign_handler,
            log_to_nowhere,
            patched(checkpoint, "clean", PermissionError("not yours")),
        ),
        [
            "SIGINT will not save",
            "SIGTERM will not save",
            "the log lacks lines",
            "keeps what was half-written",
            "keeps more than it should",
        ],
    ),
    "at its end": (
        all_of(
            draw_too_large,
            stale_lock,
            patched(orbax.CheckpointManager, "close", RuntimeError("busy")),
        ),
        [
            "figures lacks fitness.png",
            "stays locked by this process",
            "orbax has not let go",
        ],
    ),
    "no matplotlib": (no_matplotlib, ["figures lacks fitness.png"]),
    "full disk, most files": (
        fill_the_disk,
        [
            "best does not show the best",
            "schedule.json does not show the best",
            "figures lacks fitness.png",
            "history.jsonl may hold an earlier run's lines",
        ],
    ),
}


@pytest.mark.parametrize("name", HARMS)
def test_a_run_goes_on_without_what_it_does_not_need(
    name, clean, tmp_path, monkeypatch
):
    """Before it compiles, while it trains, at its end, and when it is resumed."""
    harm, missing = HARMS[name]
    folder = tmp_path / "run"
    told = []
    for num_generations in (1, 2):
        with monkeypatch.context() as patch, warnings.catch_warnings(record=True) as w:
            warnings.simplefilter("always")
            harm(patch)
            result = train(
                num_generations, run_dir=folder, resume=True, log_level="info"
            )
        np.testing.assert_array_equal(result.history.fitness, clean[:num_generations])
        told += [str(each.message) for each in w]
    for sentence in missing:
        assert any(sentence in each for each in told), (sentence, told)
    for each in told:
        assert any(sentence in each for sentence in missing), each
    assert len(jepbt.load_history(folder)) == 2
    assert [int(path.name) for path in checkpoint.list_all(folder / "checkpoints")]


def test_a_disk_that_fills_up_costs_the_files_and_not_the_run(
    clean, tmp_path, monkeypatch
):
    """Each thing is said to be missing once, however many generations it lacks."""
    monkeypatch.setattr(run_directory, "append_history", raising(FULL))
    monkeypatch.setattr(checkpoint, "seal", raising(FULL))
    fill_the_disk(monkeypatch)
    with pytest.warns(RuntimeWarning, match="No space left") as caught:
        result = train(2, run_dir=tmp_path / "run", progress=False)
    np.testing.assert_array_equal(result.history.fitness, clean)
    sentences = [str(each.message) for each in caught]
    assert len(sentences) == len(set(sentences)) <= 7


def test_checkpoints_that_a_disk_refuses_are_missed_once(clean, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "pack", raising(MemoryError()))
    with pytest.warns(RuntimeWarning) as caught:
        result = train(2, run_dir=tmp_path / "run", progress=False)
    np.testing.assert_array_equal(result.history.fitness, clean)
    (one,) = caught
    assert "no checkpoint could be written" in str(one.message)


def test_a_folder_that_is_removed_costs_its_files(clean, tmp_path):
    def remove(generation):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)

    with pytest.warns(RuntimeWarning):
        result = train(
            2, run_dir=tmp_path / "run", callbacks=[remove], checkpoint_every=9
        )
    np.testing.assert_array_equal(result.history.fitness, clean)


def test_a_callbacks_error_has_its_result_where_nothing_can_be_drawn(
    tmp_path, monkeypatch
):
    draw_too_large(monkeypatch)
    with (
        pytest.warns(RuntimeWarning, match="fitness.png"),
        pytest.raises(ZeroDivisionError) as caught,
    ):
        train(2, run_dir=tmp_path / "run", callbacks=[lambda g: 1 / 0], progress=False)
    assert len(caught.value.result.history) == 1


def test_files_of_others_in_a_runs_folders_stay_and_harm_nothing(clean, tmp_path):
    folder = tmp_path / "run"
    train(1, run_dir=folder, progress=False)
    inside = folder / "checkpoints" / "000000"
    foreign = [inside / ".DS_Store", inside / "._default", inside / "Thumbs.db"]
    for name in ("notes.txt", "000000 (copy)", "12", "damaged", ".nfs01"):
        foreign += [folder / name, folder / "checkpoints" / name]
        foreign += [folder / "best" / name, folder / "figures" / name]
    for path in foreign:
        path.write_text("mine")
    (folder / "checkpoints" / ".ipynb_checkpoints").mkdir()
    result = train(2, run_dir=folder, resume=True, progress=False, keep_checkpoints=2)
    np.testing.assert_array_equal(result.history.fitness, clean)
    assert all(path.read_text() == "mine" for path in foreign)


def test_no_bar_is_drawn_into_what_may_be_a_file(monkeypatch):
    tee = Tee()
    monkeypatch.setattr(sys, "stderr", tee)
    train(1)
    assert tee.texts == []


def test_a_callback_that_may_fail_costs_itself_and_no_other(clean):
    told, seen = [], []

    def track(generation):
        told.append(generation.number)
        raise ConnectionError("no network")

    with pytest.warns(RuntimeWarning, match="no network") as caught:
        callbacks = [jepbt.may_fail(track), jepbt.may_fail(seen.append)]
        result = train(2, callbacks=callbacks, progress=False)
    (one,) = caught
    assert "the callback track is not called again" in str(one.message)
    assert told == [0] and len(seen) == 2
    np.testing.assert_array_equal(result.history.fitness, clean)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_who_stops_a_run_in_a_callback_is_heard(error):
    with pytest.raises(error):
        jepbt.may_fail(raising(error))(None)


def test_signal_handlers_that_a_callback_sets_stay():
    mine = lambda number, frame: None  # noqa: E731
    before = signal.getsignal(signal.SIGTERM)
    try:
        train(1, callbacks=[lambda g: signal.signal(signal.SIGTERM, mine)])
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("kind", STREAMS)
def test_the_host_loop_warns_into_any_stream(kind, monkeypatch):
    """Where Python's way to show a warning fails, since nobody can be told."""

    def show(message, *_, **__):
        sys.stderr.write(str(message))

    def evaluate(candidate):
        if candidate.hparams == Hyper():
            raise ValueError("no luck")
        return jepbt.Candidate(None, candidate.hparams, 1.0)

    population = [jepbt.Candidate(None, Hyper()) for _ in range(2)]
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", show)
        stream("stderr", kind)(monkeypatch)
        assert len(list(jepbt.epbt(2, population, evaluate))) == 2


HOST_HARMS = {
    "lock": (stale_lock, ["stays locked by this process"]),
    "full disk": (
        patched(run_directory, "append_history", FULL),
        ["lacks generations"],
    ),
}


@pytest.mark.parametrize("name", HOST_HARMS)
def test_the_host_loop_goes_on_too(name, tmp_path, monkeypatch):
    def climb(candidate):
        model = (candidate.model or 0) + candidate.hparams.rate
        return jepbt.Candidate(model, candidate.hparams, model)

    def run(num_generations, **settings):
        population = [jepbt.Candidate(None, Hyper()) for _ in range(2)]
        bests = jepbt.epbt(num_generations, population, climb, **settings)
        return [best.fitness for best in bests]

    harm, missing = HOST_HARMS[name]
    harm(monkeypatch)
    told = []
    for num_generations in (1, 2):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fitness = run(num_generations, run_dir=tmp_path / "run", resume=True)
        told += [str(each.message) for each in caught]
    assert fitness[-1] == run(2)[-1]
    assert told and all(missing[0] in each for each in told)


def test_an_executor_that_cannot_cancel_hides_no_error():
    class Kept(Future):
        def cancel(self):
            raise RuntimeError("the cluster is gone")

    class Lazy(Executor):
        """Never ends its second evaluation."""

        def submit(self, function, *args):
            future = Kept()
            if not started:
                future.set_result(function(*args))
            started.append(future)
            return future

    started = []
    population = [jepbt.Candidate(None, Hyper()) for _ in range(2)]
    loop = jepbt.epbt(1, population, lambda candidate: 3, executor=Lazy())
    with (
        pytest.warns(RuntimeWarning, match="nobody waits for may still run"),
        pytest.raises(TypeError, match=r"must return a jepbt\.Candidate"),
    ):
        next(loop)


def test_a_process_may_die_of_a_signal_without_a_name():
    worker = object.__new__(evaluators._Worker)
    worker.is_ready, worker.end = True, lambda timeout: None
    for code, how in ((-9, "signal SIGKILL"), (-40, "signal 40"), (3, "exit code 3")):
        worker.process = SimpleNamespace(exitcode=code)
        assert worker.bury(1).reason == f"its process died ({how})"


def test_an_error_without_a_message_of_its_own_fails_one_evaluation():
    class Mute(Exception):
        def __str__(self):
            raise AttributeError("message")

    def evaluate(candidate):
        if candidate.hparams == Hyper():
            raise Mute
        return jepbt.Candidate(None, candidate.hparams, 1.0)

    population = [jepbt.Candidate(None, Hyper()) for _ in range(2)]
    with pytest.warns(RuntimeWarning, match="Mute: its message cannot be shown"):
        assert next(jepbt.epbt(1, population, evaluate)).fitness == 1.0


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_command_prints_what_the_stream_takes(name, kind, monkeypatch):
    monkeypatch.setattr(say, "_told", set())
    stream(name, kind)(monkeypatch)
    is_broken = "broken" in kind or kind == "closed"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            say.say("0.880 ±0.020", name)
    assert len(caught) == is_broken
    file = getattr(sys, name)
    if kind == "ascii":
        assert file.buffer.getvalue() == b"0.880 ?0.020\n" * 2
    if kind == "tee":
        assert "".join(file.texts) == "0.880 ±0.020\n" * 2


@pytest.mark.parametrize("kind", STREAMS)
def test_a_command_that_is_refused_ends_with_2_wherever_it_says_so(kind, monkeypatch):
    monkeypatch.setattr(say, "_told", set())
    stream("stderr", kind)(monkeypatch)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert jepbt.cli.main(["report", "/nowhere/at/all"]) == 2


def test_a_page_is_written_without_pictures_that_cannot_be_drawn(tmp_path, monkeypatch):
    folder = write_run(tmp_path / "run")
    monkeypatch.setattr(
        "matplotlib.figure.Figure.savefig", raising(RuntimeError("no latex"))
    )
    with pytest.warns(RuntimeWarning, match="pictures of the run are missing") as told:
        page = write_report(folder).read_text()
    assert len({str(each.message) for each in told}) == 1
    assert '<img alt="' not in page and "Winner: member" in page


def no_home(patch, tmp_path):
    for name in ("HOME", "XDG_CACHE_HOME"):
        patch.delenv(name, raising=False)
    patch.setattr("pwd.getpwuid", raising(KeyError("uid not found")))


def home_is_a_file(patch, tmp_path):
    (tmp_path / "home").write_text("")
    patch.delenv("XDG_CACHE_HOME", raising=False)
    patch.setenv("HOME", str(tmp_path / "home"))


def cache_is_not_ours(patch, tmp_path):
    patch.setenv("XDG_CACHE_HOME", str(tmp_path))
    patch.setattr(os, "access", lambda *_: False)


@pytest.mark.parametrize("harm", [no_home, home_is_a_file, cache_is_not_ours])
def test_without_a_place_for_programs_a_run_compiles_them_anew(
    harm, tmp_path, monkeypatch
):
    before = jax.config.jax_compilation_cache_dir
    harm(monkeypatch, tmp_path)
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        with pytest.warns(RuntimeWarning, match="programs are not kept for the next"):
            programs.use_compilation_cache()
        assert jax.config.jax_compilation_cache_dir is None
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_without_a_home_folder_only_what_lies_there_is_refused(tmp_path, monkeypatch):
    no_home(monkeypatch, tmp_path)
    assert len(jepbt.datasets.load().train["label"]) == 9_000
    train(1, run_dir=tmp_path / "run", progress=False)
    with pytest.raises(ValueError, match=r"TFDS_DATA_DIR.*Set HOME"):
        jepbt.datasets.load("tfds:mnist")
    with pytest.raises(ValueError, match=r"run_dir='~/run'.*Set HOME"):
        train(1, run_dir="~/run")


def test_a_stream_that_cannot_tell_is_no_terminal():
    assert [is_terminal(STREAMS[kind]()) for kind in ("none", "tee", "closed")] == (
        [None] * 3
    )
    assert is_terminal(Stream()) is True
    assert is_terminal(Stream(in_terminal=False)) is False


def test_a_warning_that_a_filter_makes_an_error_is_one():
    with pytest.raises(RuntimeWarning, match="told"):
        warn("told")
