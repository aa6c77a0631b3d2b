"""Writes a comparison as text: a table, a forest plot, and what follows."""

from __future__ import annotations

import math
from typing import Any

from jepbt.comparison.statistics import LEVEL, POWER, count_seeds, detectable
from jepbt.results.text import align

MATTERS = 0.003
"""The difference of accuracies whose number of seeds is named: 0.3 points."""

_WIDTH = 60  # of the forest plot, in characters


def write(comparison: Any) -> str:
    """Writes a `Comparison` as a page of text for a terminal."""
    parts = [
        _heading(comparison),
        _scores(comparison),
        _forest(comparison),
        _verdicts(comparison),
        _costs(comparison),
        "\n".join(f"Note: {note}." for note in comparison.notes),
    ]
    return "\n\n".join(part for part in parts if part)


def _heading(comparison: Any) -> str:
    s, count = comparison.settings, len(comparison.seeds)
    quantity = "accuracy in points" if comparison.is_accuracy else "score"
    kind = f"{comparison.split} {quantity}"
    if comparison.split == "test":
        kind += ", read once for each arm and seed"
    return (
        f"{kind}; {count} seed{'s' if count > 1 else ''}, paired\n"
        f"a run: {s['population_size']} members x {s['num_generations']} generations, "
        f"batches of {s['batch_size']}; the winner by validation"
    )


def _scores(comparison: Any) -> str:
    number = _formatter(comparison)
    level = f"{LEVEL:.0%} interval".replace("%", " %")
    lines = [["", "mean", level, "sd", f"minus {comparison.control}", level, "p: t"]]
    lines[0] += ["Wilcoxon", "Holm"]
    for row in comparison.rows:
        line = [
            _mark(comparison, row.name),
            number(row.score.mean),
            _interval(row.score, number),
            number(row.score.sd),
        ]
        if row.difference is None:
            line += ["control", "", "", "", ""]
        else:
            estimate, p_t, p_wilcoxon = row.difference
            signed = _formatter(comparison, signed=True)
            corrected = "" if row.name == comparison.primary else _probability(row.p)
            line += [signed(estimate.mean), _interval(estimate, signed)]
            line += [_probability(p_t), _probability(p_wilcoxon), corrected]
        lines.append(line)
    return align(lines, left=(0,))


def _forest(comparison: Any) -> str:
    """Draws each difference as a line: `(---o---)`, the zero as `|`."""
    rows = [row for row in comparison.rows if row.difference is not None]
    estimates = [row.difference.estimate for row in rows]
    ends = [end for each in estimates for end in each[:3] if math.isfinite(end)]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    if high == low:
        return ""

    def place(value):
        return round((value - low) / (high - low) * (_WIDTH - 1))

    signed = _formatter(comparison, signed=True)
    names = [_mark(comparison, row.name) for row in rows]
    margin = max(map(len, names)) + 2
    lines = []
    for name, estimate in zip(names, estimates, strict=True):
        marks = [" "] * _WIDTH
        if math.isfinite(estimate.low):
            first, last = place(estimate.low), place(estimate.high)
            marks[first : last + 1] = "-" * (last - first + 1)
            marks[first], marks[last] = "(", ")"
        marks[place(0.0)] = "|"
        if math.isfinite(estimate.mean):
            marks[place(estimate.mean)] = "o"
        lines.append(f"{name:{margin}}{''.join(marks)}".rstrip())
    scale = f"{signed(low):{_WIDTH // 2}}{signed(high):>{_WIDTH - _WIDTH // 2}}"
    lines.append(f"{'':{margin}}{scale}")
    return "\n".join([f"difference to {comparison.control}, and its interval", *lines])


def _verdicts(comparison: Any) -> str:
    """Says for each arm whether it differs, and how many seeds would tell."""
    count = len(comparison.seeds)
    if count < 2:
        return "One seed tells nothing about the spread: no interval, no test."
    lines = []
    for row in comparison.rows:
        if row.difference is None:
            continue
        estimate = row.difference.estimate
        signed = _formatter(comparison, signed=True)
        unit = " points" if comparison.is_accuracy else ""
        what = f"{_mark(comparison, row.name)}: {signed(estimate.mean)}{unit}"
        if math.isnan(row.p):
            lines.append(f"{what}: no test, since a score is no number.")
        elif row.is_significant:
            lines.append(f"{what}: significant, p = {_probability(row.p)}.")
        else:
            power = _power(comparison, estimate.sd, count, unit)
            lines.append(f"{what}: not significant{power}.")
    if comparison.primary is not None:
        lines.append("* primary: named beforehand; all others are exploratory.")
    return "\n".join(lines)


def _power(comparison: Any, sd: float, count: int, unit: str) -> str:
    if not sd > 0:
        return ""
    these = f"{_formatter(comparison)(detectable(sd, count))}{unit} (power {POWER})"
    if not comparison.is_accuracy:
        return f"; {count} seeds detect {these}"
    needed = f"{count_seeds(sd, MATTERS):,} seeds would detect {100 * MATTERS:.1f}"
    return f"; {needed}{unit}, these {count} detect {these}"


def _costs(comparison: Any) -> str:
    lines = [["a run costs", "steps", "of cost", "TFLOP", "seconds", "compiling"]]
    for name, cost in comparison.costs.items():
        flops = f"{cost.flops / 1e12:.3g}" if cost.flops else "unknown"
        lines.append([name, f"{cost.num_steps:,}", f"{cost.step_cost:g}", flops])
        lines[-1] += [f"{cost.seconds:.3g}", f"{cost.compile_seconds:.3g} once"]
    return align(lines, left=(0,))


def _mark(comparison: Any, name: str) -> str:
    return f"{name} *" if name == comparison.primary else name


def _interval(estimate: Any, number: Any) -> str:
    if math.isnan(estimate.low):
        return "unknown"
    return f"{number(estimate.low)} .. {number(estimate.high)}"


def _formatter(comparison: Any, *, signed: bool = False) -> Any:
    """Makes a function that writes scores, those that are accuracies in points."""
    sign = "+" if signed else ""
    if comparison.is_accuracy:
        return lambda value: format(100 * value, f"{sign}.2f")
    return lambda value: format(value, f"{sign}.4g")


def _probability(p: float) -> str:
    return f"{p:.2g}" if p >= 1e-4 or math.isnan(p) else f"{p:.0e}"
