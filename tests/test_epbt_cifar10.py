"""EPBT's comparison on CIFAR-10, at toy size, and what RESULTS.md says of it."""

import ast
import csv
import dataclasses
import os
import pathlib
import re
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from example_scripts import FOLDER, load_example

import jepbt

ROOT = pathlib.Path(__file__).parents[1]
study = load_example("epbt_cifar10")


def make_arrays(num_train=460, num_test=40):
    """Smooth random pictures, which compress, with labels as Keras has them."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", num_train), ("test", num_test)):
        steps = rng.integers(-3, 4, (count, 32, 32, 3)).cumsum(2) + 128
        arrays[f"x_{split}"] = steps.astype(np.uint8)
        arrays[f"y_{split}"] = (np.arange(count) % 10).astype(np.uint8)[:, None]
    return arrays


def test_the_example_opens_with_commands_times_and_the_figure_to_expect():
    text = ast.get_docstring(ast.parse((FOLDER / "epbt_cifar10.py").read_text()))
    for size in study.SIZES:
        assert f"--size {size}" in text
    assert "python examples/epbt_cifar10.py" in text and "Expect" in text
    assert re.search(r"2 CPU cores.*\d+ minutes", text)
    assert re.search(r"[\d.]+ PFLOP", text) and "never called a reproduction" in text


def test_an_archive_holds_the_most_images_that_fit_and_loses_nothing(tmp_path):
    arrays, path = make_arrays(), tmp_path / "small.npz"
    count = study.make_archive(arrays, path, limit=400_000)
    size = path.stat().st_size
    assert 0 < count < len(arrays["y_train"])
    per_image = size / (count + len(arrays["y_test"]))
    assert 400_000 - 3 * per_image < size <= 400_000
    read = study.read(path)
    for split, rows in (("train", count), ("test", None)):
        np.testing.assert_array_equal(read[f"x_{split}"], arrays[f"x_{split}"][:rows])
        np.testing.assert_array_equal(read[f"y_{split}"], np.arange(rows or 40) % 10)
    plain = sum(read[f"x_{split}"].nbytes for split in ("train", "test"))
    assert size < 0.5 * plain
    with pytest.raises(ValueError, match="100 bytes hold no training image"):
        study.make_archive(arrays, path, limit=100)


def test_more_images_than_there_are_is_refused_by_name():
    size = dataclasses.replace(study.SIZES["toy"], images=(900, 100))
    with pytest.raises(ValueError, match=r"--data has 460 .* --size takes 1000"):
        study.make_dataset(make_arrays(), size)


def test_the_control_schedule_ends_at_zero_and_the_others_have_none():
    """Without momentum's memory and decay an update is the gradient times the rate."""
    hyper = study.Hyper(learning_rate=0.2, weight_decay=0.0)
    seen = {}
    for steps in (4, None):
        made = study.optimizer(hyper, steps)
        rates, weights = [], jnp.zeros(1)
        state = made.init(weights)
        for _ in range(5):
            gradient, fresh = jnp.ones(1), made.init(weights)
            # The count of the schedule goes on, the momentum starts afresh.
            state = (fresh[0], fresh[1], *state[2:])
            update, state = made.update(gradient, state, weights)
            rates.append(-float(update[0]) / 1.9)
        seen[steps] = rates
    half = [0.2 * (1 + np.cos(np.pi * i / 4)) / 2 for i in range(5)]
    np.testing.assert_allclose(seen[4], half, atol=1e-7)
    np.testing.assert_allclose(seen[None], 0.2, rtol=1e-6)


def test_four_arms_are_compared_at_equal_cost_and_kept(tmp_path, capsys):
    size = dataclasses.replace(study.SIZES["toy"], images=(160, 40), num_seeds=1)
    size = dataclasses.replace(size, network=jepbt.models.MLP(hidden=(4,)))
    np.savez(tmp_path / "data.npz", **make_arrays())
    arrays, folder = study.read(tmp_path / "data.npz"), tmp_path / "run"
    comparison = study.run(arrays, size, folder)
    arms = (study.PBT, study.EPBT, study.FIXED, study.RANDOM)
    assert comparison.names == arms
    assert (comparison.control, comparison.primary) == (study.PBT, study.EPBT)
    assert {cost.num_steps for cost in comparison.costs.values()} == {100}  # 10 epochs
    assert not comparison.notes  # of other search spaces, for one
    assert len(capsys.readouterr().out.splitlines()) == 4
    again = study.run(arrays, size, folder)
    assert capsys.readouterr().out == ""  # nothing was trained again
    np.testing.assert_array_equal(again.scores, comparison.scores)
    lines = (folder / "comparison.csv").read_text().splitlines()
    kept = list(csv.DictReader(lines))
    assert [line["arm"] for line in kept] == list(arms)
    assert (folder / "comparison.json").stat().st_size > 1_000


@pytest.mark.slow
def test_its_command_prints_both_tables(tmp_path):
    """As users start it: optimised, which a network of this size needs."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("XLA_FLAGS", None)

    def run(*options):
        script = str(FOLDER / "epbt_cifar10.py")
        return subprocess.run(
            [sys.executable, script, *map(str, options)],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        ).stdout

    data, small = tmp_path / "data.npz", tmp_path / "small.npz"
    np.savez(data, **make_arrays())
    made = run("--data", data, "--make-archive", small)
    assert made == "460 training images\n"
    text = run("--data", small, "--size", "toy", "--folder", tmp_path / "run")
    assert f"minus {study.PBT}" in text and f"minus {study.EPBT}" in text


def read_comparison(size):
    """A comparison of RESULTS.md, from the file with every score."""
    with (FOLDER / "epbt_cifar10.csv").open() as file:
        lines = [line for line in csv.DictReader(file) if line["size"] == size]
    names = tuple(dict.fromkeys(line["arm"] for line in lines))
    seeds = sorted({int(line["seed"]) for line in lines})
    scores, fitness = (
        np.array([float(line[what]) for line in lines]).reshape(len(names), -1)
        for what in ("score", "validation")
    )
    about = {"split": "test", "is_accuracy": True, "settings": {}, "costs": {}}
    return jepbt.Comparison(
        names, np.array(seeds), scores, fitness, study.PBT, study.EPBT, **about
    )


@pytest.mark.parametrize("size", ["cpu", "full"])
def test_results_hold_the_tables_of_all_scores(size):
    text = (ROOT / "RESULTS.md").read_text()
    write_table = load_example("wrong_labels").write_table
    comparison = read_comparison(size)
    assert len(comparison.seeds) == study.SIZES[size].num_seeds
    assert write_table(comparison) in text
    against = dataclasses.replace(comparison, control=study.EPBT, primary=None)
    assert write_table(against) in text
