"""The host loop: evolution of whatever a Python function evaluates."""

from jepbt.host.candidate import Candidate, field_dict
from jepbt.host.loop import epbt

__all__ = ["Candidate", "epbt", "field_dict"]
