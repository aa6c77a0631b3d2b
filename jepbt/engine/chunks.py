"""Decides how many members a device computes together."""

from __future__ import annotations

import math
from typing import NamedTuple

from jepbt.nn.lowering import decide


class ChunkChoice(NamedTuple):
    """The members that a device computes together, and why.

    Attributes:
        size: a divisor of the members of a device.
        reason: one line for people.
    """

    size: int
    reason: str


def choose_chunk(num_members: int, platform: str, step_flops: float) -> ChunkChoice:
    """Chooses by a rule, so that the same run computes the same on every machine.

    The rule and its evidence stand in `jepbt.nn.lowering`: on a CPU eight members at a
    time where a member's step is small, else one; on a TPU eight; on a GPU all of them.
    `jepbt.scaling` measures which size is the fastest for a task.

    Args:
        num_members: the members of one device.
        platform: the device's platform.
        step_flops: the floating-point operations of a member's step; 0 if unknown.

    Returns:
        The largest divisor of `num_members` that the rule allows.

    Example:
        >>> choose_chunk(32, "cpu", 1e6).size, choose_chunk(32, "cpu", 1e8).size
        (8, 1)
    """
    row = decide(platform, "members", step_flops or math.inf)
    step = f"a step of {step_flops / 1e6:.3g} MFLOP" if step_flops else "any step"
    size = largest_divisor(num_members, row.form or num_members)
    return ChunkChoice(size, f"the rule for {step}, {row.evidence}")


def largest_divisor(number: int, most: int) -> int:
    """Finds the largest divisor of a number that is at most `most`.

    Example:
        >>> largest_divisor(12, 8)
        6
    """
    return max(n for n in range(1, min(number, most) + 1) if number % n == 0)
