"""Reports: the card that a notebook shows, and the page of a run."""

from jepbt.report.card import make_card
from jepbt.report.live import watch
from jepbt.report.page import write_report

__all__ = ["make_card", "watch", "write_report"]
