"""Makes JAX devices of a machine's CPU cores."""

from __future__ import annotations

import contextlib
import os
import warnings

import jax

_PATIENCE = "xla_cpu_collective_call_terminate_timeout_seconds"
_A_WEEK = 7 * 24 * 3600


def count_cpu_cores() -> int:
    """Counts the cores that this process may use.

    Example:
        >>> count_cpu_cores() >= 1
        True
    """
    with contextlib.suppress(AttributeError, OSError):  # a system that does not tell
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def use_all_cpu_cores() -> int:
    """Makes one JAX device of every CPU core, so that members train side by side.

    Call it before anything else uses JAX: the number of devices is fixed once its
    backend has started. On the command line this has happened already.

    XLA ends a process in which one CPU device waits a minute for another, as in long
    generations on cores of uneven speed. From JAX 0.9 on that is switched off here, by
    a flag in the environment variable `XLA_FLAGS`, which processes started from this
    one inherit.

    Returns:
        The number of CPU devices; 0 if JAX has started without any.

    Example:
        >>> import jepbt
        >>> jepbt.use_all_cpu_cores()  # doctest: +SKIP
        2

    Warns:
        RuntimeWarning: if JAX has started with fewer devices, which then stay.
    """
    cores = count_cpu_cores()
    try:
        jax.config.update("jax_num_cpu_devices", cores)
        _let_devices_wait()
    except RuntimeError:  # raised once a backend is up
        try:
            count = len(jax.devices("cpu"))
        except RuntimeError:  # JAX was told to use no CPU, as by JAX_PLATFORMS=cuda
            return 0
        if count < cores:
            warnings.warn(
                f"JAX has already started with {count} CPU device(s) of {cores} cores: "
                "call jepbt.use_all_cpu_cores() before the first use of JAX.",
                RuntimeWarning,
                stacklevel=2,
            )
        return count
    return cores


def _let_devices_wait() -> None:
    """Keeps XLA from taking a device that is late for one that is stuck."""
    flags = os.environ.get("XLA_FLAGS", "")
    # An unknown flag ends the process, in the CPU's or the TPU's part of JAX.
    if jax.__version_info__ >= (0, 9) and _PATIENCE not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --{_PATIENCE}={_A_WEEK}".strip()
