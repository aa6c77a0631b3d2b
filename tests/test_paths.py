"""Paths that a user gives: `~` is the home folder, and they lead to one place."""

import os
import pathlib
import shutil

import numpy as np
import pytest
from made_up_run import write_run
from tiny_task import TASK, Hyper
from tiny_task import train as train_task

import jepbt
from jepbt import cli
from jepbt.arguments import user_file, user_path
from jepbt.datasets import tfds
from jepbt.results import load_schedules


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder, beside the current folder."""
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


def train(run_dir, **settings):
    settings |= {"strategy": "random_search", "chunk_size": 1, "run_dir": run_dir}
    return train_task(TASK, 2, 2, 2, **settings)


def test_a_path_is_made_absolute_as_it_is_written(home):
    here = pathlib.Path.cwd()
    assert user_path("run_dir", "runs/a") == here / "runs" / "a"
    assert user_path("run_dir", pathlib.Path("~/a")) == home / "a"
    assert user_path("run_dir", "./~/a") == here / "~" / "a"
    assert user_path("run_dir", "/a") == pathlib.Path("/a")


def test_a_path_that_leads_nowhere_is_refused(home):
    with pytest.raises(ValueError, match=r"run_dir='~nobody-at-all/a'.*Set HOME"):
        train("~nobody-at-all/a")
    gone = home / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    try:
        with pytest.raises(ValueError, match=r"run_dir='a'.*is gone"):
            train("a")
    finally:
        os.chdir(home)


def test_a_run_stays_in_its_folder_whatever_becomes_of_the_current_one(home):
    folder = home.parent / "here" / "runs" / "a"

    def leave(generation):
        os.makedirs(home / "elsewhere", exist_ok=True)
        os.chdir(home / "elsewhere")

    result = train("runs/a", callbacks=[leave], checkpoint_every=1)
    assert result.run_dir == folder
    assert not any((home / "elsewhere").iterdir())
    names = {path.name for path in folder.iterdir()}
    assert {"best", "checkpoints", "config.json", "figures", "history.jsonl"} <= names
    assert len(list((folder / "checkpoints").iterdir())) == 2


@pytest.mark.parametrize("given", ["runs/b", "~/runs/b"])
def test_the_host_loop_stays_in_its_folder_too(home, given):
    folder = user_path("run_dir", given)

    def evaluate(candidate):
        os.makedirs("trial", exist_ok=True)
        os.chdir("trial")
        return jepbt.Candidate(None, candidate.hparams, 1.0)

    population = [jepbt.Candidate(None, Hyper()) for _ in range(2)]
    assert len(list(jepbt.epbt(2, population, evaluate, run_dir=given))) == 2
    assert len(jepbt.load_history(folder)) == 2
    assert (folder / "candidates.pkl").exists()


def test_everything_that_reads_a_run_finds_it_at_home(home, capsys):
    write_run(home / "run")
    assert len(jepbt.load_history("~/run")) == 5
    assert len(jepbt.load_history("~/run/history.jsonl")) == 5
    assert jepbt.plots.fitness("~/run").get_ylabel()
    assert cli.main(["report", "~/run"]) == 0
    assert str(home / "run" / "report.html") in capsys.readouterr().out
    with pytest.raises(ValueError, match=str(home / "run" / "schedule.json")):
        load_schedules("~/run")


def test_data_are_found_at_home(home, monkeypatch):
    images = np.arange(40 * 4, dtype=np.float32).reshape(40, 2, 2)
    np.savez(home / "x.npz", x_train=images, y_train=np.arange(40) % 2)
    data = jepbt.datasets.load("~/x.npz")
    assert data.name == "x" and data.note == str(home / "x.npz")
    shutil.move(home / "x.npz", "x.npz")
    assert jepbt.datasets.load("x.npz").note == str(pathlib.Path("x.npz").absolute())
    asked = []

    def stop(name, folder):
        asked.append(folder)
        raise InterruptedError

    monkeypatch.setattr(tfds, "_find_builder", stop)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    for data_dir, variable in ((None, None), ("~/sets", None), (None, "~/others")):
        if variable is not None:
            monkeypatch.setenv("TFDS_DATA_DIR", variable)
        with pytest.raises(InterruptedError):
            jepbt.datasets.load("tfds:mnist", data_dir=data_dir)
    names = ("tensorflow_datasets", "sets", "others")
    assert asked == [home / name for name in names]


def test_files_of_the_command_line_are_found_at_home(home):
    assert user_file("json", "~/numbers.json") == home / "numbers.json"
    here = pathlib.Path.cwd()
    assert user_file("figure", "picture.png") == here / "picture.png"
    with pytest.raises(ValueError, match=r"json='~/none/numbers\.json'"):
        user_file("json", "~/none/numbers.json")
