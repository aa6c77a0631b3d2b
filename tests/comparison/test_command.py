"""`jepbt compare` as a person meets it."""

import json
import os
import signal

import numpy as np
import pytest

from jepbt import cli
from jepbt.comparison import loop, runs

SMALL = ["--population-size", "2", "--num-generations", "2"]
SMALL += ["--steps-per-generation", "2", "--batch-size", "8", "--model", "mlp"]
SMALL += ["--data", "toy.npz", "--seeds", "2", "--no-progress"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a data set of 4x4 images."""
    images = np.random.default_rng(0).integers(0, 256, (120, 4, 4), np.uint8)
    parts = {"x_train": images[:90], "x_test": images[90:]}
    labels = {"y_train": np.arange(90) % 3, "y_test": np.arange(30) % 3}
    np.savez(tmp_path / "toy.npz", **parts, **labels)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_prints_a_table_and_keeps_everything(folder, monkeypatch, capsys):
    """Interrupted in its second run, continued by the command that it prints."""
    plain, ran = runs.execute, []

    def execute(prepared, callbacks):
        ran.append(prepared.config.seed)

        def press(report):
            if len(ran) == 2:
                os.kill(os.getpid(), signal.SIGINT)

        return plain(prepared, [*callbacks, press])

    compiled = {}

    def compile_arm(entrant, *args, **options):
        if entrant.name not in compiled:
            compiled[entrant.name] = runs.compile_arm(entrant, *args, **options)
        return compiled[entrant.name]

    monkeypatch.setattr(loop, "compile_arm", compile_arm)
    monkeypatch.setattr(loop, "serves", lambda *args: True)
    monkeypatch.setattr(runs, "execute", execute)
    flags = ["compare", "--arms", "cross_entropy,random_search", *SMALL, "--seed", "7"]
    flags += ["--label-noise", "0.2"]
    with pytest.raises(SystemExit) as stop:
        cli.main(flags)
    assert stop.value.code == 130
    said = capsys.readouterr()
    assert "cross_entropy, seed 7: 0." in said.out and "20% of train" in said.out
    assert "1 of 4 runs of the comparison are finished and kept" in said.err
    command = said.err.splitlines()[-1].split("   goes on")[0]
    assert command.startswith("jepbt compare") and command.endswith(" --resume")
    assert cli.main(command.split()[1:]) == 0
    assert ran == [7, 7, 7, 8, 8]
    output = capsys.readouterr().out
    assert "1 of 4 runs are finished already" in output
    assert "random_search *: " in output
    run = folder / "runs" / "0001"
    facts = json.loads((run / "comparison.json").read_text())
    assert np.shape(facts["scores"]) == (2, 2) and facts["seeds"] == [7, 8]
    assert (run / "comparison.txt").read_text() in output
    assert (run / "figures" / "comparison.png").stat().st_size > 5_000


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--arms taylor,evolved", "'evolved' is none of taylor, fixed, cross_entropy"),
        ("--arms taylor", "must be at least two"),
        ("--control pbt", "control='pbt' must be one of"),
        ("--seeds 0", "seeds=0 must be a whole number from 1"),
        ("--seed -1", "seed=-1 must be a whole number from 0"),
        ("--label-noise 2", "label_noise=2.0 must lie in [0, 1]"),
        ("--resume", "resume=True needs run_dir"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    flags, words, folder, monkeypatch, capsys
):
    monkeypatch.setattr(loop, "compile_arm", None)
    assert cli.main(["compare", *SMALL, *flags.split()]) == 2
    said = capsys.readouterr()
    assert words in said.err and len(said.err.splitlines()) == 1 and not said.out
    assert [path.name for path in folder.iterdir()] == ["toy.npz"]


def test_help_reads_well(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit, match="0"):
        cli.main(["compare", "--help"])
    text = capsys.readouterr().out
    for words in ("--arms", "--primary", "--post-hoc", "--population-size"):
        assert words in text
    assert "--primary transition" in text.split("example:")[1]
    assert "--checkpoint-every" not in text  # a setting that it has no use for
