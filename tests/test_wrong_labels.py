"""The runs of RESULTS.md, at toy size, through the same functions and commands."""

import csv
import pathlib

import numpy as np
import pytest
from example_scripts import load_example

import jepbt

ROOT = pathlib.Path(__file__).parents[1]
study = load_example("wrong_labels")


def test_a_table_compares_its_arms_on_data_of_the_seed(tmp_path):
    names = study.CONTROL, study.PRIMARY
    table, budget = study.Table(study.with_pattern, names), study.Budget(2, 1, 26)
    comparison = study.run("small", table, budget, [3, 4], tmp_path)
    assert comparison.names == names and comparison.control == study.CONTROL
    steps = [comparison.costs[name].num_steps for name in names]
    assert steps == [26, 20]  # a step that adapts costs 1.29 others
    *_, line = study.write_table(comparison).splitlines()
    mean = 100 * np.mean(comparison.scores[1] - comparison.scores[0])
    assert line.startswith(f"| **{study.PRIMARY}** |") and f"{mean:+.2f}" in line


def test_settings_are_what_their_names_say():
    clean = study.clean()
    noisy = study.with_pattern(7)
    is_wrong = noisy.train["label"] != clean.train["label"]
    assert is_wrong.mean() == 0.4
    both = clean.train["label"][is_wrong], noisy.train["label"][is_wrong]
    pairs = set(zip(*both, strict=True))
    assert len(pairs) == 10 and len({label for label, _ in pairs}) == 10
    np.testing.assert_array_equal(noisy.validation["label"], clean.validation["label"])
    few = study.with_few_trusted(7, 100)
    assert np.bincount(few.validation["label"]).tolist() == [10] * 10
    tail = study.with_long_tail(7)
    kept = len(tail.train["label"])
    assert kept == sum(int(900 * 0.05 ** (c / 9)) for c in range(10))


def test_images_become_grey_means_of_four_pixels():
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    small = study.shrink(images)
    assert small.shape == (2, 16, 16, 1)
    assert abs(small[1, 3, 5, 0] - images[1, 6:8, 10:12].mean()) <= 0.5


def read_scores():
    """The comparisons of RESULTS.md, from the file with every score."""
    with (ROOT / "examples" / "wrong_labels.csv").open() as file:
        lines = list(csv.DictReader(file))
    for table in dict.fromkeys(line["table"] for line in lines):
        rows = [line for line in lines if line["table"] == table]
        names = tuple(dict.fromkeys(line["arm"] for line in rows))
        seeds = sorted({int(line["seed"]) for line in rows})
        scores, fitness = (
            np.array([float(line[what]) for line in rows]).reshape(len(names), -1)
            for what in ("score", "validation")
        )
        control = study.ADJUSTED if table == "long-tail" else study.CONTROL
        about = {"split": "test", "is_accuracy": True, "settings": {}, "costs": {}}
        yield jepbt.Comparison(
            names, np.array(seeds), scores, fitness, control, study.PRIMARY, **about
        )


def test_results_hold_the_tables_of_all_scores():
    text = (ROOT / "RESULTS.md").read_text()
    comparisons = list(read_scores())
    assert len(comparisons) == 10 and len(comparisons[0].seeds) == 20
    for comparison in comparisons:
        assert study.write_table(comparison) in text


@pytest.fixture(scope="module")
def as_keras_writes_it(tmp_path_factory):
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "toy.npz"
    images = {f"x_{k}": rng.integers(0, 256, (n, 8, 8), np.uint8) for k, n in SIZES}
    labels = {f"y_{k}": np.arange(n) % 10 for k, n in SIZES}
    np.savez(path, **images, **labels)
    return path


SIZES = (("train", 11_000), ("test", 300))


@pytest.mark.slow
@pytest.mark.parametrize("table", [*study.tables("x"), "schedule"])
def test_every_table_runs_by_its_command(
    table, tmp_path, capsys, monkeypatch, as_keras_writes_it
):
    monkeypatch.setattr(jepbt, "use_all_cpu_cores", lambda: None)  # as other tests need
    flags = [table, "--toy", "--seeds", "2", "--folder", str(tmp_path)]
    study.main([*flags, "--data", str(as_keras_writes_it)])
    lines = capsys.readouterr().out.splitlines()
    expected = study.tables("x").get(table)
    count = 8 if expected is None else len(expected.arms)
    assert len([line for line in lines if line.startswith("|")]) == count + 2
