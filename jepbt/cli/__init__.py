"""The command line: `jepbt train`, `jepbt benchmark` and `jepbt report`."""

from jepbt.cli.main import main

__all__ = ["main"]
