"""The command line: `jepbt train`, `compare`, `benchmark` and `report`."""

from jepbt.cli.main import main

__all__ = ["main"]
