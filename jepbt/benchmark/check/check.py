"""Runs the parts of a check one after the other, until its time is up."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from jepbt.benchmark.check.cost import cost_parts
from jepbt.benchmark.check.forms import form_parts
from jepbt.benchmark.check.record import Finding, Record
from jepbt.benchmark.check.right import right_parts
from jepbt.benchmark.check.sizes import Size

MAKERS: Mapping[str, Callable[[Size], dict[str, Callable[[Record], Finding]]]] = {
    "right": right_parts,
    "cost": cost_parts,
    "lowering": form_parts,
}
"""Makes the parts of each kind, by name, as functions of what was found before."""


def check_device(
    record: Record,
    size: Size,
    kinds: tuple[str, ...],
    *,
    max_seconds: float,
    tell: Callable[[str, Finding], None] = lambda part, finding: None,
) -> list[str]:
    """Runs the parts that a record has not finished, as far as the time allows.

    A part is started if the longest one so far would still end in time.

    Args:
        record: the earlier findings, to which new ones are added.
        size: the amount of training and timing.
        kinds: some of "right", "cost" and "lowering".
        max_seconds: the time after which no part should run.
        tell: called with each part and its finding.

    Returns:
        The parts that the time did not allow.
    """
    parts = {
        f"{kind}/{name}": run
        for kind in kinds
        for name, run in MAKERS[kind](size).items()
    }
    began, longest, left_out = time.perf_counter(), 0.0, []
    for part, run in parts.items():
        if record.is_finished(part):
            continue
        started = time.perf_counter()
        if started - began + longest > max_seconds:
            left_out.append(part)
            continue
        finding = _try(run, record)
        longest = max(longest, finding.seconds)
        record.keep(part, finding)
        tell(part, finding)
    return left_out


def _try(run: Callable[[Record], Finding], record: Record) -> Finding:
    """Runs a part; what ends it is a finding, so that the others still run."""
    started = time.perf_counter()
    try:
        found = run(record)
        holds, figures, error = found.holds, found.figures, None
    except Exception as caught:
        error = f"{type(caught).__name__}: {str(caught)[:300]}"
        holds, figures = None, {}
    seconds = round(time.perf_counter() - started, 2)
    return Finding(holds, figures, seconds, error)
