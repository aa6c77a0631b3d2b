"""Processes that share a population do what one does, and end together."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import types

import pytest
from processes import outcomes, start, told

from jepbt.cli.distributed import joined
from jepbt.strategies import STRATEGY_NAMES


def wait_for_generations(run_dir, count):
    history, deadline = run_dir / "history.jsonl", time.monotonic() + 200
    while time.monotonic() < deadline:
        if history.exists() and history.read_text().count("\n") >= count:
            return
        time.sleep(0.1)
    raise AssertionError("the run has not begun")


def test_two_processes_of_two_devices_equal_one_of_four(tmp_path):
    shared = outcomes(start((2, 2), {"run_dir": str(tmp_path / "two")}))
    assert shared == outcomes(start((1, 4), {}))
    lines = (tmp_path / "two" / "history.jsonl").read_text().splitlines()
    assert len(lines) == 4  # written by one process alone
    assert not list((tmp_path / "two").glob(".process*"))


BAD = {
    "population_size=6 is not divisible by the 4 devices of 2 processes": (
        {"population_size": 6}
    ),
    "process 1: batch_size=0": {"in_1": {"batch_size": 0}},
    "process 1: all processes must run the same": {"in_1": {"num_generations": 5}},
    "num_generations was 4 and is 5": {"in_1": {"num_generations": 5}},
    "the train data are others": {"in_1": {"seed_of_data": 1}},
    "the program differs: the strategy": {"in_1": {"strategy": "pbt"}},
    "is another folder here than in process 0": (
        {"run_dir": "shared", "in_1": {"elsewhere": True}}
    ),
}


def test_what_one_process_refuses_stops_both(tmp_path):
    """Neither waits for the other, and each can start another run after that."""
    for runs in BAD.values():
        if "run_dir" in runs:
            runs["run_dir"] = str(tmp_path / runs["run_dir"])
    first, second = told(start((2, 2), *BAD.values()))
    for message, here, there in zip(BAD, first, second, strict=True):
        assert message.split(": ")[-1] in there["refused"]
        assert message in here["refused"]
    assert not list(tmp_path.rglob(".process*"))  # which tells folders apart


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("--coordinator needs --distributed", (False, "a:1")),
        ("needs --coordinator and --process-id", (True, None, 2)),
        ("must be HOST:PORT", (True, "a", 2, 0)),
        ("--process-id=2 must be a whole number from 0 to 1", (True, "a:1", 2, 2)),
        ("cannot be opened here", (True, "a:{taken}", 2, 0)),
        ("--distributed needs --run-dir", (True, "a:1", 2, 0)),
    ],
)
def test_flags_that_cannot_be_right_are_refused(message, options):
    run_dir = None if "--run-dir" in message else "shared"
    names = ("distributed", "coordinator", "num_processes", "process_id")
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        given = [x.format(taken=port) if isinstance(x, str) else x for x in options]
        given += [None] * (len(names) - len(given))
        arguments = dict(zip(names, given, strict=True), run_dir=run_dir)
        with (
            pytest.raises(ValueError) as caught,
            joined(types.SimpleNamespace(**arguments)),
        ):
            pass
    assert message in str(caught.value)


@pytest.mark.slow
def test_all_strategies_compute_the_same_bits_on_any_processes():
    runs = [{"strategy": name, "num_generations": 3} for name in STRATEGY_NAMES]
    alone = outcomes(start((1, 4), *runs))
    assert len(alone) == len(runs)
    for layout in [(2, 2), (4, 1)]:
        assert outcomes(start(layout, *runs)) == alone


@pytest.mark.slow
def test_a_run_goes_on_with_other_processes(tmp_path):
    """Two begin, one goes on and four end it, with the bits of one that did it all."""
    folder = {"run_dir": str(tmp_path / "run"), "resume": True, "max_seconds": 1e-9}
    alone = outcomes(start((1, 4), {}))
    outcomes(start((2, 2), folder))
    outcomes(start((1, 4), folder))
    assert outcomes(start((4, 1), folder | {"max_seconds": None})) == alone
    outcomes(start((2, 1), folder | {"num_generations": 5}))  # on fewer devices, too


@pytest.mark.slow
def test_another_run_in_the_folder_stops_both(tmp_path):
    folder = {"run_dir": str(tmp_path / "run"), "num_generations": 1}
    changed = folder | {"resume": True, "seed": 1}
    for _, second in told(start((2, 2), folder, changed)):
        assert "seed was 0 and is 1" in second["refused"]


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both(tmp_path):
    run_dir = tmp_path / "run"
    settings = {"run_dir": str(run_dir), "num_generations": 100_000}
    pair = start((2, 2), settings)
    wait_for_generations(run_dir, 3)
    pair[1].send_signal(signal.SIGTERM)
    for process in pair:
        _, stderr = process.communicate(timeout=280)
        assert process.returncode != 0 and "Interrupted: stopped by SIGTERM" in stderr
    saved = sorted(int(p.name) for p in (run_dir / "checkpoints").iterdir())
    assert saved[-1] == (run_dir / "history.jsonl").read_text().count("\n") - 1


def command(run_dir, *flags):
    settings = (
        f"train --run-dir {run_dir} --model mlp --population-size 8 "
        "--steps-per-generation 2 --checkpoint-every 1 --num-generations 100000"
    )
    return subprocess.Popen(
        [sys.executable, "-m", "jepbt", *settings.split(), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_two_terminals_where_one_is_killed(tmp_path, victim):
    with socket.create_server(("", 0)) as probe:
        port = probe.getsockname()[1]
    flags = ["--distributed", "--coordinator", f"localhost:{port}"]
    flags += ["--num-processes", "2", "--process-id"]
    pair = [command(tmp_path / "run", *flags, str(i)) for i in range(2)]
    wait_for_generations(tmp_path / "run", 3)
    pair[victim].kill()
    said = [process.communicate(timeout=60) for process in pair]
    go_on = f"process-id {1 - victim} --resume   goes on"
    assert go_on in said[1 - victim][1]
    assert pair[1 - victim].returncode != 0
    assert "generation 2/" in said[0][0] and "generation" not in said[1][0]
    again = command(tmp_path / "run", "--resume", "--num-generations", "100001")
    assert again.poll() is None
    done = (tmp_path / "run" / "history.jsonl").read_text().count("\n")
    wait_for_generations(tmp_path / "run", done + 1)
    again.send_signal(signal.SIGINT)
    assert "goes on after generation" in again.communicate(timeout=60)[0]
    json.loads((tmp_path / "run" / "config.json").read_text())
