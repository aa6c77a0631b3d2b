"""Lays out what a check found as tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jepbt.benchmark.check.record import Finding, Record
from jepbt.nn.lowering import decide

_HOLDS = {True: "yes", False: "**no**", None: "-"}
_COST = ("seconds", "samples/s", "cost of one", "share of peak", "MB", "chunk")


def markdown(record: Record, left_out: Sequence[str] = ()) -> str:
    """Writes a record as Markdown: the device, and a table for each kind of part.

    Args:
        record: the findings.
        left_out: the parts that the time did not allow.
    """
    about = record.about
    seconds = sum(finding.seconds for finding in record.findings.values())
    lines = [
        f"### jepbt check: {about['num_devices']} x {about['device']}",
        "",
        f"jepbt {about['jepbt']}, jax {about['jax']}, Python {about['python']}, size "
        f"{about['size']}, {seconds:.0f} s",
    ]
    for title, head, rows in (
        ("Is it right?", ("claim", "holds", "figures"), _right(record)),
        (
            "What does a population cost? A generation of 100 steps",
            ("model", "s", "samples/s", "cost of one", "% of peak", "MB", "chunk"),
            _cost(record),
        ),
        (_title(record), ("form", "P", "ms a step", "samples/s"), _forms(record)),
    ):
        if rows:
            lines += ["", f"**{title}**", "", _rows(head, rows)]
    if left_out:
        lines += ["", f"The time did not allow: {'; '.join(left_out)}."]
    return "\n".join(lines)


def _of(record: Record, kind: str) -> list[tuple[str, Finding]]:
    return [
        (part.removeprefix(f"{kind}/"), finding)
        for part, finding in record.findings.items()
        if part.startswith(f"{kind}/")
    ]


def _right(record: Record) -> list[list[str]]:
    return [
        [
            name,
            "**no**" if finding.error else _HOLDS[finding.holds],
            _words(finding),
        ]
        for name, finding in _of(record, "right")
    ]


def _cost(record: Record) -> list[list[str]]:
    rows = []
    for name, finding in _of(record, "cost"):
        figures = dict(finding.figures)
        if "seconds" not in figures:
            rows.append([name, _words(finding), *[""] * (len(_COST) - 1)])
            continue
        if "share of peak" in figures:
            figures["share of peak"] *= 100
        rows.append([name, *(_number(figures.get(column, "")) for column in _COST)])
    return rows


def _title(record: Record) -> str:
    """Names the form that jepbt takes on this platform, and why."""
    platform = record.about["platform"]
    row = decide(platform, "convolution")
    return f"Which form is fastest? The table says {row.form!r}: {row.evidence}"


def _forms(record: Record) -> list[list[str]]:
    found = _of(record, "lowering")
    rates = [finding.figures.get("samples/s", 0) for _, finding in found]
    rows = []
    for (name, finding), rate in zip(found, rates, strict=True):
        if "samples/s" not in finding.figures:
            rows.append([name, _words(finding), "", ""])
            continue
        mark = "**" * (rate == max(rates))
        values = [finding.figures[k] for k in ("P", "ms a step", "samples/s")]
        rows.append([f"{mark}{name}{mark}", *map(_number, values)])
    return rows


def _words(finding: Finding) -> str:
    if finding.error:
        return finding.error.replace("\n", " ").replace("|", "/")[:120]
    return ", ".join(
        value if name == "note" else f"{name} {_number(value)}"
        for name, value in finding.figures.items()
    )


def _number(value: Any) -> str:
    """Writes a number in three digits.

    Example:
        >>> _number(0.123456), _number(81234.0), _number(1024)
        ('0.123', '81,234', '1024')
    """
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
