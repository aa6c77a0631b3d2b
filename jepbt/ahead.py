"""Compiles a run for TPUs that are not here: what the compiler says, not what ran."""

from __future__ import annotations

import dataclasses
import os
import re
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jepbt import config as configs
from jepbt.checks import check_task, resolve_strategy
from jepbt.config import Config
from jepbt.estimate import program_bytes
from jepbt.execution import check_chunk, make_mesh, over_members
from jepbt.population import Task
from jepbt.programs import Programs, lower, reserved_bytes
from jepbt.strategies import Strategy
from jepbt.training import make_inputs, make_phases
from jepbt.tuning import chunk_candidates

NAMES = ("init", "evolve", "train", "evaluate")


class Ahead(NamedTuple):
    """Programs for devices that are not here.

    Attributes:
        programs: lowered; `.compile()` one to ask the compiler.
        estimated_bytes: of a device's memory, by program, before anything compiles.
        mesh: of the described devices.
    """

    programs: Programs
    estimated_bytes: dict[str, int]
    mesh: Mesh


def lower_for_tpu(
    task: Task,
    topology: str,
    *,
    strategy: str | Strategy = "epbt",
    chunk_size: int | None = None,
    only: tuple[str, ...] = NAMES,
    **fields: Any,
) -> Ahead:
    """Lowers the programs of a run for a TPU slice that need not be attached.

    Needs the TPU compiler: `pip install "jepbt[tpu-compile]"` in an environment of its
    own, beside no other accelerator's jaxlib.

    Args:
        task: as `train_population` takes it.
        topology: such as "v5e:1x1", "v5e:2x4" or "v5e:16x16".
        strategy: as `train_population` takes it.
        chunk_size: members of a device computed together; a run's first choice on TPU
            if left out.
        only: the programs to lower.
        **fields: of `Config`.

    Returns:
        The lowered programs and jepbt's estimates.

    Raises:
        ValueError: if the compiler does not know `topology`, or its devices do not
            divide the population.

    Example:
        >>> import jepbt
        >>> ahead = lower_for_tpu(  # doctest: +SKIP
        ...     jepbt.classification("fashion_mnist"), "v5e:2x4", population_size=256
        ... )
        >>> compiled_bytes(ahead.programs.train.compile())  # doctest: +SKIP
    """
    config = Config(**fields)
    configs.check(config)
    resolved = resolve_strategy(strategy)
    check_task(task, resolved, config)
    mesh = make_mesh(_describe_devices(topology))
    share, rest = divmod(config.population_size, mesh.size)
    if rest:
        raise ValueError(
            f"population_size={config.population_size} is not divisible by the "
            f"{mesh.size} devices of {topology!r}. Choose a multiple of {mesh.size}."
        )
    if chunk_size is None:
        chunk_size = chunk_candidates(share, "tpu")[0]
    check_chunk(chunk_size, share)
    phases = make_phases(task, resolved, config, mesh=mesh, chunk_size=chunk_size)
    inputs = jax.eval_shape(
        lambda: make_inputs(jax.random.key(0), _as_arrays(task.data), task.shared)
    )
    programs = lower(phases, inputs, mesh, only)
    return Ahead(programs, _estimate(phases, inputs, mesh, only), mesh)


def compiled_bytes(program: Any) -> int:
    """Reads off a compiled program what it reserves of each device's memory.

    Args:
        program: compiled.

    Returns:
        Bytes of arguments, results that take no argument's place, and temporaries.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> lowered = jax.jit(lambda x: x + 1).lower(jnp.zeros(256))
        >>> compiled_bytes(lowered.compile())
        2048
    """
    return reserved_bytes(program)


def estimated_cycles(text: str) -> int:
    """Adds up the compiler's cycles of a program for TPU, loops unrolled.

    The compiler notes an estimate at what it fuses; waiting for memory that its
    schedule hides, and collectives, have none. A loop that its data end, not a counter,
    is counted as one turn.

    Args:
        text: `compiled.as_text()`.

    Returns:
        Cycles of one core; 0 if the text has none, as for other platforms.

    Example:
        >>> estimated_cycles("HloModule m")
        0
    """
    bodies: dict[str, list[str]] = {}
    lines: list[str] = []
    entry = None
    for line in text.splitlines():
        header = re.match(r"(ENTRY )?%?(\S+) \(.*\{$", line)
        if header:
            lines = bodies.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        else:
            lines.append(line)
    if entry is None:
        return 0
    return _cycles(bodies, entry)


def _cycles(bodies: dict[str, list[str]], name: str) -> int:
    total = 0
    for line in bodies[name]:
        own = re.search(r'"estimated_cycles":"(\d+)"', line)
        total += int(own[1]) if own else 0
        loop = re.search(r" while\(.*condition=%?([\w.-]+), body=%?([\w.-]+)", line)
        if loop:
            total += _turns(bodies, line, loop[1]) * _cycles(bodies, loop[2])
    return total


def _turns(bodies: dict[str, list[str]], line: str, condition: str) -> int:
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
    if known:
        return int(known[1])
    text = "\n".join(bodies[condition])
    limits = re.findall(r"s32\[\]\S* constant\((\d+)\)", text)
    return int(limits[0]) if len(limits) == 1 else 1


def _describe_devices(topology: str) -> list[Any]:
    # The compiler would else ask a cloud's servers which machine this is.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    from jax.experimental import topologies

    # By default a description is of whole hosts, of 2 x 2 chips each.
    single = topology.endswith(":1x1")
    bounds = {"chips_per_host_bounds": (1, 1, 1)} if single else {}
    try:
        described = topologies.get_topology_desc(
            platform="tpu", topology_name=topology, **bounds
        )
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise ValueError(
            f"topology={topology!r} cannot be described: {error}. Name one such as "
            "'v5e:2x4', with jepbt[tpu-compile] installed."
        ) from error
    return described.devices


def _as_arrays(data: Any) -> Any:
    return jax.tree.map(jax.numpy.asarray, data)


def _estimate(phases, inputs, mesh, only) -> dict[str, int]:
    number = jax.ShapeDtypeStruct((), np.int32)
    state = jax.eval_shape(phases.init, inputs)
    _, metrics = jax.eval_shape(phases.train, inputs, number, state)
    over = over_members(mesh)
    members = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=over),
        state.population.state,
    )
    population = dataclasses.replace(state.population, state=members)
    state = dataclasses.replace(state, population=population)
    args = {
        "init": (phases.init, (inputs,), ()),
        "evolve": (phases.evolve, (inputs, number, state), (2,)),
        "train": (phases.train, (inputs, number, state), (2,)),
        "evaluate": (phases.evaluate, (inputs, number, metrics, state), (3,)),
    }
    return {
        name: program_bytes(function, given, platform="tpu", donated=donated)
        for name, (function, given, donated) in args.items()
        if name in only
    }
