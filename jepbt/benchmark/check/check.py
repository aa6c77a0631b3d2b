"""Runs the parts of a check one after the other, until its time is up."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence

from jepbt.benchmark.check.cost import cost_parts
from jepbt.benchmark.check.forms import form_parts
from jepbt.benchmark.check.record import Finding, Record
from jepbt.benchmark.check.right import right_parts
from jepbt.benchmark.check.sizes import Size


def check_device(
    record: Record,
    size: Size,
    kinds: Sequence[str],
    *,
    max_seconds: float,
    tell: Callable[[str, Finding], None],
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
    began, longest, left_out = time.perf_counter(), 0.0, []
    for part, run in make_parts(size, record.findings).items():
        if part.partition("/")[0] not in kinds or record.is_finished(part):
            continue
        if time.perf_counter() - began + longest > max_seconds:
            left_out.append(part)
            continue
        finding = _try(run)
        longest = max(longest, finding.seconds)
        record.keep(part, finding)
        tell(part, finding)
    return left_out


def make_parts(
    size: Size, findings: Mapping[str, Finding]
) -> dict[str, Callable[[], Finding]]:
    """Makes all parts by name; they read in `findings` what earlier ones found."""
    return right_parts(size) | cost_parts(size, findings) | form_parts(size)


def _try(run: Callable[[], Finding]) -> Finding:
    """Runs a part; what ends it is a finding, so that the others still run."""
    started = time.perf_counter()
    try:
        finding = run()
    except Exception as caught:
        error = f"{type(caught).__name__}: {str(caught)[:300]}"
        finding = Finding(None, {}, error=error)
    seconds = round(time.perf_counter() - started, 2)
    return dataclasses.replace(finding, seconds=seconds)
