"""A run before it starts: everything checked, then everything compiled."""

from __future__ import annotations

import dataclasses
import difflib
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from jepbt import config as configs
from jepbt.checkpoints import RunFolder, identify, resume
from jepbt.checkpoints import folder as run_directory
from jepbt.config import VERSION, Config
from jepbt.engine import RunState, make_mesh
from jepbt.engine.chunks import ChunkChoice, lower_tuned
from jepbt.engine.devices import (
    check_chunk,
    choose_devices,
    memory_limit,
    tree_bytes,
    use_compilation_cache,
)
from jepbt.engine.member import MemberShapes, check_task, count_step_flops
from jepbt.engine.memory import check_memory, check_programs, reserved_bytes
from jepbt.engine.processes import agree, in_first
from jepbt.engine.programs import Programs, compile_all, place_inputs
from jepbt.engine.state import Inputs
from jepbt.strategies import Strategy, resolve_strategy
from jepbt.tasks import Task
from jepbt.training.warm_start import initial_arrays, warm_start


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A run that has been checked and compiled, and can start.

    Attributes:
        task: what is trained.
        config: checked, with all fields.
        mesh: of the devices that share the population.
        chunk: how many members are computed together on each, and why.
        inputs: on the devices.
        programs: compiled.
        memory_bytes: that the largest program reserves on the devices of one memory.
        memory_limit: of that memory.
        compile_seconds: tracing and compiling.
        step_flops: of one member's training step; 0 if unknown.
        checkpoint_bytes: of one checkpoint, but for the history in it.
        held: the run's folder, this process's alone, or `None`.
        identify: says what the run is, so that it can be continued; takes a while.
        start: what becomes of the state that a run begins with, or `None`.
    """

    task: Task
    config: Config
    mesh: Mesh
    chunk: ChunkChoice
    inputs: Inputs
    programs: Programs
    memory_bytes: int
    memory_limit: float
    compile_seconds: float
    step_flops: float
    checkpoint_bytes: int
    held: RunFolder | None
    identify: Callable[[], Mapping[str, Any]]
    start: Callable[[RunState], RunState] | None = None

    @property
    def folder(self) -> pathlib.Path | None:
        """Of the run's files, or `None`."""
        return self.held and self.held.path


def prepare(
    task: Task,
    *,
    strategy: str | Strategy = "epbt",
    config: Config | None = None,
    devices: str | Sequence[jax.Device] | None = None,
    initial: Any = None,
    **fields: Any,
) -> Prepared:
    """Checks everything that a user gave, then compiles: see `train_population`."""
    config = _merge(config, fields)
    configs.check(config)
    resolved = resolve_strategy(strategy)
    used = choose_devices(devices, config.population_size)
    mesh = make_mesh(used)
    check_chunk(config.chunk_size, config.population_size // len(used))
    member = check_task(task, resolved, config)
    check_memory(member, task, config, used)
    start_from = initial_values = None
    if initial is not None:
        start_from = warm_start(initial, task, config.population_size)
        initial_values = initial_arrays(initial)
    held = in_first(lambda: resume.open_folder(config))
    with resume.released_on_error(held):
        prepared = _compile(task, resolved, config, mesh, member, held, initial_values)
        prepared = dataclasses.replace(prepared, start=start_from)
        in_first(lambda: held and held.describe(_describe(prepared, strategy)))
        return prepared


def _compile(
    task: Task,
    strategy: Strategy,
    config: Config,
    mesh: Mesh,
    member: MemberShapes,
    held: RunFolder | None,
    initial: Any,
) -> Prepared:
    """Compiles a run that has been checked, and that the folder's run allows."""
    used = mesh.devices.ravel()
    use_compilation_cache()
    start = time.perf_counter()
    inputs = place_inputs(task, config.seed, mesh)

    def find_identity():
        return identify(task, strategy, config, inputs, mesh, initial)

    def compare():
        if held is None:
            return 0
        if held.holds_run:  # else there is time for it while the devices are busy
            held.check(find_identity(), config)
        return held.known_chunk(config.population_size // mesh.size)

    known_chunk = agree(in_first(compare) or 0)
    pinned = config
    if known_chunk and config.chunk_size == "auto":
        pinned = dataclasses.replace(config, chunk_size=known_chunk)
    step_flops = count_step_flops(task, member)
    lowered, choice = lower_tuned(task, strategy, pinned, inputs, mesh, step_flops)
    if pinned is not config:
        choice = ChunkChoice(choice.size, "as this run began")
    state = lowered.init.out_info
    checkpoint_bytes = tree_bytes((state, state.best))
    in_first(lambda: held and held.check_space(checkpoint_bytes, config))
    programs = compile_all(lowered, mesh)
    compile_seconds = time.perf_counter() - start
    sharing = len(mesh.local_devices) if used[0].platform == "cpu" else 1
    prepared = Prepared(
        task=task,
        config=config,
        mesh=mesh,
        chunk=choice,
        inputs=inputs,
        programs=programs,
        memory_bytes=sharing * max(map(reserved_bytes, programs)),
        memory_limit=memory_limit(used[0]),
        compile_seconds=compile_seconds,
        step_flops=step_flops,
        checkpoint_bytes=checkpoint_bytes,
        held=held,
        identify=find_identity,
    )
    check_programs(
        prepared.memory_bytes,
        prepared.memory_limit,
        config,
        choice.size,
        config.batch_size or task.batch_size,
    )
    if held is not None:
        held.chunk_size = choice.size
    return prepared


def _merge(config: Config | None, fields: dict[str, Any]) -> Config:
    if config is None:
        config = Config()
    if not isinstance(config, Config):
        configs.check(config)
    names = [field.name for field in dataclasses.fields(config)]
    for name in fields:
        if name not in names:
            close = difflib.get_close_matches(name, names, 1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise TypeError(
                f"train_population has no setting {name!r}.{hint} The settings are "
                f"{', '.join(names)}."
            )
    return dataclasses.replace(config, **fields)


def _describe(prepared: Prepared, strategy: str | Strategy) -> dict[str, Any]:
    """What `config.json` holds: enough to see what ran, and on what."""
    import jaxlib

    task = prepared.task
    data = task.data and {
        name: jax.tree.leaves(rows)[0].shape[0]
        for name, rows in task.data._asdict().items()
        if rows is not None
    }
    return {
        **task.about,
        "config": dataclasses.asdict(prepared.config),
        "batch_size": prepared.config.batch_size or task.batch_size,
        "chunk_size": prepared.chunk.size,
        "checkpoint_bytes": prepared.checkpoint_bytes,
        "strategy": strategy if isinstance(strategy, str) else repr(strategy),
        "hparams": run_directory.describe_spaces(task.hparams),
        "examples": data,
        "devices": [str(device.device_kind) for device in prepared.mesh.devices.flat],
        "platform": prepared.mesh.devices.flat[0].platform,
        "versions": {
            "jepbt": VERSION,
            "jax": jax.__version__,
            "jaxlib": jaxlib.__version__,
        },
    }
