"""`scaling`: what a population costs by its size, on the user's task and device."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jepbt import config as configs
from jepbt.arguments import check_whole
from jepbt.benchmark.reports import ScalingReport, ScalingRow, Spread
from jepbt.benchmark.timing import best_rate, matmul_peak, measure_in_turns
from jepbt.engine import make_phases
from jepbt.engine.devices import choose_devices, compiler_options, memory_limit
from jepbt.engine.member import decide_batch_size, trace_member
from jepbt.engine.memory import DoesNotFit
from jepbt.engine.programs import lower
from jepbt.population import STRATEGY, derive_key
from jepbt.strategies import Strategy, resolve_strategy
from jepbt.tasks import Task
from jepbt.training import Prepared, prepare

SECONDS_PER_CALL = 0.3
"""How long a timed call should take: longer than the clock and the scheduler err."""

LIKELY_FLOPS = 1e11
"""What a CPU reaches in networks: only decides how many steps are timed."""

BRIEF = 2
"""Steps of the shortest generation that is timed: one step would be no loop."""

FEWEST_STEPS = 8
"""That are timed, however long they take, unless a generation has fewer."""


def scaling(
    task: Task,
    *,
    max_population: int = 64,
    steps_per_generation: int = 100,
    strategy: str | Strategy = "epbt",
    batch_size: int | None = None,
    chunk_size: int | str = "auto",
    num_rounds: int = 5,
    devices: str | Sequence[jax.Device] | None = None,
) -> ScalingReport:
    """Measures populations of 1, 2, 4, ... members of a task, in turns.

    Each size runs the programs that `train_population` would run. Of a generation's
    steps as many are timed as take about 0.3 s, and the time is scaled to all of them.
    The machine's matmul peak is measured in the same turns. Shuffling the examples,
    once a generation, counts in its seconds, and not in the share of the peak.

    Args:
        task: from `classification` or a `Task` of your own.
        max_population: the largest size; itself measured if it is no power of 2.
        steps_per_generation: that the reported seconds of a generation stand for.
        strategy: what happens between generations.
        batch_size: examples in a step; `None` takes the task's.
        chunk_size: as in `Config`; a size that a device's members cannot be divided by
            becomes the next smaller one that divides them.
        num_rounds: measurements of each size.
        devices: as in `train_population`.

    Returns:
        A `ScalingReport`: `print` it, `.to_json()`, or `jepbt.plots.scaling(report)`.

    Raises:
        TypeError: if an argument is of no allowed kind.
        ValueError: if a value is not allowed; or if not even one member fits.

    Example:
        >>> import jepbt
        >>> task = jepbt.classification("fashion_mnist")
        >>> jepbt.scaling(task, max_population=16)  # doctest: +SKIP
    """
    settings = _make_config(
        max_population, steps_per_generation, batch_size, chunk_size
    )
    check_whole("", "num_rounds", num_rounds, 1)
    resolved = resolve_strategy(strategy)
    offered = choose_devices(devices, 0)
    notes: list[str] = []
    sizes, held = [], 0
    settings = decide_batch_size(task, settings)
    step_flops = trace_member(task, resolved, settings).step_flops
    for number in population_sizes(max_population):
        used = choose_devices(devices, number)
        if number > 1 and len(used) < len(offered):
            notes.append(
                f"P={number} is not divisible by {len(offered)} devices: "
                f"{len(used)} of them used."
            )
        chunk = _fitting_chunk(chunk_size, number // len(used))
        if chunk != chunk_size:
            notes.append(
                f"P={number}: chunk_size={chunk_size} does not divide the "
                f"{number // len(used)} members of a device; {chunk} used."
            )
        config = dataclasses.replace(
            settings,
            population_size=number,
            steps_per_generation=_count_timed_steps(
                step_flops * number, steps_per_generation
            ),
            chunk_size=chunk,
        )
        try:
            prepared = prepare(task, strategy=resolved, config=config, devices=devices)
        except DoesNotFit as error:
            if not sizes:
                raise
            notes.append(f"P={number} skipped: {error}")
            break
        # All sizes are kept at once, to be measured in turns.
        if held + prepared.memory_bytes > prepared.memory_limit:
            notes.append(_explain_skip(number, prepared, held))
            break
        held += prepared.memory_bytes
        sizes.append(_Size(prepared, resolved))
    if not sizes:
        raise ValueError(
            "task: not even one member fits: " + " ".join(notes) + " Choose a smaller "
            "model or batch."
        )
    return _measure(sizes, offered, step_flops, steps_per_generation, num_rounds, notes)


def population_sizes(largest: int) -> list[int]:
    """Lists 1, 2, 4, ... up to a size, and the size itself.

    Example:
        >>> population_sizes(12)
        [1, 2, 4, 8, 12]
    """
    sizes = [2**power for power in range(largest.bit_length())]
    return sizes if sizes[-1] == largest else [*sizes, largest]


def _make_config(
    max_population: Any, steps_per_generation: Any, batch_size: Any, chunk_size: Any
) -> configs.Config:
    """Makes and checks the settings that all sizes share."""
    check_whole("", "max_population", max_population, 1)
    config = configs.Config(
        population_size=max_population,
        num_generations=2,
        steps_per_generation=steps_per_generation,
        batch_size=batch_size,
        chunk_size=chunk_size,
        progress=False,
    )
    configs.check(config)
    return config


class _Timing(NamedTuple):
    """Functions to time, and what they stand for."""

    train: Callable[[], Any]
    brief: Callable[[], Any]
    evolve: Callable[[], Any]
    plan: Callable[[], Any]
    copy: Callable[[], Any]


class _Size:
    """A population of one size: its programs, and the state they carry on."""

    def __init__(self, prepared: Prepared, strategy: Strategy) -> None:
        self.prepared = prepared
        self.strategy = strategy
        programs, inputs = prepared.programs, prepared.inputs
        first, second = np.int32(0), np.int32(1)
        state = programs.init(inputs)
        state, metrics = programs.train(inputs, first, state)
        state = programs.evaluate(inputs, first, metrics, state)
        plan_program = jax.jit(self._plan)
        self.evaluated = (state.strategy, state.population.hparams, state.evaluation)
        self.evaluated = jax.tree.map(jnp.copy, self.evaluated)
        plan = plan_program(inputs, *self.evaluated)
        self.num_replaced = int((plan.parents != np.arange(plan.parents.size)).sum())
        self.state = state
        copy = _make_copy(state.population.state, self.num_replaced)

        def train():
            self.state, _ = programs.train(inputs, first, self.state)
            jax.block_until_ready(self.state)

        def evolve():
            self.state, _ = programs.evolve(inputs, second, self.state)
            jax.block_until_ready(self.state)

        brief_program = self._compile_brief()

        def train_briefly():
            self.state, _ = brief_program(inputs, first, self.state)
            jax.block_until_ready(self.state)

        self.timing = _Timing(
            train,
            train_briefly,
            evolve,
            lambda: jax.block_until_ready(plan_program(inputs, *self.evaluated)),
            copy,
        )
        for run in self.timing:
            run()

    def _compile_brief(self):
        """A generation of two steps: what every generation costs, and little more."""
        prepared = self.prepared
        phases = make_phases(
            prepared.task,
            self.strategy,
            dataclasses.replace(prepared.config, steps_per_generation=BRIEF),
            mesh=prepared.mesh,
            chunk_size=prepared.chunk.size,
        )
        lowered = lower(phases, prepared.inputs, prepared.mesh, ("train",)).train
        platform = prepared.mesh.devices.flat[0].platform
        return lowered.compile(compiler_options(platform))

    def _plan(self, inputs, strategy_state, hparams, evaluation):
        key = derive_key(inputs.key, STRATEGY, 1)
        _, plan = self.strategy.step(key, strategy_state, 1, hparams, evaluation)
        return plan


def _make_copy(state: Any, num_members: int) -> Callable[[], Any]:
    """Prepares a plain copy of some members' bytes: what inheriting cannot beat."""
    leaves = jax.tree.leaves(state)
    if next(iter(leaves[0].devices())).platform == "cpu":
        sources = [np.array(leaf[:num_members]) for leaf in leaves]
        targets = [np.zeros_like(source) for source in sources]

        def copy():
            for target, source in zip(targets, sources, strict=True):
                np.copyto(target, source)

        return copy
    sources = jax.tree.map(lambda leaf: leaf[:num_members], leaves)
    duplicate = jax.jit(functools.partial(jax.tree.map, jnp.copy))
    return lambda: jax.block_until_ready(duplicate(sources))


