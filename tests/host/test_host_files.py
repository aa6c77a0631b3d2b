"""A run of the host loop continues as if it had never stopped."""

import dataclasses
import errno
import itertools
import json
import multiprocessing
import os
import shutil
import warnings
from concurrent.futures import ProcessPoolExecutor

import pytest
from host_functions import climb, population

import jepbt
from jepbt import Candidate, strategies
from jepbt.checkpoints import folder as run_directory


def run(folder, n_generations=4, take=None, **settings):
    loop = jepbt.epbt(n_generations, population(4), climb, run_dir=folder, **settings)
    bests = list(itertools.islice(loop, take))
    loop.close()
    return [(best.model, best.hparams, best.fitness) for best in bests]


def history(folder):
    lines = (folder / "history.jsonl").read_text().splitlines()
    generations = [json.loads(line) for line in lines]
    for generation in generations:
        del generation["seconds"], generation["crc32"]  # the sum is of both
    return generations


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, asynchronous, stop_after):
    whole = run(tmp_path / "whole", asynchronous=asynchronous)
    half, rest = tmp_path / "half", {"asynchronous": asynchronous, "resume": True}
    begun = run(half, take=stop_after, asynchronous=asynchronous)
    continued = run(half, **rest)
    assert begun + continued == whole
    assert history(half) == history(tmp_path / "whole")
    assert run(half, **rest) == whole[-1:], "a finished run yields its best once"


def test_a_run_killed_before_its_save_repeats_that_generation(tmp_path):
    """The history is written first: a line too many is cut on resuming."""
    whole = run(tmp_path / "whole")
    half = tmp_path / "half"
    run(half, take=2)
    shutil.copy(half / "candidates.pkl", tmp_path / "older.pkl")
    run(half, n_generations=3, resume=True)
    shutil.copy(tmp_path / "older.pkl", half / "candidates.pkl")
    assert len(history(half)) == 3
    assert run(half, resume=True) == whole[2:]
    assert history(half) == history(tmp_path / "whole")


def test_a_run_stopped_in_its_first_generation_starts_again(tmp_path):
    def stop(candidate):
        raise KeyboardInterrupt

    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        next(jepbt.epbt(4, population(4), stop, run_dir=folder))
    assert run(folder, resume=True) == run(tmp_path / "other")


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_finished_run_can_be_extended(tmp_path, asynchronous):
    settings = {"asynchronous": asynchronous}
    run(tmp_path / "run", n_generations=2, **settings)
    more = run(tmp_path / "run", resume=True, **settings)
    assert len(more) == 2 and len(history(tmp_path / "run")) == 4
    assert more[-1][2] > more[0][2]


def test_the_history_holds_what_was_evaluated(tmp_path):
    given = []

    def evaluate(candidate):
        given.append(candidate)
        if len(given) == 3:
            raise ValueError("no luck")
        return Candidate(None, candidate.hparams, len(given) / 10)

    with pytest.warns(RuntimeWarning, match="no luck"):
        list(jepbt.epbt(2, population(4), evaluate, run_dir=tmp_path))
    first, second = history(tmp_path)
    assert first["fitness"] == [0.1, 0.2, None, 0.4]
    assert first["parents"] == [0, 1, 2, 3]
    assert second["parents"][1] == 1 and second["parents"][3] == 3
    assert 2 not in second["parents"]
    for line, candidates in ((first, given[:4]), (second, given[4:])):
        for name in ("rate", "width", "nesterov", "optimizer"):
            values = [getattr(c.hparams, name) for c in candidates]
            assert line["hparams"][name] == values


def test_a_folder_with_a_run_is_refused_and_stays_as_it_is(tmp_path):
    run(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=r"holds a run already.*resume=True"):
        run(tmp_path)
    for changed in ({"seed": 3}, {"strategy": "pbt"}, {"asynchronous": True}):
        ((name, value),) = changed.items()
        with pytest.raises(ValueError, match=f"{name} was .* and is {value!r}"):
            run(tmp_path, resume=True, **changed)
    with pytest.raises(ValueError, match="population_size was 4 and is 3"):
        jepbt.epbt(4, population(3), climb, run_dir=tmp_path, resume=True)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


DUEL = strategies.pbt(exploit=strategies.duel)


@pytest.mark.parametrize(
    "before, now",
    [
        (strategies.epbt(), strategies.epbt(num_elites=1)),
        (strategies.pbt(), DUEL),
        (strategies.restarts(DUEL), strategies.restarts(strategies.pb2())),
        (strategies.restarts(DUEL), strategies.restarts(DUEL, interval=2)),
    ],
)
def test_another_setting_of_the_strategy_is_refused(tmp_path, before, now):
    """Also of a run that goes on for more generations than were planned."""
    run(tmp_path, n_generations=2, strategy=before)
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=r"other settings: .* differs: the strategy"):
        run(tmp_path, resume=True, strategy=now)
    assert kept == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(run(tmp_path, resume=True, strategy=before)) == 2


