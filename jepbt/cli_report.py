"""`jepbt report`: a run as one page."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from jepbt.report import write_report


def prepare_report(arguments: argparse.Namespace) -> Callable[[], None]:
    """Writes the page, and returns what says where it is."""
    path = write_report(arguments.run_dir)
    size = path.stat().st_size / 1e6
    return lambda: print(f"{path} ({size:.1f} MB): open it in any browser")