def _count_timed_steps(flops: float, steps: int) -> int:
    affordable = SECONDS_PER_CALL * LIKELY_FLOPS / flops if flops else 20
    return int(min(steps, max(FEWEST_STEPS, affordable)))


def _fitting_chunk(chunk_size: int | str, num_members: int) -> int | str:
    if chunk_size == "auto":
        return chunk_size
    return max(n for n in range(1, chunk_size + 1) if num_members % n == 0)


def _explain_skip(number: int, prepared: Prepared, held: int) -> str:
    limit = memory_limit(prepared.mesh.devices.flat[0])
    return (
        f"P={number} skipped: its programs reserve {prepared.memory_bytes / 1e9:.2f} "
        f"GB, and smaller ones hold {held / 1e9:.2f} of {limit / 1e9:.2f} GB."
    )


def _measure(
    sizes: Sequence[_Size],
    devices: Sequence[jax.Device],
    step_flops: float,
    steps: int,
    num_rounds: int,
    notes: Sequence[str],
) -> ScalingReport:
    peak = matmul_peak(devices)
    runs = dict(peak.runs)
    for i, size in enumerate(sizes):
        for name, run in size.timing._asdict().items():
            runs[f"{name} {i}"] = run
    seconds = measure_in_turns(runs, num_rounds)
    peak_flops = best_rate(peak, seconds)
    config = sizes[0].prepared.config
    batch_size = config.batch_size
    steps_seconds, generations = [], []
    for i, size in enumerate(sizes):
        train, brief = seconds[f"train {i}"], np.median(seconds[f"brief {i}"])
        timed = size.prepared.config.steps_per_generation
        # Shuffling, and copying members in and out, are paid once a generation.
        stepping = (train - brief) / max(timed - BRIEF, 1)
        stepping = np.maximum(stepping, 0.1 * train / timed) * steps
        fixed = np.maximum(train - stepping * timed / steps, 0)
        steps_seconds.append(stepping)
        generations.append(stepping + fixed)
    rows = []
    for i, size in enumerate(sizes):
        prepared = size.prepared
        number = prepared.config.population_size
        generation = generations[i]
        evolve, plan = seconds[f"evolve {i}"], seconds[f"plan {i}"]
        rate = number * steps * step_flops / np.median(steps_seconds[i])
        rows.append(
            ScalingRow(
                population_size=number,
                num_devices=prepared.mesh.size,
                chunk_size=prepared.chunk.size,
                seconds=Spread.of(generation),
                samples_per_second=Spread.of(number * steps * batch_size / generation),
                relative_cost=Spread.of(generation / generations[0]),
                seconds_per_member=Spread.of(generation / number),
                share_of_peak=float(rate / peak_flops),
                select_and_vary_seconds=Spread.of(plan),
                inherit_seconds=Spread.of(np.maximum(evolve - plan, 0)),
                replaced_members=size.num_replaced,
                copy_seconds=Spread.of(seconds[f"copy {i}"]),
                compile_seconds=prepared.compile_seconds,
                memory_bytes=prepared.memory_bytes,
            )
        )
    return ScalingReport(
        devices=describe_devices(devices),
        steps_per_generation=steps,
        batch_size=batch_size,
        num_rounds=num_rounds,
        peak_flops=peak_flops,
        step_flops=step_flops,
        rows=tuple(rows),
        notes=tuple(notes),
    )


def describe_devices(devices: Sequence[jax.Device]) -> str:
    """Says in words what the devices are.

    Example:
        >>> import jax
        >>> describe_devices(jax.devices("cpu")[:1])
        '1 x cpu'
    """
    return f"{len(devices)} x {devices[0].device_kind}"
