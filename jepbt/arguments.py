"""Checks arguments with one wording: name, value, and what is allowed.

Every check takes the function that was called (`where`, empty for none), the argument's
name and the value that was passed, and raises an error that names all three.
"""

from __future__ import annotations

import inspect
import math
import numbers
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np


def is_whole(value: Any) -> bool:
    """Tells whether a value is a whole number, which a bool is not here."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_real(value: Any) -> bool:
    """Tells whether a value is a real number, which a bool is not here."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def check_whole(
    where: str, name: str, value: Any, low: int, high: int | None = None, note: str = ""
) -> None:
    """Raises a `ValueError` unless a value is a whole number in a range.

    `note` are words after the range, such as " or 'auto'".

    Example:
        >>> check_whole("restarts", "patience", 0, 1)
        Traceback (most recent call last):
            ...
        ValueError: restarts: patience=0 must be a whole number from 1 up.
    """
    if is_whole(value) and low <= value and (high is None or value <= high):
        return
    limit = "up" if high is None else f"to {high}"
    _refuse(where, f"{name}={value!r}", f"be a whole number from {low} {limit}{note}")


def check_real(
    where: str,
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: bool = False,
    below: bool = False,
    note: str = "",
) -> None:
    """Raises a `ValueError` unless a value is a finite number in a range.

    `above` refuses `low` itself, `below` refuses `high`. `note` are words after the
    range.

    Example:
        >>> check_real("gaussian", "reset", 1.5, 0, 1)
        Traceback (most recent call last):
            ...
        ValueError: gaussian: reset=1.5 must lie in [0, 1].
    """
    is_inside = is_real(value) and math.isfinite(value) and low <= value <= high
    if is_inside and not (above and value == low) and not (below and value == high):
        return
    if high < math.inf:
        allowed = f"lie in {'(' if above else '['}{low}, {high}{')' if below else ']'}"
    elif low == -math.inf:
        allowed = "be a number"
    else:
        allowed = f"be a number above {low}" if above else f"be a number from {low} up"
    _refuse(where, f"{name}={value!r}", allowed + note)


def check_scalar(where: str, name: str, value: Any, *limits: float, **options: Any):
    """Raises a `ValueError` unless a value is a number or a scalar array.

    Python numbers are checked as by `check_real`; the value of an array may be traced
    and cannot be checked.
    """
    if not isinstance(value, numbers.Real | np.ndarray | jax.Array):
        _refuse(where, f"{name}={value!r}", "be a number or a scalar array")
    if np.shape(value) != ():
        allowed = f"be a scalar, one member's; got shape {np.shape(value)}"
        _refuse(where, name, allowed)
    if isinstance(value, numbers.Real):
        check_real(where, name, value, *limits, **options)


def check_choice(where: str, name: str, value: Any, choices: Sequence[Any]) -> None:
    """Raises a `ValueError` unless a value is one of a few, of the same type.

    Example:
        >>> check_choice("", "batches", "mine", ("shared", "per_member"))
        Traceback (most recent call last):
            ...
        ValueError: batches='mine' must be 'shared' or 'per_member'.
    """
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        *first, last = map(repr, choices)
        allowed = f"one of {', '.join(first)}" if len(first) > 1 else first[0]
        _refuse(where, f"{name}={value!r}", f"be {allowed} or {last}")


def check_bool(where: str, name: str, value: Any) -> None:
    """Raises a `ValueError` unless a value is `True` or `False`."""
    if not isinstance(value, bool):
        _refuse(where, f"{name}={value!r}", "be True or False")


def check_each(where: str, name: str, values: Any, allowed: str) -> tuple[float, ...]:
    """Returns a sequence of numbers as a tuple, or raises a `ValueError`."""
    is_sequence = isinstance(values, Sequence | np.ndarray) and len(values)
    if not is_sequence or not all(map(is_real, values)):
        _refuse(where, f"{name}={values!r}", f"be {allowed}, at least one")
    return tuple(values)


