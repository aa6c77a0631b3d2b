"""`jepbt report`: writes a run's page, once or while the run goes, and its table."""

import argparse
import pathlib
from collections.abc import Callable

from jepbt.arguments import user_file, user_path
from jepbt.checkpoints.folder import is_in_use
from jepbt.cli.say import say
from jepbt.optional import optional
from jepbt.report import watch, write_report
from jepbt.results import load_history

TEXTS = {
    "help": "write a run as one page, report.html, that opens without a network",
    "description": "Writes RUN_DIR/report.html, also while the run is going.",
    "epilog": """\
example:
  A page of the first run in this folder:

    jepbt report runs/0001
""",
}


def add_flags(command: argparse.ArgumentParser) -> None:
    """Adds the flags of `jepbt report`."""
    command.add_argument("run_dir", metavar="RUN_DIR", help="the folder of a run")
    command.add_argument(
        "--watch",
        action="store_true",
        help="write the page again after every generation, until the run ends or "
        "Ctrl-C; in the browser it reloads itself",
    )
    command.add_argument(
        "--csv",
        metavar="FILE",
        help="write a table, too: a row for each member of each generation",
    )


def prepare(arguments: argparse.Namespace) -> Callable[[], None]:
    """Writes page and table, and returns a function that prints where they are.

    A page that is watched is written by that function.
    """
    folder = user_path("run", arguments.run_dir)
    table = arguments.csv and user_file("csv", arguments.csv)
    if arguments.watch and is_in_use(folder):
        return lambda: _watch(folder, table)
    path = write_report(folder)
    if table:
        load_history(folder).to_csv(table)

    def show() -> None:
        size = path.stat().st_size / 1e6
        say(f"{path} ({size:.1f} MB): open it in any browser")
        if arguments.watch:
            say("no run is going there, so there is nothing to watch")
        if table:
            say(f"Table: {table}")

    return show


def _watch(folder: pathlib.Path, table: pathlib.Path | None) -> None:
    """Watches a run, and writes its table at the end."""
    watch(folder, say)
    if table:
        with optional(f"{table} is not written"):
            load_history(folder).to_csv(table)
            say(f"Table: {table}")
