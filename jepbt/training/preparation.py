"""Prepares a run: checks everything, then compiles."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from typing import Any

import jax
from jax.sharding import Mesh

from jepbt import config as configs
from jepbt.checkpoints import RunFolder, differences, identify, resume
from jepbt.checkpoints import folder as run_directory
from jepbt.checkpoints.identity import versions
from jepbt.config import VERSION, Config
from jepbt.engine import RunState, make_mesh, make_phases
from jepbt.engine.checks import check_elements
from jepbt.engine.devices import (
    ChunkChoice,
    check_chunk,
    choose_chunk,
    choose_devices,
    is_host,
    largest_divisor,
)
from jepbt.engine.forks import check_fork
from jepbt.engine.generation import Phases
from jepbt.engine.member import TracedMember, decide_batch_size, trace_member
from jepbt.engine.memory import (
    check_memory,
    check_programs,
    memory_limit,
    reserved_bytes,
    tree_bytes,
)
from jepbt.engine.processes import agree, are_several, in_first, of_first, together
from jepbt.engine.programs import (
    AFTER_TRAINING,
    Later,
    compile_each,
    lower_each,
    place_inputs,
    use_compilation_cache,
)
from jepbt.engine.state import Inputs
from jepbt.engine.switches import own_rules
from jepbt.population import count_rows
from jepbt.strategies import Strategy, resolve_strategy
from jepbt.tasks import Task
from jepbt.training.warm_start import warm_start


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A run that has been checked and compiled, and can start.

    Attributes:
        task: the task that is trained.
        strategy: the strategy between generations.
        config: the settings, checked, with the batch size decided.
        mesh: the devices that share the population.
        chunk: the number of members that a device computes together, and the reason.
        inputs: the arrays that all programs read, on the devices.
        programs: the compiled parts of a generation.
        memory_bytes: the bytes that the largest program reserves in one memory, of
            those that were compiled when this was made.
        memory_limit: the bytes of that memory.
        seconds: the duration of each step: `"trace"`, `"identify"`, `"data"`,
            `"compile"`, and `"compile train"` and the like for each program, once it
            is there: several compile at once, while the next ones are traced.
        step_flops: the floating-point operations of one member's training step; 0 if
            unknown.
        checkpoint_bytes: the bytes of one checkpoint.
        held: the run's folder, this process's alone, or `None`.
        start: puts into a new run's state what it starts from.
    """

    task: Task
    strategy: Strategy
    config: Config
    mesh: Mesh
    chunk: ChunkChoice
    inputs: Inputs
    programs: Phases
    memory_bytes: int
    memory_limit: float
    seconds: dict[str, float]
    step_flops: float
    checkpoint_bytes: int
    held: RunFolder | None
    start: Callable[[RunState], RunState]

    @property
    def folder(self) -> pathlib.Path | None:
        """The folder of the run's files, or `None`."""
        return self.held and self.held.path

    @property
    def last_generation(self) -> int:
        """The generation that the run continues from, if this process knows; or -1."""
        return -1 if self.held is None else self.held.generation

    @property
    def compile_seconds(self) -> float:
        """The seconds of tracing and compiling before training could begin."""
        return self.seconds["trace"] + self.seconds["compile"]