def test_a_strategy_that_plans_by_the_number_of_generations_goes_on(tmp_path):
    schedules = {"rate": strategies.cosine_decay}
    strategy = strategies.random_search(schedules=schedules)
    run(tmp_path, n_generations=2, strategy=strategy)
    assert len(run(tmp_path, resume=True, strategy=strategy)) == 2


@pytest.mark.parametrize(
    "identity",
    [
        {},  # earlier versions kept the strategy's name alone
        {
            "num_generations": 4,
            "programs": {"evolve": "in other words"},
            "versions": {"jax": "0.7.0", "jaxlib": "0.7.0"},
        },
    ],
    ids=["none", "of another JAX"],
)
def test_a_run_whose_folder_does_not_tell_the_settings_goes_on(tmp_path, identity):
    whole = run(tmp_path / "whole")
    half = tmp_path / "half"
    run(half, take=2)
    config = json.loads((half / "config.json").read_text())
    config["identity"] = identity
    (half / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="strategy was 'epbt' and is 'pbt'"):
        run(half, resume=True, strategy="pbt")
    assert run(half, resume=True) == whole[2:]


def test_choices_that_are_functions_are_described_alike_in_each_process():
    def define():
        def half(x):
            return x / 2

        @dataclasses.dataclass
        class Hyper(jepbt.HyperParameters):
            change: object = jepbt.hparam(half, choices=(half, abs))

        return Hyper

    first, second = (run_directory.describe_spaces(define()) for _ in range(2))
    assert first == second
    assert first["change"]["choices"][1] == "<built-in function abs>"


def test_a_run_of_another_kind_is_not_continued(tmp_path):
    (tmp_path / "config.json").write_text('{"population_size": 4}')
    with pytest.raises(ValueError, match=r"a run that jepbt\.epbt did not make"):
        run(tmp_path, resume=True)


@pytest.mark.parametrize("content", [b"", b"\x80\x05N."])
def test_a_damaged_file_is_named(tmp_path, content):
    run(tmp_path)
    (tmp_path / "candidates.pkl").write_bytes(content)
    with pytest.raises(ValueError, match=r"candidates\.pkl"):
        run(tmp_path, resume=True)


def test_a_model_that_cannot_be_saved_is_named(tmp_path):
    def evaluate(candidate):
        return Candidate(lambda: None, candidate.hparams, 1.0)

    with pytest.raises(TypeError, match="cannot be pickled, which run_dir="):
        next(jepbt.epbt(1, population(2), evaluate, run_dir=tmp_path))


def test_figures_of_a_run_know_its_spaces(tmp_path):
    """Every choice is named, tuples too, and a logarithmic rate has such an axis."""
    run(tmp_path / "run")
    axes = jepbt.plots.hparam_schedules(tmp_path / "run")
    by_name = {each.get_title(loc="left"): each for each in axes}
    assert by_name["rate"].get_yscale() == "log"
    labels = [label.get_text() for label in by_name["layers"].get_yticklabels()]
    assert labels == ["(64,)", "(64, 64)", "(32, 32, 32)"]
    assert len(by_name["optimizer"].get_yticklabels()) == 3


def test_two_runs_do_not_share_a_folder(tmp_path):
    """Nor does a second one find its way in between; one that has ended lets go."""
    first = jepbt.epbt(4, population(4), climb, run_dir=tmp_path)
    next(first)
    with pytest.raises(ValueError, match="in use by another run"):
        jepbt.epbt(4, population(4), climb, run_dir=tmp_path, resume=True)
    first.close()
    never_started = jepbt.epbt(4, population(4), climb, run_dir=tmp_path, resume=True)
    del never_started
    assert len(run(tmp_path, resume=True)) == 3


def test_a_worker_that_outlives_a_run_does_not_keep_its_folder(tmp_path):
    """A forked process has all files of its parent open, the lock among them."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as executor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # forking beside threads
            run(tmp_path, n_generations=1, executor=executor)
        assert len(run(tmp_path, n_generations=2, resume=True)) == 1


@pytest.mark.parametrize("place", ["append_history", "replace"])
def test_a_disk_that_is_full_for_a_while_costs_nothing_in_the_end(
    tmp_path, monkeypatch, place
):
    """Until there is room, what was saved last can be continued."""

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    whole = run(tmp_path / "whole")
    half = tmp_path / "half"
    loop = jepbt.epbt(4, population(4), climb, run_dir=half)
    bests = [next(loop)]
    with monkeypatch.context() as patch, pytest.warns(RuntimeWarning) as told:
        patch.setattr(run_directory, place, full)
        bests += [next(loop), next(loop)]
    assert len(told) == 1 and "lacks generations" in str(told[0].message)
    shutil.copytree(half, tmp_path / "as_it_was")
    bests += loop
    assert [(b.model, b.hparams, b.fitness) for b in bests] == whole
    assert history(half) == history(tmp_path / "whole")
    assert run(tmp_path / "as_it_was", resume=True) == whole[1:]
