"""Reports: the card that a notebook shows, and the page of a run."""

from jepbt.report.card import make_card
from jepbt.report.page import make_page, write_report

__all__ = [
    "make_card",
    "make_page",
    "write_report",
]
