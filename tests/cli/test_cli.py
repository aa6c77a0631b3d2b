"""The command line as a person meets it."""

import dataclasses
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest

from jepbt import cli
from jepbt.cli import train
from jepbt.cli.flags import MAIN_JOB
from jepbt.cli.main import _parse
from jepbt.config import Config
from jepbt.results import Generation
from jepbt.strategies import STRATEGY_NAMES
from jepbt.training import Interrupted

SMALL = ["--population-size", "4", "--num-generations", "2"]
SMALL += ["--steps-per-generation", "3", "--model", "mlp"]


def jepbt(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "jepbt", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=300,
    )


def start(*arguments, cwd):
    return subprocess.Popen(
        [sys.executable, "-m", "jepbt", *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_train_prints_what_it_does_and_what_came_of_it(tmp_path):
    done = jepbt("train", *SMALL, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    output = done.stdout
    assert output.replace("\n", "").isprintable()
    for number in (1, 2):
        assert f"\ngeneration {number}/2  best 0." in output
    assert "fashion_mnist 9,000 train / 1,000 validation / 10,000 test" in output
    assert "4 MLPs x 203,530 weights | 2 generations x 3 steps of 32" in output
    assert "evolving learning_rate momentum weight_decay dropout loss[8]" in output
    for row in ("winner #", "median", "first gen."):
        assert re.search(rf"^{row}.* 0\.\d+ ±0\.\d+ .* 0\.\d+ ±0\.\d+", output, re.M)
    assert re.search(r"^loss +-sum\[.*zero error \(attraction", output, re.M)
    assert (tmp_path / "runs" / "0001" / "figures" / "fitness.png").exists()
    member = json.loads((tmp_path / "runs/0001/best/member.json").read_text())
    winner = re.search(r"^winner #(\d+) +(\S+)", output, re.M)
    assert int(winner[1]) == member["slot"]
    assert winner[2] == f"{member['fitness']:.3f}"


@pytest.mark.parametrize(
    ("last", "told_after", "time"),
    [(-1, 1, "1 min 0 s"), (3, 5, "36 s"), (7, None, "")],
)
def test_the_time_is_told_after_the_second_generation_of_a_start(
    last, told_after, time, capsys
):
    """Of ten generations, each of 6 s but for the first one, while XLA compiles."""
    config = Config(num_generations=10, progress=False)
    prepared = types.SimpleNamespace(config=config, last_generation=last)
    announce = train._announcer(prepared)
    for number in range(last + 1, 10):
        seconds = {"train": 60.0 if number == last + 1 else 5.0, "evaluate": 1.0}
        score = np.float32([0.5])
        announce(Generation(number, score, score, np.arange(1), {}, {}, {}, seconds))
        told = f"about {time}, by its second generation" in capsys.readouterr().out
        assert told == (number == told_after)


@pytest.mark.slow
def test_trains_on_noisy_labels_of_a_file_without_a_test_split(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (600, 4, 4), np.uint8)
    np.savez(tmp_path / "toy.npz", x_train=images, y_train=np.arange(600) % 3)
    flags = ["--data", "toy.npz", "--label-noise", "0.4", *SMALL]
    done = jepbt("train", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    sizes = f"toy 540 train / 60 validation ({tmp_path / 'toy.npz'}, 40% of train "
    sizes += "labels wrong)"
    assert sizes in done.stdout
    assert re.search(r"^ +validation \(60\) +no test split$", done.stdout, re.M)


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path):
    done = jepbt("train", "--population-size", "1000000000", cwd=tmp_path)
    assert done.returncode == 2
    assert "members fit; choose fewer" in done.stderr and not done.stdout
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())  # nothing is left behind


@pytest.mark.parametrize("name", STRATEGY_NAMES)
def test_the_command_takes_every_strategy_that_has_a_name(name, monkeypatch, tmp_path):
    given = []

    def stop(task, **settings):
        given.append(settings["strategy"])
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "prepare_run", stop)
    assert cli.main(["train", "--strategy", name]) == 130
    assert given == [name]
    assert not list(tmp_path.iterdir())  # nothing came of the run's folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pb2", "mf_pbt", "successive_halving"])
def test_the_command_runs_strategies_beyond_the_first_three(name, tmp_path):
    done = jepbt("train", *SMALL, "--strategy", name, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "winner #" in done.stdout


def test_ctrl_c_before_training_is_one_line(monkeypatch, capsys):
    def press(*args, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "prepare", press)
    assert cli.main(["train"]) == 130
    assert capsys.readouterr().err == "jepbt: stopped at once\n"


def test_every_setting_of_a_run_has_a_flag_and_the_main_jobs_default():
    arguments = _parse(["train"])
    assert {
        field.name: getattr(arguments, field.name)
        for field in dataclasses.fields(Config)
    } == dataclasses.asdict(MAIN_JOB)


@pytest.mark.parametrize(
    "command", ["", "train", "compare", "benchmark", "check", "report"]
)
def test_help_is_in_words_and_its_examples_are_commands(command, monkeypatch, capsys):
    """No Python type, no Python value; each line of an example is taken as it is."""
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit, match="0"):
        cli.main([*command.split(), "--help"])
    text = capsys.readouterr().out
    assert not re.search(r"\b(int|float|str|bool|None|True|False|PathLike)\b", text)
    assert max(map(len, text.splitlines())) <= 88
    example = text.split("\nexample:\n")[1].replace("\\\n", "")
    lines = re.findall(r"^    jepbt (.+)$", example, re.M)
    assert lines
    for line in lines:
        assert _parse(shlex.split(line)).prepare


def test_flags_come_in_groups(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["train", "--help"])
    text = capsys.readouterr().out
    heads = ["data and model:", "evolution:", "when to stop:", "files and output:"]
    assert [line for line in text.splitlines() if line in heads] == heads


@pytest.mark.parametrize(
    ("num_done", "said"), [(3, "jepbt train --resume   goes on"), (4, "no more to do")]
)
def test_an_interruption_says_how_to_go_on_if_anything_is_left(
    num_done, said, monkeypatch, capsys
):
    result = types.SimpleNamespace(
        history=[None] * num_done,
        config=Config(num_generations=4),
        best=types.SimpleNamespace(fitness="0.5"),
        run_dir=pathlib.Path("run"),
    )
    stop = Interrupted(result, signal.SIGINT)
    monkeypatch.setattr(train, "resume_command", lambda *_: "jepbt train --resume")
    train.print_interruption(stop, None)
    err = capsys.readouterr().err
    assert said in err and ("goes on" in err) == (num_done < 4)
    assert ("resume=True" in str(stop)) == (num_done < 4)


def test_interrupting_saves_and_exits_130(tmp_path):
    process = start("train", *SMALL, "--num-generations", "999", cwd=tmp_path)
    history = tmp_path / "runs" / "0001" / "history.jsonl"
    deadline = time.monotonic() + 200
    while not history.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=200)
    assert process.returncode == 130
    assert "stopped after" in stderr and "Traceback" not in stderr
    assert (tmp_path / "runs" / "0001" / "best" / "weights.npz").exists()


