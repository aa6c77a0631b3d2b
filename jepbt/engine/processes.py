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

_MESSAGE_BYTES = 4096


class LostProcess(RuntimeError):
    """A run cannot go on because another of its processes has ended."""


def is_lost(error: BaseException | None) -> bool:
    """Tells whether an error may come from a process that is no longer there.

    JAX has no error for that alone, and raises a plain `ValueError`, whose text starts
    with a status, where a small program fails to exchange its numbers.

    Example:
        >>> is_lost(ValueError("UNKNOWN: Gloo AllGather failed: Connection closed"))
        True
        >>> is_lost(ValueError("population_size=0 must be a whole number"))
        False
    """
    if isinstance(error, LostProcess | jax.errors.JaxRuntimeError):
        return True
    is_status = re.match("[A-Z_]+: ", str(error)) is not None
    return isinstance(error, ValueError) and is_status


def are_several() -> bool:
    """Tells whether this process shares its run with others, without starting JAX.

    Example:
        >>> are_several()
        False
    """
    return jax.distributed.is_initialized() and jax.process_count() > 1


def agree(number: int) -> int:
    """Returns the largest of all processes' numbers.

    Args:
        number: the number of this process.

    Returns:
        The same number in every process.

    Example:
        >>> agree(3)
        3
    """
    if not are_several():
        return number
    from jax.experimental import multihost_utils

    with _exchange():
        return int(np.max(multihost_utils.process_allgather(np.int32(number))))


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
    if are_several():
        texts = _gather("" if error is None else str(error) or type(error).__name__)
        if error is None and any(texts):
            process = next(i for i, text in enumerate(texts) if text)
            raise ValueError(f"process {process}: {texts[process]}")
    if error is not None:
        raise error


def in_first(function: Callable[[], T]) -> T | None:
    """Calls a function in the first process alone; its error stops all of them.

    Args:
        function: the function to call.

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

    Args:
        text: the text of this process.

    Returns:
        The text of the first process.

    Example:
        >>> of_first("here")
        'here'
    """
    if not are_several():
        return text
    from jax.experimental import multihost_utils

    content = text.encode() if jax.process_index() == 0 else b""
    # All processes must pass the same number of bytes.
    sent = _padded(content, agree(len(content)))
    with _exchange():
        return bytes(multihost_utils.broadcast_one_to_all(sent)).decode()


def _gather(text: str) -> list[str]:
    """Returns every process's text, cut off where it is long."""
    from jax.experimental import multihost_utils

    sent = _padded(text.encode()[:_MESSAGE_BYTES], _MESSAGE_BYTES)
    with _exchange():
        found = multihost_utils.process_allgather(sent)
    return [bytes(row).rstrip(b"\0").decode(errors="ignore") for row in found]


@contextlib.contextmanager
def _exchange() -> Iterator[None]:
    """Gives the error of a failed exchange a name of its own."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        raise LostProcess(str(error)) from error


def _padded(content: bytes, size: int) -> np.ndarray:
    return np.frombuffer(content.ljust(size, b"\0"), np.uint8)
