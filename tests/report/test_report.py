"""The report: what a page says, and what it does in a browser."""

import base64
import html
import json
import os
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from browser import open_browser
from made_up_run import EVIL, write_run
from tiny_task import TASK

import jepbt
from jepbt import cli
from jepbt.cli.main import _parse
from jepbt.report import write_report
from jepbt.results import load_history


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    parent = tmp_path_factory.mktemp("runs")
    for seed in range(20):  # until the winner's own choice is the evil one
        folder = write_run(parent / "<i>0001", 8, 6, seed)
        history = load_history(folder)
        if history.hparams["activation"][history.winner] == EVIL:
            break
    write_report(folder)
    return folder


def read_data(page):
    (text,) = re.findall(
        r'<script type="application/json" id="run">(.*?)</script>', page
    )
    return json.loads(text)


def test_the_page_holds_the_run(folder):
    page = (folder / "report.html").read_text()
    history = load_history(folder)
    data = read_data(page)
    fitness = np.array(data["fitness"], float)
    np.testing.assert_allclose(fitness, history.fitness, rtol=1e-4)
    np.testing.assert_array_equal(data["parents"], history.parents)
    assert tuple(data["winner"]) == history.winner
    generation, slot = history.winner
    title = f"{history.fitness[generation, slot]:.3f} ±0.020 on validation data"
    assert f"<h1>{title}: member {slot} of generation {generation}</h1>" in page
    assert "all 6 generations" in page
    assert 'class="jepbt-loss"' in page and "num_generations=6" in page


def test_what_a_run_wrote_is_never_markup(folder):
    page = (folder / "report.html").read_text()
    assert EVIL not in page and "<img src=x" not in page and "<i>0001" not in page
    assert html.escape(EVIL) in page
    assert EVIL in {
        value for row in read_data(page)["hparams"]["activation"] for value in row
    }


def test_a_run_of_the_command_says_how_to_run_it_again(tmp_path):
    """The line is the command's own: it parses, and asks for the same run."""
    folder = write_run(tmp_path / "run", 3, 2)
    config = folder / "config.json"
    settings = json.loads(config.read_text())
    page = write_report(folder).read_text()
    assert "jepbt train" not in page  # a model and a space of the user's own
    names = ("learning_rate", "momentum", "weight_decay", "dropout", "loss")
    space = settings["hparams"]
    space = {name: space["loss" if name == "loss" else "rate"] for name in names}
    settings |= {"hparams": space, "model": "MLP", "data": "digits of mine"}
    settings |= {"data_note": "my data/digits of mine.npz"}
    # The defaults of `Config`, which are not the command's.
    settings["config"] |= {"num_generations": 20, "steps_per_generation": 100}
    settings["config"] |= {"batch_size": 64, "debug": True}
    settings |= {"strategy": "pb2", "compute_dtype": "bfloat16"}
    config.write_text(json.dumps(settings))
    lines = (folder / "history.jsonl").read_text().splitlines()
    for number, line in enumerate(lines):
        row = json.loads(line)
        del row["crc32"]
        row["hparams"] = {
            name: row["hparams"]["loss" if name == "loss" else "rate"] for name in names
        }
        lines[number] = json.dumps(row)
    (folder / "history.jsonl").write_text("\n".join(lines) + "\n")
    page = html.unescape(write_report(folder).read_text())
    (line,) = re.findall(r"jepbt (train --.*?)</pre>", page)
    arguments = _parse(shlex.split(line))
    assert arguments.data == "my data/digits of mine.npz"
    assert arguments.model == "mlp"
    assert (arguments.strategy, arguments.compute_dtype) == ("pb2", "bfloat16")
    assert "digits of mine.npz', compute_dtype='bfloat16')" in page
    wanted = settings["config"]
    for name in ("population_size", "num_generations", "steps_per_generation"):
        assert getattr(arguments, name) == wanted[name]
    for name in ("batch_size", "seed", "debug"):
        assert getattr(arguments, name) == wanted[name]
    assert int(arguments.chunk_size) == settings["chunk_size"]