def check_transition(where: str, name: str, value: Any) -> np.ndarray:
    """Returns a matrix of probabilities `f64[C, C]`, or raises a `ValueError`."""
    try:
        matrix = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        matrix = np.empty(0)
    if matrix.ndim != 2 or len(matrix) != len(matrix.T) or len(matrix) < 2:
        raise ValueError(
            f"{_of(where)}{name} must be a matrix [C, C] of at least 2 classes, got "
            f"shape {np.shape(value)}."
        )
    sums = matrix.sum(1)
    is_off = ~(np.abs(sums - 1) < 1e-4) | ~np.all(matrix >= 0, axis=1)
    if is_off.any():
        row = int(np.argmax(is_off))
        raise ValueError(
            f"{_of(where)}{name} must hold probabilities, so that each row sums to "
            f"one; row {row} is {matrix[row].tolist()}, whose sum is {sums[row]:.6g}."
        )
    return matrix


def check_mapping(where: str, name: str, value: Any, example: str) -> None:
    """Raises a `TypeError` unless a value is a dictionary."""
    if not isinstance(value, Mapping):
        allowed = f"be a dictionary, such as {example}"
        _refuse(where, f"{name}={value!r}", allowed, TypeError)


def check_function(
    where: str, name: str, value: Any, arguments: str, example: str
) -> None:
    """Raises a `TypeError` unless a value is a function of these arguments.

    Example:
        >>> check_function("epbt", "mutate", 3, "key, hparams", "perturb()")
        Traceback (most recent call last):
            ...
        TypeError: epbt: mutate=3 must be a function (key, hparams), such as perturb().
    """
    count = arguments.count(",") + 1
    if not callable(value) or not accepts(value, *[None] * count):
        given = getattr(value, "__name__", repr(value))
        allowed = f"be a function ({arguments}), such as {example}"
        _refuse(where, f"{name}={given}", allowed, TypeError)


def accepts(function: Callable[..., Any], *args: Any, **kwargs: Any) -> bool:
    """Tells from its signature whether a function can be called this way."""
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError:
        return False
    except ValueError:  # a builtin without a signature: calling it will tell
        pass
    return True


def if_defined_twice(one: type, other: type) -> str:
    """Says why two classes of one name are not the same; nothing of other names."""
    if one.__qualname__ != other.__qualname__:
        return ""
    return (
        f" These are two classes: {one.__name__} was defined twice, as by a notebook "
        "cell that ran again."
    )


def user_path(name: str, path: str | os.PathLike) -> pathlib.Path:
    """Makes a path that a user gave absolute, with `~` as the home folder.

    Done once, where the path is given: a later change of the current folder then does
    not change where it leads.

    Example:
        >>> path = user_path("run_dir", "runs/first")
        >>> path.is_absolute(), path.name
        (True, 'first')
    """
    text = os.fspath(path)
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):  # Python's answer to a home that is not known
        raise ValueError(
            f"{name}={text!r}: the home folder that ~ stands for is not known. Set "
            "HOME, or write the path without ~; a name that starts with it, as ./~name."
        )
    try:
        return pathlib.Path(expanded).absolute()
    except OSError as error:
        raise ValueError(
            f"{name}={text!r} starts from the current folder, which is gone "
            f"({error.strerror}). Give a path that starts at the root."
        ) from error


def user_file(name: str, path: str | os.PathLike) -> pathlib.Path:
    """Makes the path of a file that is to be written absolute, if it has a folder.

    Raises:
        ValueError: if there is no such folder, or the path is one itself.
    """
    file = user_path(name, path)
    if not file.parent.is_dir():
        raise ValueError(
            f"{name}={os.fspath(path)!r}: its folder does not exist. Make it first, or "
            "name a file in one that does."
        )
    if file.is_dir():
        raise ValueError(f"{name}={os.fspath(path)!r} is a folder. Name a file in it.")
    return file


def _refuse(where: str, given: str, allowed: str, error: type = ValueError) -> None:
    raise error(f"{_of(where)}{given} must {allowed}.")


def _of(where: str) -> str:
    return f"{where}: " if where else ""
