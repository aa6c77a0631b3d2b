"""Keeps jepbt's own work apart from a user's: JAX's switches, and the accelerator."""

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


def on_cpu() -> contextlib.AbstractContextManager[object]:
    """Computes on the CPU in a `with` block, or where JAX computes if it has no CPU.

    Example:
        >>> with on_cpu():
        ...     print(jax.numpy.zeros(3).device.platform)
        cpu
    """
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # JAX was told to use none, as by JAX_PLATFORMS=cuda
        return contextlib.nullcontext()