ROWS = np.ones((20, 3), np.float32)
PAIRS = ROWS, np.arange(20) % 2


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: jepbt.classification(PAIRS), "jepbt.classification(...)  # with your"),
        (
            lambda: jepbt.classification("fashion_mnist"),
            "jepbt.classification('fashion_mnist')  # with your model",
        ),
        (lambda: jepbt.regression(PAIRS), "jepbt.regression(...)  # with your model"),
        (
            lambda: jepbt.regression(PAIRS, compute_dtype="bfloat16"),
            "jepbt.regression(..., compute_dtype='bfloat16')  # with",
        ),
        (lambda: TASK, "...  # the jepbt.Task of your own\n"),
    ],
)
def test_the_page_makes_the_task_by_its_own_function(make, words, tmp_path):
    folder = write_run(tmp_path / "run", 3, 2)
    config = folder / "config.json"
    settings = json.loads(config.read_text())
    for fact in ("data", "num_classes", "model"):
        del settings[fact]
    config.write_text(json.dumps({**make().about, **settings}))
    assert f"task = {words}" in html.unescape(write_report(folder).read_text())


def test_the_page_loads_nothing(folder):
    page = (folder / "report.html").read_text()
    page = re.sub(r"(<script[^>]*>).*?</script>", r"\1", page, flags=re.S)
    sources = re.findall(
        r'<(?:img|script|link|iframe)[^>]*?(?:src|href)="([^"]*)"', page
    )
    assert sources and all(source.startswith("data:") for source in sources)
    assert "default-src 'none'" in page
    for encoded in re.findall(r'src="data:image/png;base64,([^"]*)"', page):
        assert base64.b64decode(encoded).startswith(b"\x89PNG")


def test_a_run_that_is_going_says_so(tmp_path):
    folder = write_run(tmp_path / "run", 4, 6)
    history = folder / "history.jsonl"
    lines = history.read_text().splitlines(keepends=True)
    history.write_text("".join(lines[:3]) + lines[3][:40])
    page = write_report(folder).read_text()
    assert "3 of 6 generations so far" in page
    assert len(read_data(page)["fitness"]) == 3


def test_a_run_without_a_loss_has_a_page_too(tmp_path):
    folder = write_run(tmp_path / "run", 3, 2, has_loss=False)
    page = write_report(folder).read_text()
    assert 'class="jepbt-loss"' not in page


def test_a_run_of_the_host_loop_has_a_page_too(tmp_path):
    folder = write_run(tmp_path / "run", 3, 2, has_loss=False)
    settings = json.loads((folder / "config.json").read_text())
    settings = {"loop": "jepbt.epbt", "seed": 3, "hparams": settings["hparams"]}
    (folder / "config.json").write_text(json.dumps(settings))
    page = write_report(folder).read_text()
    assert "Made by <code>jepbt.epbt</code>" in page and "2 generations" in page


def test_the_test_score_is_shown_once_it_was_read(tmp_path):
    folder = write_run(tmp_path / "run", 3, 2)
    assert "on test data" not in write_report(folder).read_text()
    score = {"mean": 0.5, "standard_error": 0.01}
    (folder / "test.json").write_text(json.dumps({"best": score}))
    assert "0.500 ±0.020" in write_report(folder).read_text()


def test_the_command_says_where_the_page_is(tmp_path, capsys):
    folder = write_run(tmp_path / "run", 3, 2)
    assert cli.main(["report", str(folder)]) == 0
    assert re.match(r".*report\.html \(\d\.\d MB\)", capsys.readouterr().out)


def test_a_large_run_stays_below_6_megabytes(tmp_path):
    folder = write_run(tmp_path / "run", num_members=64, num_generations=100)
    assert write_report(folder).stat().st_size < 6e6


