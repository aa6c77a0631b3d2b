"""Lowers traced functions, to hash what they compute and to count what it costs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from jepbt.engine.switches import on_cpu
from jepbt.optional import optional


def lower_anywhere(traced: Any) -> Any:
    """Lowers for an accelerator: the same text everywhere, and arithmetic to count.

    There a convolution is one operation, while the CPU's goes through loops, whose
    bodies the compiler's count takes once. A function that lowers for its own platform
    alone, such as one with a callback or a kernel of the user's, is lowered for that.
    """
    try:
        with on_cpu():  # whose backend counts arithmetic, as no accelerator's does
            return traced.lower(lowering_platforms=("tpu",))
    except (NotImplementedError, ValueError):
        return traced.lower()


def hash_parts(traced: Mapping[str, Sequence[Any]], step: Any = None) -> dict[str, str]:
    """Hashes the text of lowered functions, which is the same on every machine.

    Args:
        traced: the traced functions behind each part of a run.
        step: the lowered training step, which belongs to the part `"train"`.

    Returns:
        64 hexadecimal digits for each part.
    """
    hashes = {}
    for name, parts in traced.items():
        lowered = [lower_anywhere(part) for part in parts]
        lowered += [step] if name == "train" else []
        text = "".join(program.as_text() for program in lowered)
        hashes[name] = hashlib.sha256(text.encode()).hexdigest()
    return hashes


def count_flops(step: Any) -> float:
    """Counts the floating-point operations of a lowered step; 0 if unknown."""
    with optional("the arithmetic of a training step is not counted"):
        analysis = step.cost_analysis() or {}
        return max(0.0, float(analysis.get("flops", 0.0)))
    return 0.0
