"""What a comparison prints, draws and writes, made of given numbers."""

import csv
import dataclasses
import json
import pickle
import sys

import numpy as np
import pytest
from scipy import stats

import jepbt
from jepbt.comparison.report import Comparison, Cost

rng = np.random.default_rng(0)
SCORES = np.array([[0.80], [0.83], [0.801]]) + 0.01 * rng.normal(size=(3, 8))


def make(scores=SCORES, **changes):
    count = scores.shape[1]
    names = ("fixed", "evolved", "other")
    fields = {
        "names": names,
        "seeds": np.arange(count),
        "scores": scores,
        "validation": scores + 0.01,
        "control": "fixed",
        "primary": "evolved",
        "split": "test",
        "is_accuracy": True,
        "settings": {"population_size": 4, "num_generations": 3, "batch_size": 8},
        "costs": {name: Cost(30, 1.0, 2e9, 1.5, 3.0) for name in names},
        "notes": ("a fact",),
    }
    return Comparison(**(fields | changes))


def test_the_primary_stands_alone_and_the_others_are_corrected():
    first, second = make().rows[1:]
    expected = [stats.ttest_rel(SCORES[i], SCORES[0]).pvalue for i in (1, 2)]
    np.testing.assert_allclose([first.p, second.p], expected)
    both = make(primary=None).rows[1:]
    np.testing.assert_allclose([row.p for row in both], [2 * expected[0], expected[1]])
    other = dataclasses.replace(make(), control="evolved", primary=None).rows[0]
    assert other.difference.estimate.mean == -first.difference.estimate.mean


def test_the_table_says_what_follows():
    text = str(make())
    mean = f"{100 * SCORES[1].mean():.2f}"
    assert f"evolved *  {mean}" in text and "control" in text
    assert "8 seeds, paired" in text and "read once for each arm and seed" in text
    (verdict,) = [line for line in text.splitlines() if line.startswith("other: ")]
    sd = (SCORES[2] - SCORES[0]).std(ddof=1)
    # The two-sided normal approximation, which is a few seeds short.
    few = ((stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * sd / 0.003) ** 2
    count = int(verdict.split("not significant; ")[1].split()[0].replace(",", ""))
    assert few < count < few + 5 and "seeds would detect 0.3 points" in verdict
    assert "evolved *: +" in text and ": significant, p = " in text
    assert "Note: a fact." in text
    assert make().num_seeds("other", 0.003) == count


def test_the_forest_puts_zero_and_means_where_they_are():
    lines = str(make()).splitlines()
    evolved, other = (
        next(x for x in lines if x.startswith(n) and "(" in x)
        for n in ("evolved *", "other")
    )
    assert evolved.index("|") < evolved.index("(") < evolved.index("o", 10)
    assert other.index("(") < other.index("|") < other.index(")")
    assert evolved.index("|") == other.index("|")


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        (SCORES[:, :1], "One seed tells nothing about the spread"),
        (np.repeat(SCORES[:1], 3, 0), "evolved *: +0.00 points: not significant."),
        (np.where(SCORES[1, 2] == SCORES, np.nan, SCORES), "a score is no number"),
    ],
)
def test_borders_are_told_in_words(scores, words):
    comparison = make(scores)
    assert words in str(comparison)
    json.loads(comparison.to_json())
    jepbt.plots.comparison(comparison).figure.canvas.draw()


def test_scores_that_are_no_accuracy_have_no_points():
    text = str(make(-1000 * SCORES, is_accuracy=False, split="validation"))
    assert "points" not in text and "validation score" in text
    assert "8 seeds detect" in text


def test_files_hold_the_numbers(tmp_path):
    comparison = make()
    facts = json.loads(comparison.to_json(tmp_path / "c.json"))
    assert facts == json.loads((tmp_path / "c.json").read_text())
    assert facts["scores"] == SCORES.tolist() and facts["rows"][1]["is_significant"]
    comparison.to_csv(tmp_path / "c.csv")
    with open(tmp_path / "c.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [float(line["score"]) for line in lines] == SCORES.ravel().tolist()
    assert lines[9]["arm"] == "evolved" and lines[9]["seed"] == "1"
    again = pickle.loads(pickle.dumps(comparison))
    assert str(again) == str(comparison)


def test_a_frame_needs_pandas_and_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        make().to_frame()


def test_the_figure_shows_means_and_seeds(tmp_path):
    axes = jepbt.plots.comparison(make())
    axes.figure.savefig(tmp_path / "forest.png")
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "evolved *",
        "other",
    ]
    dots = axes.collections[0].get_offsets()[:, 0]
    np.testing.assert_allclose(dots, 100 * (SCORES[1] - SCORES[0]))
    (mean,) = axes.lines[2].get_xdata()
    np.testing.assert_allclose(mean, dots.mean())


def test_num_seeds_refuses_what_it_cannot_know():
    for name, difference in (("fixed", 0.1), ("none", 0.1), ("other", 0.0)):
        with pytest.raises(ValueError, match="num_seeds: name="):
            make().num_seeds(name, difference)
    with pytest.raises(ValueError, match="a score of 'other' or the control is nan"):
        make(np.where(SCORES[2, 1] == SCORES, np.nan, SCORES)).num_seeds("other", 0.1)
