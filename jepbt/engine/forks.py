"""Refuses to run in a forked process whose JAX was started before the fork.

A fork copies JAX's memory and none of its threads, so that whatever waits for one of
them waits for ever. A process that was forked before JAX started is like any other.
"""

from __future__ import annotations

import os

import jax

_inherited = False  # whether this process has a JAX that another one has started


def check_fork(where: str) -> None:
    """Raises a `RuntimeError` in a process whose JAX another one has started."""
    if _inherited:
        raise RuntimeError(
            f"{where} was called in a forked process, whose parent has used JAX: it "
            "would wait for ever. Start processes by 'spawn': multiprocessing."
            "get_context('spawn'), ProcessPoolExecutor(mp_context=...), or joblib's "
            "default, loky. Or fork before the parent's first use of JAX."
        )


def _has_started() -> bool:
    """Tells whether JAX has started a backend, without starting one."""
    before = jax.config.jax_num_cpu_devices
    try:
        # What it refuses, once a backend is up, is another number.
        jax.config.update("jax_num_cpu_devices", before + 1)
    except RuntimeError:
        return True
    jax.config.update("jax_num_cpu_devices", before)
    return False


def _after_fork() -> None:
    global _inherited
    _inherited = _inherited or _has_started()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_after_fork)
