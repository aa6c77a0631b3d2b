"""Comparison: arms over seeds at equal cost, and whether they differ."""

from jepbt.comparison.arms import Arm, step_cost
from jepbt.comparison.loop import compare, describe_rest, run_comparison
from jepbt.comparison.plan import Plan, plan_comparison
from jepbt.comparison.report import Comparison
from jepbt.comparison.runs import Outcome

__all__ = [
    "Arm",
    "Comparison",
    "Outcome",
    "Plan",
    "compare",
    "describe_rest",
    "plan_comparison",
    "run_comparison",
    "step_cost",
]
