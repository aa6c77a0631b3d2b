"""Checks arguments alike: by name, value and what is allowed."""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np


def check_whole(where: str, name: str, value: Any, least: int) -> None:
    """Raises a `ValueError` for what is no whole number of at least `least`.

    Example:
        >>> check_whole("restarts", "patience", 0, 1)
        Traceback (most recent call last):
            ...
        ValueError: restarts: patience=0 must be a whole number from 1 up.
    """
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_whole or value < least:
        raise ValueError(
            f"{where}: {name}={value!r} must be a whole number from {least} up."
        )


def check_real(
    where: str,
    name: str,
    value: Any,
    low: float,
    high: float = math.inf,
    *,
    above: bool = False,
) -> None:
    """Raises a `ValueError` for what is no finite number from `low` to `high`.

    Args:
        where: the function that was called.
        name: of its argument.
        value: that it was given.
        low: the smallest value allowed, unless `above`.
        high: the largest.
        above: whether `low` itself is refused.

    Example:
        >>> check_real("gaussian", "reset", 1.5, 0, 1)
        Traceback (most recent call last):
            ...
        ValueError: gaussian: reset=1.5 must lie in [0, 1].
    """
    is_real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    is_inside = is_real and low <= value <= high and value < math.inf
    if is_inside and not (above and value == low):
        return
    if above:
        limit = "" if high == math.inf else f" and at most {high}"
        allowed = f"be a number above {low}{limit}"
    elif high == math.inf:
        allowed = f"be a number from {low} up"
    else:
        allowed = f"lie in [{low}, {high}]"
    raise ValueError(f"{where}: {name}={value!r} must {allowed}.")


def check_each(where: str, name: str, values: Any, allowed: str) -> tuple[float, ...]:
    """Returns a sequence of numbers as a tuple, or raises a `ValueError`.

    Example:
        >>> check_each("mf_pbt", "intervals", 5, "whole numbers")
        Traceback (most recent call last):
            ...
        ValueError: mf_pbt: intervals=5 must be whole numbers, at least one.
    """
    is_sequence = isinstance(values, Sequence | np.ndarray) and len(values)
    if not is_sequence or not all(
        isinstance(value, numbers.Real) and not isinstance(value, bool)
        for value in values
    ):
        raise ValueError(f"{where}: {name}={values!r} must be {allowed}, at least one.")
    return tuple(values)


def check_mapping(where: str, name: str, value: Any, example: str) -> None:
    """Raises a `TypeError` for what is no dictionary.

    Example:
        >>> check_mapping("frozen", "fields", 3, "{'rate': (0, 9)}")
        Traceback (most recent call last):
            ...
        TypeError: frozen: fields=3 must be a dictionary, such as {'rate': (0, 9)}.
    """
    if not isinstance(value, Mapping):
        raise TypeError(
            f"{where}: {name}={value!r} must be a dictionary, such as {example}."
        )


def check_operator(
    where: str, name: str, value: Any, arguments: str, example: str
) -> None:
    """Raises a `TypeError` for what is no function of these arguments.

    Example:
        >>> check_operator("epbt", "mutate", 3, "key, hparams", "perturb()")
        Traceback (most recent call last):
            ...
        TypeError: epbt: mutate=3 must be a function (key, hparams), such as perturb().
    """
    count = arguments.count(",") + 1
    if not callable(value) or not accepts(value, *[None] * count):
        given = getattr(value, "__name__", repr(value))
        raise TypeError(
            f"{where}: {name}={given} must be a function ({arguments}), such as "
            f"{example}."
        )


def accepts(function: Callable[..., Any], *args: Any, **kwargs: Any) -> bool:
    """Tells from its signature whether a function can be called this way."""
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError:
        return False
    except ValueError:  # a builtin without a signature: calling it will tell
        return True
    return True


def check_count(name: str, value: Any) -> None:
    """Refuses what is no whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name}={value!r} must be a whole number of at least 1.")
