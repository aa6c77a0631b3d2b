"""Checks a device: is jepbt right on it, what does a population cost, which form wins?

The parts are in `right`, `cost` and `forms`; `record` keeps what they found.
"""

from jepbt.benchmark.check.check import check_device
from jepbt.benchmark.check.record import Finding, Record, open_record
from jepbt.benchmark.check.sizes import SIZES, Size
from jepbt.benchmark.check.table import markdown

__all__ = [
    "SIZES",
    "Finding",
    "Record",
    "Size",
    "check_device",
    "markdown",
    "open_record",
]
