"""Whether a run fits into memory: estimated from one member, before it compiles."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax

from jepbt.config import Config
from jepbt.execution import memory_limit, tree_bytes
from jepbt.population import Task


class MemberBytes(NamedTuple):
    """What one member takes: its state, and what a call holds while it computes."""

    state: int
    train: int = 0
    evaluate: int = 0


class Need(NamedTuple):
    """What a run takes of one memory, and how it is divided.

    Attributes:
        num_bytes: estimated, on all of this host's devices that share a memory.
        most_at_once: members that a device can compute together.
    """

    num_bytes: int
    most_at_once: int


def check_memory(
    member: MemberBytes, task: Task, config: Config, devices: list[jax.Device]
) -> Need:
    """Refuses what cannot fit: a population, or the members computed together.

    Every member is held twice, since training (and on accelerators inheriting) writes
    the next population beside the last one; the data once for each device; and a step's
    arrays for each member that a device computes at a time.

    Args:
        member: from `check_task`.
        task: whose data and shared arrays every device holds.
        config: checked.
        devices: that share the population.

    Returns:
        What the run needs, with the chunk size given or else one member at a time.

    Raises:
        ValueError: says what would fit.
    """
    data = task.data and (task.data.train, task.data.validation)
    fixed = tree_bytes((data, task.shared))
    on_cpu = devices[0].platform == "cpu"
    # The host's CPU devices live in one memory, each accelerator in its own.
    sharing = len(devices) if on_cpu else 1
    limit = memory_limit(devices[0])
    where = f"{readable(limit)} {'memory' if on_cpu else 'on each device'}"
    members = config.population_size * sharing // len(devices)
    held = 2 * members * member.state + sharing * fixed
    if held > limit:
        room = max(0, limit - sharing * fixed)
        fits = int(room // (2 * member.state)) * len(devices) // sharing
        raise ValueError(
            f"population_size={config.population_size} needs at least "
            f"{readable(held)} of {where}: a member has {readable(member.state)} of "
            f"state, held twice while a generation trains. At most {fits} members "
            "fit; choose fewer, or a smaller model."
        )
    step = max(member.train, member.evaluate)
    share = config.population_size // len(devices)
    room = (limit - held) / sharing
    most = share if step == 0 or math.isinf(room) else min(share, int(room // step))
    chunk = 1 if config.chunk_size == "auto" else config.chunk_size
    if chunk > most:
        batch_size = config.batch_size or task.batch_size
        raise ValueError(
            f"chunk_size={config.chunk_size}, batch_size={batch_size}: {chunk} "
            f"member{'s' * (chunk > 1)} at a time on each of {len(devices)} devices "
            f"hold{'s' * (chunk == 1)} about {readable(chunk * sharing * step)} while "
            f"they compute, beside {readable(held)} of members and data, of {where}. "
            f"{_advise(member, batch_size, share, most, room)}"
        )
    return Need(held + chunk * sharing * step, most)


def _advise(
    member: MemberBytes, batch_size: int, share: int, most: int, room: float
) -> str:
    if most >= 1:
        fits = max(n for n in range(1, most + 1) if share % n == 0)
        return f"Choose chunk_size={fits}, 'auto', or a smaller batch_size."
    fits = int(batch_size * room // max(member.train, 1))
    if fits < 1 or member.evaluate > room:
        return "Choose fewer members, or a smaller model."
    return f"Choose batch_size={fits} or less, fewer members, or a smaller model."


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
