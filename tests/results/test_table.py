"""The table of a run, in pandas or as text: a row a member and generation."""

import csv
import dataclasses
import io
import sys

import numpy as np
import pytest
import tiny_task
from made_up_run import EVIL, write_run

import jepbt
from jepbt import cli
from jepbt.results import Generation, History, load_history
from jepbt.results.table import columns

NAN = float("nan")


def small():
    """Of three members one is kept, one copied and perturbed, one fresh."""
    first = Generation(
        0,
        np.float32([0.5, NAN, 0.25]),
        np.float32([0.1, NAN, 0.1]),
        np.int32([0, 1, 2]),
        {
            "rate": np.float32([0.1, 0.2, 0.3]),
            "width": np.int32([1, 2, 3]),
            "name": np.array(["a", "b", "a"], object),
            "pair": np.float32([[1, 2], [3, 4], [5, 6]]),
        },
        {"loss": np.float32([1, NAN, 3])},
        {},
        {},
    )
    second = Generation(
        1,
        np.float32([0.625, 0.75, 0.125]),
        np.float32([0.1, 0.1, 0.1]),
        np.int32([0, 2, 2]),
        {
            "rate": np.float32([0.1, 0.36, 0.7]),
            "width": np.int32([1, 3, 9]),
            "name": np.array(["a", "b", "b"], object),
            "pair": np.float32([[1, 2], [5, 6.5], [7, 8]]),
        },
        {"loss": np.float32([1, 2, 3])},
        {"fresh": np.array([False, False, True])},
        {},
    )
    history = History()
    history.generations = [first, second]
    return history


# Member 1 of generation 1 began as member 2 of generation 0, with whose width it trains
# on; member 2 started over, so that nothing of it was perturbed.
TEXT = """\
generation,member,fitness,standard_error,parent,operation,hparams/rate,\
hparams/rate/before,hparams/width,hparams/width/before,hparams/name,\
hparams/name/before,hparams/pair[0],hparams/pair[0]/before,hparams/pair[1],\
hparams/pair[1]/before,metrics/loss
0,0,0.5,0.1,0,fresh,0.1,,1,,a,,1.0,,2.0,,1.0
0,1,,,1,fresh,0.2,,2,,b,,3.0,,4.0,,
0,2,0.25,0.1,2,fresh,0.3,,3,,a,,5.0,,6.0,,3.0
1,0,0.625,0.1,0,kept,0.1,,1,,a,,1.0,,2.0,,1.0
1,1,0.75,0.1,2,copied,0.36,0.3,3,,b,a,5.0,,6.5,6.0,2.0
1,2,0.125,0.1,2,fresh,0.7,,9,,b,,7.0,,8.0,,3.0
"""


def test_a_row_says_what_a_member_was_and_what_was_perturbed(tmp_path):
    small().to_csv(tmp_path / "run.csv")
    assert (tmp_path / "run.csv").read_text() == TEXT


def test_a_frame_has_the_same_rows_as_the_text(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = small().to_frame()
    assert frame.fitness.dtype == np.float32 and frame.parent.dtype == np.int32
    assert frame["hparams/rate/before"].isna().tolist() == 4 * [True] + [False, True]
    assert frame["hparams/width/before"].isna().all()
    read = pandas.read_csv(io.StringIO(TEXT))
    assert read.columns.tolist() == frame.columns.tolist()
    for name in frame.columns:
        got, expected = frame[name], read[name]
        assert got.isna().tolist() == expected.isna().tolist(), name
        kind = np.float32 if expected.dtype.kind == "f" else expected.dtype
        both = got.dropna().astype(kind), expected.dropna().astype(kind)
        assert both[0].tolist() == both[1].tolist(), name


def test_numbers_come_back_bit_for_bit_and_text_stays_text(tmp_path):
    folder = write_run(tmp_path / "run", 7, 9)
    history = load_history(folder)
    history.to_csv(tmp_path / "run.csv")
    with open(tmp_path / "run.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 63
    for name, values in columns(history).items():
        texts = [row[name] for row in rows]
        if values.dtype == np.float32 and not isinstance(values, np.ma.MaskedArray):
            got = np.float32([text or NAN for text in texts])
            np.testing.assert_array_equal(got, values)
    assert EVIL in {row["hparams/activation"] for row in rows}
    (fresh,) = [
        row for row in rows if row["generation"] == "4" and row["member"] == "1"
    ]
    assert fresh["operation"] == "fresh" and not fresh["hparams/rate/before"]


def test_without_pandas_a_frame_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"pip install pandas\. to_csv writes the"):
        small().to_frame()


@dataclasses.dataclass
class Odd(tiny_task.Hyper):
    clip: object = jepbt.hparam(None, choices=(None, 0.1, 1.0))
    kernel: object = jepbt.hparam((3, 3), choices=((3, 3), (5, 5)))
    mixed: object = jepbt.hparam((1, 2), choices=(None, 0.1, "a", (1, (2, 3)), (1, 2)))
    function: object = jepbt.hparam(np.sin, choices=(np.sin, np.cos))


def test_a_folder_has_the_choices_of_its_run(tmp_path):
    task = dataclasses.replace(tiny_task.TASK, hparams=Odd)
    result = tiny_task.train(task, 8, 4, 1, run_dir=tmp_path / "run")
    history = load_history(tmp_path / "run")
    for name in ("rate", "clip", "kernel", "mixed"):
        values = result.history.hparams[name]
        assert history.hparams[name].tolist() == values.tolist(), name
        assert len(set(values.ravel().tolist())) > 1
    for each, file in ((history, "read.csv"), (result.history, "run.csv")):
        each.to_csv(tmp_path / file)
    assert (tmp_path / "read.csv").read_text() == (tmp_path / "run.csv").read_text()
    for run in (result, tmp_path / "run"):
        axes = jepbt.plots.hparam_schedules(run)
        labels = [[t.get_text() for t in axis.get_yticklabels()] for axis in axes[1:3]]
        assert labels == [["None", "0.1", "1.0"], ["(3, 3)", "(5, 5)"]]
        heights = np.round(axes[2].collections[0].get_offsets()[:, 1]).astype(int)
        is_large = [value == (5, 5) for value in history.hparams["kernel"].ravel()]
        assert sorted(heights) == sorted(is_large)


def test_the_command_writes_the_table_beside_the_page(tmp_path, capsys):
    folder, file = write_run(tmp_path / "run"), tmp_path / "table.csv"
    assert cli.main(["report", str(folder), "--csv", str(file)]) == 0
    jepbt.load_history(folder).to_csv(tmp_path / "expected.csv")
    assert file.read_text() == (tmp_path / "expected.csv").read_text()
    assert (folder / "report.html").exists()
    assert str(file) in capsys.readouterr().out