@pytest.mark.browser
def test_in_ci_a_missing_browser_fails():
    code = "import browser; browser.find_chromium()"
    for ci, outcome in (("1", "Failed"), ("", "Skipped")):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PATH": "", "CI": ci},
            cwd=os.path.dirname(os.path.dirname(__file__)),
            capture_output=True,
            text=True,
        )
        assert outcome in done.stderr


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_hover_and_click_work_in_a_browser(folder, width, tmp_path):
    history = load_history(folder)
    with open_browser(tmp_path) as page:
        page.resize(width, 900)
        page.open(folder / "report.html")
        # Nothing may be wider than the window, nor too small to read.
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("document.querySelectorAll('canvas').length") >= 2
        sizes = page.evaluate(
            "[...document.querySelectorAll('p, td, th, pre')].map("
            "node => parseFloat(getComputedStyle(node).fontSize))"
        )
        assert min(sizes) >= 11
        rows = history.fitness[2:5]
        gaps = np.abs(rows[:, :, None] - rows[:, None, :]) + 9 * np.eye(8)
        widest = np.unravel_index(np.argmax(gaps.min(axis=1)), rows.shape)
        generation, slot = int(widest[0]) + 2, int(widest[1])  # hidden by no other
        for chart in ("fitness", "lineage"):
            page.evaluate(f"document.getElementById('{chart}').scrollIntoView()")
            place = f"[{generation}, jepbtReport.places.{chart}({generation}, {slot})]"
            x, y = page.evaluate(
                f"(() => {{ const box = document.getElementById('{chart}')"
                ".getBoundingClientRect(); const at = jepbtReport.charts"
                f".{chart}.convertToPixel({{gridIndex: 0}}, {place});"
                "return [box.left + at[0], box.top + at[1]]; })()"
            )
            shown = f"document.getElementById('{chart}').innerText"
            page.wait_for(
                f"{shown}.includes('member {slot} of generation {generation}')",
                # Again and again: the chart may not have been painted yet.
                lambda: [page.mouse("mouseMoved", x - d, y - d) for d in (40, 0)],  # noqa: B023
            )
            text = page.evaluate(shown)
            hover, edges = (
                page.evaluate(
                    f"(() => {{ const box = document.querySelector('{selector}')"
                    ".getBoundingClientRect(); return [box.left, box.top, box.right, "
                    "box.bottom]; })()"
                )
                for selector in (f"#{chart} .hover", f"#{chart}")
            )
            assert hover[0] >= 0 and hover[2] <= width, "it is cut off"
            is_high = y < (edges[1] + edges[3]) / 2
            far, got = (edges[3], hover[3]) if is_high else (edges[1], hover[1])
            assert abs(far - got) < 2, "it may hide the member it speaks of"
            covers = hover[0] < x < hover[2] and hover[1] < y < hover[3]
            assert not covers
            rate = history.hparams["rate"][generation, slot]
            assert f"{rate:.3g}" in text or f"{float(f'{rate:.3g}')}" in text
            page.evaluate("jepbtReport.select(...jepbtReport.run.winner)")
            page.mouse("mousePressed", x, y)
            page.mouse("mouseReleased", x, y)
            panel = "document.getElementById('member').innerText"
            page.wait_for(
                f"{panel}.includes('member {slot} of generation {generation}')"
            )
            line = page.evaluate(
                f"jepbtReport.charts.{chart}.getOption().series"
                ".find(one => one.id === 'chosen').data"
            )
            ancestors = history.ancestry(generation, slot)
            numbers = [at[0] for at in line]
            np.testing.assert_array_equal(numbers, ancestors.generations)
            if chart == "fitness":
                expected = history.fitness[ancestors]
                np.testing.assert_allclose([at[1] for at in line], expected, rtol=1e-4)
        assert page.evaluate("document.querySelectorAll('figure img').length") == 3
        sharp = "[...document.images].every(image => image.naturalWidth > image.width)"
        assert page.evaluate(sharp)
        assert page.problems() == []
        local = page.requests()
        assert local and all(url.startswith(("file:", "data:")) for url in local)
        assert sum(url.startswith("file:") for url in local) == 1
