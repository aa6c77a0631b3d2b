"""The command line: `jepbt train`, `compare`, `benchmark`, `check`, `report`."""

from jepbt.cli.main import main

__all__ = ["main"]
