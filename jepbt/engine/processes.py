"""Lets several processes agree on a number, a text, or one's refusal of a run.

In a single process, all of this does nothing.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import TypeVar

import jax
import numpy as np

T = TypeVar("T")

_STATUS = (
    "(ABORTED|CANCELLED|DATA_LOSS|DEADLINE_EXCEEDED|FAILED_PRECONDITION|INTERNAL|"
    "INVALID_ARGUMENT|NOT_FOUND|RESOURCE_EXHAUSTED|UNAVAILABLE|UNKNOWN): "
)


class LostProcess(RuntimeError):
    """A run cannot go on because another of its processes has ended."""


def is_lost(error: BaseException | None) -> bool:
    """Tells whether an error may come from a process that is no longer there.

    JAX has no error for that alone, and raises a plain `ValueError`, whose text starts
    with a status, where a small program fails to exchange its numbers.

    Example:
        >>> is_lost(ValueError("UNKNOWN: Gloo AllGather failed: Connection closed"))
        True
        >>> is_lost(ValueError("MLP: hidden[0]=0 must be a whole number from 1 up."))
        False
    """
    if isinstance(error, LostProcess | jax.errors.JaxRuntimeError):
        return True
    return isinstance(error, ValueError) and re.match(_STATUS, str(error)) is not None


def are_several() -> bool:
    """Tells whether this process shares its run with others, without starting JAX.

    Example:
        >>> are_several()
        False
    """
    return jax.distributed.is_initialized() and jax.process_count() > 1


def agree(number: int) -> int:
    """Returns the largest of all processes' numbers, in every process.

    Example:
        >>> agree(3)
        3
    """
    return int(np.max(_gather(np.int32(number)))) if are_several() else number


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Lets an error that one process meets in a block stop all of them.

    Without it, the others would wait for a process that has left. The block itself
    must not wait for other processes.

    Raises:
        ValueError: if the block failed in another process; the message says in which,
            and why.

    Example:
        >>> with together():
        ...     number = 3
    """
    error = None
    try:
        yield
    except Exception as found:
        if not are_several():
            raise
        error = found
    if agree(error is not None):
        said = "" if error is None else str(error) or type(error).__name__
        texts = _gather_texts(said)
        if error is not None:
            raise error
        process = next(i for i, text in enumerate(texts) if text)
        raise ValueError(f"process {process}: {texts[process]}")


def in_first(function: Callable[[], T]) -> T | None:
    """Calls a function in the first process alone; its error stops all of them.

    Returns:
        The function's result; in other processes `None`.

    Raises:
        ValueError: if the function failed in the first process, in all others.

    Example:
        >>> in_first(lambda: 3)
        3
    """
    result = None
    with together():
        if not are_several() or jax.process_index() == 0:
            result = function()
    return result


def of_first(text: str) -> str:
    """Returns the first process's text, in every process.

    Example:
        >>> of_first("here")
        'here'
    """
    return _gather_texts(text)[0] if are_several() else text


def _gather_texts(text: str) -> list[str]:
    """Returns every process's text."""
    content = text.encode()
    size = agree(len(content))  # all must send the same number of bytes
    sent = np.frombuffer(content.ljust(size, b"\0"), np.uint8)
    return [bytes(row).rstrip(b"\0").decode() for row in _gather(sent)]


def _gather(array: np.ndarray) -> np.ndarray:
    """Returns every process's array, stacked.

    Raises:
        LostProcess: if another process is no longer there.
    """
    from jax.experimental import multihost_utils

    try:
        return multihost_utils.process_allgather(array)
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        raise LostProcess(str(error)) from error
