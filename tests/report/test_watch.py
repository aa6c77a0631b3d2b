"""A page that is watched: it follows the run, whole at any time, and ends with it."""

import os
import signal
import subprocess
import sys
import time

import pytest
from browser import open_browser
from made_up_run import write_run

from jepbt import cli
from jepbt.checkpoints import folder as run_directory
from jepbt.report import watch, write_report


class Going:
    """A run that writes one more generation whenever its watcher waits."""

    def __init__(self, path, num_generations=4):
        self.folder = write_run(path, 3, num_generations, has_loss=False)
        self.history = self.folder / "history.jsonl"
        self.lines = self.history.read_text().splitlines(keepends=True)
        self.history.unlink()
        self.lock = run_directory.lock(self.folder)
        self.pages, self.told = [], []

    def go_on(self):
        page = self.folder / "report.html"
        self.pages.append(page.read_text() if page.exists() else None)
        if self.lines:
            with open(self.history, "a") as file:
                file.write(self.lines.pop(0))
        else:
            self.lock.release()


def status(page):
    return page and page.partition('<p class="quiet">3 members, ')[2].partition(",")[0]


def test_the_page_follows_the_run_and_is_still_when_it_ends(tmp_path):
    run = Going(tmp_path / "run")
    watch(run.folder, run.told.append, run.go_on)
    so_far = "{} of 4 generations so far (this page reloads itself)"
    shown = [status(page) for page in run.pages]
    assert shown == [None, *map(so_far.format, (1, 2, 3)), "all 4 generations"]
    assert all('<body data-reload="5">' in page for page in run.pages[1:])
    last = (run.folder / "report.html").read_text()
    assert status(last) == "all 4 generations" and '<body data-reload="0">' in last
    assert run.told[0].startswith("no page yet: ") and "history.jsonl" in run.told[0]
    assert run.told[1:] == [
        f"{run.folder / 'report.html'}: open it in any browser",
        "the run has ended: the page is complete",
    ]


def test_a_page_is_written_only_if_the_run_has_gone_on(tmp_path, monkeypatch):
    run, written = Going(tmp_path / "run", 1), []
    rests = iter([run.go_on, lambda: None, lambda: None, run.go_on])

    def write(folder, **settings):
        written.append(settings)
        return write_report(folder, **settings)

    monkeypatch.setattr("jepbt.report.live.write_report", write)
    watch(run.folder, run.told.append, lambda: next(rests)())
    assert written == [{"reload_seconds": seconds} for seconds in (5, 5, 0)]


def test_ctrl_c_leaves_a_page_that_does_not_reload(tmp_path):
    run = Going(tmp_path / "run")
    num_pauses = 0

    def pause():
        nonlocal num_pauses
        num_pauses += 1
        if num_pauses == 3:
            raise KeyboardInterrupt
        run.go_on()

    watch(run.folder, run.told.append, pause)
    page = (run.folder / "report.html").read_text()
    assert "2 of 4 generations so far (this page does not update)" in page
    assert '<body data-reload="0">' in page
    assert run.told[-1] == "the run may still go on; the page no longer does"
    run.lock.release()


def test_a_full_disk_costs_a_page_and_not_the_watching(tmp_path, monkeypatch):
    run = Going(tmp_path / "run")
    refusals = [OSError(28, "No space left on device")] * 2

    def replace(*arguments):
        if run.told and refusals:
            raise refusals.pop()
        return real(*arguments)

    real = run_directory.replace
    monkeypatch.setattr(run_directory, "replace", replace)
    watch(run.folder, run.told.append, run.go_on)
    assert any("No space left" in text for text in run.told)
    assert status((run.folder / "report.html").read_text()) == "all 4 generations"


def test_without_a_run_that_goes_the_page_is_written_once(tmp_path, capsys):
    folder = write_run(tmp_path / "run", 3, 2)
    assert cli.main(["report", str(folder), "--watch"]) == 0
    assert "nothing to watch" in capsys.readouterr().out
    assert '<body data-reload="0">' in (folder / "report.html").read_text()
    assert cli.main(["report", str(tmp_path), "--watch"]) == 2


def test_a_folder_is_in_use_while_a_run_holds_it(tmp_path):
    assert not run_directory.is_in_use(tmp_path)
    held = run_directory.lock(tmp_path)
    assert run_directory.is_in_use(tmp_path)
    held.release()
    assert not run_directory.is_in_use(tmp_path)
    run_directory.lock(tmp_path).release()  # the question has not taken it


@pytest.fixture
def heeds_interrupts():
    """What a script starts in the background ignores SIGINT, and so do its children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_command_watches_until_it_is_interrupted(tmp_path, heeds_interrupts):
    run = Going(tmp_path / "run")
    run.go_on()
    command = [sys.executable, "-m", "jepbt", "report", str(run.folder), "--watch"]
    with subprocess.Popen(
        [*command, "--csv", str(tmp_path / "table.csv")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        try:
            assert "report.html: open it" in process.stdout.readline()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, err) == (0, "")
    assert "may still go on" in out and (tmp_path / "table.csv").exists()
    run.lock.release()


@pytest.mark.browser
def test_in_a_browser_the_page_reloads_and_keeps_the_chosen_member(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("jepbt.report.live.RELOAD", 1)
    run = Going(tmp_path / "run")
    count = "jepbtReport.run.fitness.length"
    # While the page reloads it may have neither a body nor a panel.
    panel = "document.getElementById('member')?.innerText"
    with open_browser(tmp_path / "profile") as page:
        is_open = False

        def pause():
            nonlocal is_open
            shown = 4 - len(run.lines)
            if shown == 1 and not is_open:
                page.open(run.folder / "report.html")
                page.evaluate("location.replace('#0-2'); window.isOld = true")
                is_open = True
            if is_open:
                ready = f"!!window.jepbtReport && {count} === {shown}"
                page.wait_for(ready)
                page.wait_for(f"{panel}?.includes('member 2 of generation 0')")
                page.wait_for("window.isOld === undefined")
            run.go_on()

        watch(run.folder, run.told.append, pause)
        page.wait_for("document.body?.dataset.reload === '0'")
        page.evaluate("window.isLast = true")
        time.sleep(2.5)  # twice the time after which it would have reloaded
        assert page.evaluate("window.isLast") is True
        assert page.problems() == []
