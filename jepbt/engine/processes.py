"""Lets several processes agree on a number, or on the first one's refusal.

In a single process, all of this does nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np

T = TypeVar("T")

_MESSAGE_BYTES = 4096


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
    if jax.process_count() == 1:
        return number
    from jax.experimental import multihost_utils

    return int(np.max(multihost_utils.process_allgather(np.int32(number))))


def in_first(function: Callable[[], T]) -> T | None:
    """Calls a function in the first process alone; its refusal stops all of them.

    Args:
        function: the function to call; it may raise `ValueError`.

    Returns:
        The function's result; in other processes `None`.

    Raises:
        ValueError: if the function raised it, in every process.

    Example:
        >>> in_first(lambda: 3)
        3
    """
    result, refusal = None, None
    if jax.process_index() == 0:
        try:
            result = function()
        except ValueError as error:
            refusal = error
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        # All processes must pass the same number of bytes.
        sent = np.zeros(_MESSAGE_BYTES, np.uint8)
        text = b"" if refusal is None else str(refusal).encode()[:_MESSAGE_BYTES]
        sent[: len(text)] = np.frombuffer(text, np.uint8)
        told = bytes(multihost_utils.broadcast_one_to_all(sent)).rstrip(b"\0")
        if told and refusal is None:
            raise ValueError(told.decode(errors="replace"))
    if refusal is not None:
        raise refusal
    return result
