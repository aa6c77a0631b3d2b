"""What several processes must know alike: told by the first, or agreed upon.

In a single process, all of this does nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np

T = TypeVar("T")


def agree(number: int) -> int:
    """Takes the largest of all processes' numbers.

    Args:
        number: this process's.

    Returns:
        The same in every process.

    Example:
        >>> agree(3)
        3
    """
    if jax.process_count() == 1:
        return number
    from jax.experimental import multihost_utils

    return int(np.max(multihost_utils.process_allgather(np.int32(number))))


def share(arrays: Mapping[str, np.ndarray] | None) -> dict[str, np.ndarray]:
    """Gives every process the first one's arrays, bit by bit.

    Args:
        arrays: host arrays by name; those of other processes do not count.

    Returns:
        The first process's.

    Example:
        >>> share({"a": np.float32([-0.0])})
        {'a': array([-0.], dtype=float32)}
    """
    arrays = {} if arrays is None else dict(arrays)
    if jax.process_count() == 1:
        return arrays
    header = [[name, str(x.dtype), x.shape] for name, x in arrays.items()]
    text = np.frombuffer(json.dumps(header).encode(), np.uint8)
    size = int(_send(np.int32([text.size]))[0])
    text = _send(np.resize(text, size))
    shared = {}
    for name, dtype, shape in json.loads(text.tobytes()):
        dtype = np.dtype(dtype)
        array = arrays.get(name, np.zeros(0, dtype))
        # As bytes: the sum behind it would turn -0.0 into 0.0.
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        sent = _send(np.resize(flat, int(np.prod(shape)) * dtype.itemsize))
        shared[name] = sent.view(dtype).reshape(shape)
    return shared


def in_first(function: Callable[[], T]) -> T | None:
    """Calls a function in the first process alone; its refusal stops all of them.

    Args:
        function: may raise `ValueError`.

    Returns:
        What it returned; elsewhere `None`.

    Raises:
        ValueError: in every process, if the function did.

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
        text = "" if refusal is None else str(refusal)
        told = share({"refusal": np.frombuffer(text.encode(), np.uint8)})
        if told["refusal"].size and refusal is None:
            raise ValueError(told["refusal"].tobytes().decode())
    if refusal is not None:
        raise refusal
    return result


def _send(array: np.ndarray) -> np.ndarray:
    from jax.experimental import multihost_utils

    if not array.size:
        return array
    return np.ascontiguousarray(multihost_utils.broadcast_one_to_all(array))


def to_host(leaf: Any) -> np.ndarray:
    """Copies an array from all devices, since a view would end with a donated buffer.

    Args:
        leaf: an array, of keys too: then their data.

    Returns:
        A NumPy array of its own memory.
    """
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        from jax.experimental import multihost_utils

        leaf = multihost_utils.process_allgather(leaf, tiled=True)
    return np.array(leaf)
