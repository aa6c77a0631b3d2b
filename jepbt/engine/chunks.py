"""Decides how many members a device computes together."""

from __future__ import annotations

from typing import NamedTuple

FEW = 8
"""Members whose activations fit a CPU's cache, or a TPU's own memory, together."""

SMALL_STEP = 1e7
"""Floating-point operations of a step below which one member leaves a CPU core idle.

Measured on two CPU cores, with dense layers and convolutions alike: eight members at
once gain 1.1 to 1.3 times up to 7 MFLOP a step, and lose as much from 26 MFLOP on."""


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

    On a CPU eight members at a time where a member's step is small, else one. On a TPU
    eight: its compiler estimates the fewest cycles so, which no TPU has confirmed yet.
    On a GPU, for which nothing has been measured yet, all of them. `jepbt.scaling`
    measures which size is the fastest for a task.

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
    flops = f"a step of {step_flops / 1e6:.3g} MFLOP"
    if platform == "cpu" and not 0 < step_flops <= SMALL_STEP:
        reason = f"{flops} keeps a core busy" if step_flops else "the step is unknown"
        return ChunkChoice(1, reason)
    if platform == "cpu":
        return ChunkChoice(largest_divisor(num_members, FEW), f"{flops} is small")
    if platform == "tpu":
        return ChunkChoice(largest_divisor(num_members, FEW), "the rule for TPUs")
    return ChunkChoice(num_members, f"all of a device, the rule for {platform}")


def largest_divisor(number: int, most: int) -> int:
    """Finds the largest divisor of a number that is at most `most`.

    Example:
        >>> largest_divisor(12, 8)
        6
    """
    return max(n for n in range(1, min(number, most) + 1) if number % n == 0)