@pytest.mark.slow
def test_interrupting_says_the_command_that_goes_on(tmp_path):
    """What is printed, typed in, ends the run as if nothing had stopped it."""
    arguments = ["train", *SMALL, "--num-generations", "12", "--chunk-size", "1"]
    process = start(*arguments, cwd=tmp_path)
    for line in process.stdout:
        if line.startswith("generation 2/12"):
            break
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=200)
    assert process.returncode == 143, stderr
    command = re.search(r"^jepbt (train .* --resume)   goes on$", stderr, re.M)
    assert f"--run-dir {tmp_path / 'runs' / '0001'}" in command[1]
    done = jepbt(*shlex.split(command[1]), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^goes on after generation \d+$", done.stdout, re.M)
    whole = jepbt(*arguments, cwd=tmp_path)
    assert [line for line in done.stdout.splitlines() if "winner #" in line] == [
        line for line in whole.stdout.splitlines() if "winner #" in line
    ]
    histories = [
        [
            {k: v for k, v in json.loads(line).items() if k not in ("seconds", "crc32")}
            for line in (tmp_path / f"runs/{name}/history.jsonl")
            .read_text()
            .split("\n")
            if line
        ]
        for name in ("0001", "0002")
    ]
    assert histories[0] == histories[1] and len(histories[0]) == 12
