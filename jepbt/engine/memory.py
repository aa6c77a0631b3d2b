"""Refuses a run that does not fit into memory, before and after it compiles.

Before compiling, only what every program must hold is counted: the members and the
data. What a step needs beside that, the compiler knows, and says after compiling.
"""

from __future__ import annotations

import contextlib
import math
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from jepbt.config import Config
from jepbt.engine.devices import is_host
from jepbt.engine.member import TracedMember
from jepbt.optional import optional
from jepbt.tasks import Task


class DoesNotFit(ValueError):
    """A run needs more memory than there is; the message says what would fit."""


def check_memory(
    member: TracedMember, task: Task, config: Config, devices: list[jax.Device]
) -> int:
    """Refuses a population that cannot fit, before anything compiles.

    Every member is held once, since a chunk that has trained overwrites the members
    that it trained from, and the data once on each device. This is a lower bound: the
    arrays of a training step come on top, and `check_programs` looks at those.
    """
    data = task.data and (task.data.train, task.data.validation)
    fixed = tree_bytes((data, task.shared))
    state = tree_bytes((member.state, member.hparams))
    on_cpu = is_host(devices[0])
    # The host's CPU devices live in one memory, each accelerator in its own.
    sharing = len(devices) if on_cpu else 1
    limit = memory_limit(devices[0])
    members = config.population_size * sharing // len(devices)
    held = members * state + sharing * fixed
    if held > limit:
        where = f"{readable(limit)} {'memory' if on_cpu else 'on each device'}"
        room = max(0, limit - sharing * fixed)
        fits = int(room // state) * len(devices) // sharing
        raise DoesNotFit(
            f"population_size={config.population_size} needs at least "
            f"{readable(held)} of {where}: a member has {readable(state)} of "
            f"state. At most {fits} members "
            "fit; choose fewer, or a smaller model."
        )
    return held


def reserved_bytes(program: Any) -> int:
    """Adds up what a compiled program holds on one device while it runs."""
    memory = None
    with optional("what a program reserves is not known, and not checked"):
        memory = program.memory_analysis()
    if memory is None:
        return 0
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )


def check_programs(
    reserved: float, limit: float, config: Config, chunk_size: int
) -> None:
    """Refuses a run whose compiled programs reserve more memory than there is."""
    if reserved <= limit:
        return
    advice = "a smaller batch_size, fewer members, or a smaller model"
    if chunk_size > 1:
        advice = f"chunk_size=1, {advice}"
    together = f"{chunk_size} member{'s' * (chunk_size > 1)} at a time on each device"
    amount = "more" if math.isinf(reserved) else readable(reserved)  # XLA refused
    amount += " than the" if math.isinf(reserved) else " of"
    raise DoesNotFit(
        f"population_size={config.population_size}, chunk_size={chunk_size}, "
        f"batch_size={config.batch_size}: the compiled programs, with {together}, "
        f"reserve {amount} {readable(limit)} there are. Choose {advice}."
    )


def readable(count: float) -> str:
    """Writes a number of bytes for people.

    Example:
        >>> readable(1_234_567)
        '1.23 MB'
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.4g} TB"


def memory_limit(device: jax.Device) -> int:
    """Finds how much memory a run may use on one device."""
    statistics = None
    with optional("the memory of a device is not known, and taken to be the host's"):
        statistics = None if is_host(device) else device.memory_stats()
    if statistics and "bytes_limit" in statistics:
        return statistics["bytes_limit"]
    limits = []
    with contextlib.suppress(AttributeError, ValueError, OSError):  # it does not tell
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in (
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ):
        try:
            limits.append(int(pathlib.Path(path).read_text()))
        except (OSError, ValueError):  # no control group here, or it says "max"
            continue
    return min(limits, default=math.inf)


def tree_bytes(tree: Any) -> int:
    """Adds up the bytes of a tree's arrays, or of their shapes alone."""
    return sum(
        math.prod(jnp.shape(leaf)) * jnp.result_type(leaf).itemsize
        for leaf in jax.tree.leaves(tree)
    )