@own_rules()
def prepare(
    task: Task,
    *,
    strategy: str | Strategy = "epbt",
    config: Config | None = None,
    devices: str | Sequence[jax.Device] | None = None,
    initial: Any = None,
    traced: TracedMember | None = None,
    early: bool = False,
    **fields: Any,
) -> Prepared:
    """Checks everything that a user gave, then compiles: see `train_population`.

    Where the task has been traced already with this strategy and these settings, but
    for the seed, `traced` saves to do it again. With `early` a CPU begins to train
    while it compiles what comes after training. An accelerator does not: XLA may time
    kernels on it then, and the memory that all programs need must be known before.
    """
    check_fork("train_population")
    seconds: dict[str, float] = {}
    with together():
        config = configs.merge("train_population", config, fields)
        resolved = resolve_strategy(strategy)
        used = choose_devices(devices, config.population_size)
        mesh = make_mesh(used)
        check_chunk(config.chunk_size, config.population_size // len(used))
        config = decide_batch_size(task, config)
        with _timed(seconds, "trace"):
            member = traced or trace_member(task, resolved, config)
        task = member.task
        check_elements(member.state, len(used))
        check_memory(member, task, config, used)
        start, initial_values = warm_start(initial, member, config.population_size)
    use_compilation_cache()
    with _timed(seconds, "identify"):
        identity = _identify(task, config, mesh, member, initial_values)
    held = in_first(lambda: resume.open_folder(config))
    with resume.released_on_error(held):
        resume.check_shared(config.run_dir)
        chunk = _choose_chunk(config, mesh, member, held, identity)
        with _timed(seconds, "data"):
            inputs = place_inputs(task, config.seed, mesh)

        def make(chunk_size):
            phases = make_phases(
                task, resolved, config, mesh=mesh, chunk_size=chunk_size
            )
            return lower_each(phases, inputs, mesh)

        later = AFTER_TRAINING if early and is_host(used[0]) else ()
        programs, chunk, reserved = _compile(
            make, config, mesh, chunk, held, seconds, later
        )
        state = programs.init.out_info
        prepared = Prepared(
            task=task,
            strategy=resolved,
            config=config,
            mesh=mesh,
            chunk=chunk,
            inputs=inputs,
            programs=programs,
            memory_bytes=reserved,
            memory_limit=memory_limit(used[0]),
            seconds=seconds,
            step_flops=member.step_flops,
            checkpoint_bytes=tree_bytes((state, state.best)),
            held=held,
            start=start,
        )
        if held is not None:
            held.chunk_size = chunk.size
        in_first(lambda: held and _write_config(prepared, strategy))
        return prepared


def _identify(
    task: Task, config: Config, mesh: Mesh, member: TracedMember, initial: Any
) -> dict[str, Any]:
    """Describes what the run's numbers follow from, if anyone is to compare it.

    Raises:
        ValueError: if another process has something else to run than the first one.
    """
    if config.run_dir is None and not are_several():
        return {}
    platform = mesh.devices.flat[0].platform
    identity = identify(task, config, member, platform, initial)
    # Each of these also decides when processes wait for each other.
    settings = {f.name: getattr(config, f.name) for f in dataclasses.fields(Config)}
    mine = json.dumps({**identity, "settings": settings}, default=str)
    first = of_first(mine)
    with together():
        if found := differences(json.loads(first), json.loads(mine)):
            raise ValueError(
                "all processes must run the same, but between process 0 and this one "
                f"there is a difference: {'; '.join(found)}. Start all with the same "
                "code, data and settings."
            )
    return identity


def _choose_chunk(
    config: Config,
    mesh: Mesh,
    member: TracedMember,
    held: RunFolder | None,
    identity: dict[str, Any],
) -> ChunkChoice:
    """Takes the chunk size given, that of the run which goes on, or the rule's."""
    share = config.population_size // mesh.size
    platform = mesh.devices.flat[0].platform

    def compare():
        if held is None:
            return 0
        held.check(identity, config)
        return held.known_chunk(share)

    known = agree(in_first(compare) or 0)
    if config.chunk_size != "auto":
        return ChunkChoice(config.chunk_size, "as given")
    if known:
        return ChunkChoice(known, "as this run began")
    return choose_chunk(share, platform, member.step_flops)


def _compile(
    make: Callable[[int], Iterable[tuple[str, Any]]],
    config: Config,
    mesh: Mesh,
    chunk: ChunkChoice,
    held: RunFolder | None,
    seconds: dict[str, float],
    later: Sequence[str],
) -> tuple[Phases, ChunkChoice, int]:
    """Compiles a run, with smaller chunks if those of the rule do not fit."""
    share = config.population_size // mesh.size
    sharing = len(mesh.local_devices) if is_host(mesh.devices.flat[0]) else 1
    limit = memory_limit(mesh.devices.flat[0])

    def check_space(lowered):
        """Refuses a disk too small for a checkpoint, once its size is known."""
        for name, program in lowered:
            if name == "train":
                state, _ = program.out_info
                size = tree_bytes((state, state.best))
                in_first(lambda size=size: held and held.check_space(size, config))
            yield name, program

    while True:
        with _timed(seconds, "compile"):
            lowered = check_space(make(chunk.size))
            compiling = compile_each(lowered, mesh, seconds, later)
            ready, reserved = _wait_or_refuse(compiling, later)
        reserved *= sharing
        if reserved <= limit or config.chunk_size != "auto" or chunk.size == 1:
            break
        chunk = ChunkChoice(largest_divisor(share, chunk.size - 1), "as many as fit")

    def check(program):
        reserved = sharing * reserved_bytes(program)
        check_programs(reserved, limit, config, chunk.size)

    check_programs(reserved, limit, config, chunk.size)
    rest = {name: Later(compiling[name], check) for name in later}
    return Phases(**ready, **rest), chunk, reserved


def _wait_or_refuse(
    compiling: dict[str, Future], later: Sequence[str]
) -> tuple[dict[str, Any], float]:
    """Waits for programs; also says what they reserve, infinite if XLA refuses."""
    waited = {name: each for name, each in compiling.items() if name not in later}
    # All of them, even if one fails: the next attempt must not compile beside them.
    wait(waited.values())
    try:
        ready = {name: each.result() for name, each in waited.items()}
    except jax.errors.JaxRuntimeError as error:
        if not str(error).startswith("RESOURCE_EXHAUSTED"):
            raise
        return {}, float("inf")
    return ready, max(map(reserved_bytes, ready.values()))


@contextlib.contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - started


def _write_config(prepared: Prepared, strategy: str | Strategy) -> None:
    """Writes `config.json`: enough to see what ran, and on what."""
    task, held = prepared.task, prepared.held
    data = task.data and {
        name: count_rows(rows)
        for name, rows in task.data._asdict().items()
        if rows is not None
    }
    settings = {
        **task.about,
        "config": dataclasses.asdict(prepared.config),
        "batch_size": prepared.config.batch_size,
        "chunk_size": prepared.chunk.size,
        "checkpoint_bytes": prepared.checkpoint_bytes,
        "strategy": strategy if isinstance(strategy, str) else repr(strategy),
        "hparams": run_directory.describe_spaces(task.hparams),
        "examples": data,
        "devices": [str(device.device_kind) for device in prepared.mesh.devices.flat],
        "platform": prepared.mesh.devices.flat[0].platform,
        "versions": {"jepbt": VERSION, **versions()},
        "identity": held.identity,
    }
    run_directory.write_config(held.path, settings)
