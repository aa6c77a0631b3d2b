"""Rewrites the page of a run while the run goes on."""

import os
import pathlib
import time
from collections.abc import Callable

from jepbt.arguments import user_path
from jepbt.checkpoints import folder as run_directory
from jepbt.report.page import write_report

PAUSE = 2.0
"""The seconds between two looks at a run's folder."""

RELOAD = 5
"""The seconds after which a page that is watched reloads itself."""


def watch(
    run_dir: str | os.PathLike,
    tell: Callable[[str], None],
    pause: Callable[[], None] = lambda: time.sleep(PAUSE),
) -> None:
    """Writes a run's page whenever the run has gone on, until it ends or Ctrl-C.

    The page reloads itself in between; the last one, which is written in any case, does
    not. A run goes on as long as a process holds its folder.

    Args:
        run_dir: the run's folder.
        tell: the function that takes each line for people: where the page is, what is
            waited for, how it ended.
        pause: the function that waits between two looks at the folder.

    Example:
        >>> watch("runs/0001", print)  # doctest: +SKIP
    """
    folder = user_path("run", run_dir)
    told: set[str] = set()

    def write(reload_seconds: int) -> None:
        try:
            path = write_report(folder, reload_seconds=reload_seconds)
            text = f"{path}: open it in any browser"
        except (ValueError, OSError) as error:  # no generation yet, or a full disk
            text = f"no page yet: {error}"
        if text not in told:
            told.add(text)
            tell(text)

    seen, end = None, "the run has ended: the page is complete"
    try:
        while run_directory.is_in_use(folder):
            now = _look(folder)
            if now != seen:
                seen = now
                write(RELOAD)
            pause()
    except KeyboardInterrupt:
        end = "the run may still go on; the page no longer does"
    write(0)
    tell(end)


def _look(folder: pathlib.Path) -> list[tuple[str, int, int]]:
    """Describes the files that a page is made from, to see if they have changed."""
    names = (run_directory.HISTORY, "config.json", "test.json")
    found = [folder / name for name in names if (folder / name).exists()]
    return [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in found]
