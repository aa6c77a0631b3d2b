"""Several generations in one call: the same run, looked at less often."""

import json

import jax
import numpy as np
import pytest
from resumable import assert_equal_bits, train
from tiny_task import TASK

import jepbt
from jepbt.training import observers

TINY = {"population_size": 4, "steps_per_generation": 2, "progress": False}


class Stop(Exception):
    pass


def stop_at_2(generation):
    if generation.number == 2:
        raise Stop


@pytest.mark.parametrize(
    ("strategy", "num_devices"),
    [("epbt", 2), ("pbt", 1), ("pb2", 2), ("mf_pbt", 1), ("successive_halving", 2)],
)
def test_bits_are_those_of_one_generation_a_call(strategy, num_devices, tmp_path):
    """Calls of 1, 3, then after a resume of 2 and 1, against seven calls of 1."""
    settings = {
        "strategy": strategy,
        "num_generations": 7,
        "devices": jax.devices()[:num_devices],
    }
    single = train(**settings)
    settings["run_dir"] = tmp_path
    with pytest.raises(Stop) as stopped:
        train(**settings, generations_per_call=3, callbacks=[stop_at_2])
    assert len(stopped.value.result.history) == 4  # the call went to its end
    seen = []
    resumed = train(
        **settings, generations_per_call=2, resume=True, callbacks=[seen.append]
    )
    assert [generation.number for generation in seen] == [4, 5, 6]
    assert_equal_bits(single, resumed)


def test_every_generation_is_reported_and_saved_between_calls(tmp_path, caplog):
    caplog.set_level("INFO", logger="jepbt")
    seen = []
    result = jepbt.train_population(
        TASK,
        **TINY,
        num_generations=9,
        generations_per_call=4,
        run_dir=tmp_path,
        checkpoint_every=3,
        keep_checkpoints=9,
        log_level="info",
        callbacks=[seen.append],
    )
    numbers = list(range(9))
    assert [generation.number for generation in seen] == numbers
    lines = (tmp_path / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["generation"] for line in lines] == numbers
    texts = [r.message for r in caplog.records if r.message.startswith("generation")]
    assert [int(text.split("/")[0].split()[1]) for text in texts] == list(range(1, 10))
    # Calls end with generations 0, 4 and 8; 2 and 5, 8 were due inside them.
    saved = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
    assert saved == [4, 8]
    parts = [set(g.seconds.items()) for g in result.history.generations[1:5]]
    assert parts == [parts[0]] * 4
    assert result.history.generations[1].seconds["evolve"] == 0
    assert result.history.generations[1].seconds["train"] > 0


def test_a_target_is_looked_for_between_calls():
    """Reached in the first generation of a call of five, the run ends with the call."""
    settings = TINY | {"num_generations": 20}
    fitness = jepbt.train_population(TASK, **settings).history.fitness.max(axis=1)
    result = jepbt.train_population(
        TASK, **settings, generations_per_call=5, target_fitness=float(fitness[6])
    )
    assert len(result.history) == 11


def test_debugging_stops_at_a_generation_and_so_refuses_calls_of_several():
    with pytest.raises(ValueError, match="generations_per_call=2 must be 1 with debug"):
        jepbt.train_population(TASK, debug=True, generations_per_call=2)


def test_a_member_that_is_best_for_a_moment_is_not_always_written(
    tmp_path, monkeypatch
):
    """All of 60 generations beat the one before; a schedule of 60 is written each time.

    The clock moves by one second whenever it is read: a writing takes one second, and
    a rest nineteen, in which it is read once a generation or twice.
    """
    clock = iter(np.arange(10_000.0))
    monkeypatch.setattr(observers.time, "monotonic", lambda: next(clock))
    written = []
    save = observers._FILES["schedule.json"]
    monkeypatch.setitem(
        observers._FILES,
        "schedule.json",
        lambda path, run: (written.append(len(run.history)), save(path, run)),
    )
    result = jepbt.train_population(
        TASK, **TINY, num_generations=60, run_dir=tmp_path, checkpoint_every=60
    )
    assert (np.diff(result.history.fitness.max(axis=1)) > 0).sum() > 50
    assert len(written) <= 8 and written[-1] == 60
    facts = json.loads((tmp_path / "best" / "member.json").read_text())
    assert facts["generation"] == result.best.generation == 59
