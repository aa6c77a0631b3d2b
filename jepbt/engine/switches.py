"""Lets jepbt's own programs run under any of JAX's switches for finding mistakes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def own_rules() -> Iterator[None]:
    """Switches off, for jepbt's own work, what looks for mistakes in a user's.

    A population has nan and inf of its own, such as the fitness of a member that was
    never evaluated; a strategy adds whole numbers to real ones; settings and results
    move between host and devices. `Watch` looks for nan and inf in members instead.

    Example:
        >>> with jax.numpy_dtype_promotion("strict"), own_rules():
        ...     (jax.numpy.int32(1) + jax.numpy.float32(0.5)).item()
        1.5
    """
    with (
        jax.debug_nans(False),
        jax.debug_infs(False),
        jax.numpy_dtype_promotion("standard"),
        jax.transfer_guard("allow"),
    ):
        yield
