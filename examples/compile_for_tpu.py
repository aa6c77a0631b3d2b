"""What the TPU compiler expects of the main job's CNN, by convolution and chunk.

    python examples/compile_for_tpu.py

Needs no TPU, but the extra `tpu-compile`, in an environment of its own. 2 CPU cores,
1.5 to 5 minutes. Compiled for one v5e chip, never run on one: cycles are the compiler's
estimates, added up over a training step of the whole population (see
`estimated_cycles` below), bytes are what a compiled program reserves. Expect 0.60
million cycles for 16 members in chunks of 8, 1.08 one by one and 1.57 all at once; with
convolutions as windows 3.9 to 35.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import Mesh

import jepbt
from jepbt import config as configs
from jepbt import nn
from jepbt.config import Config
from jepbt.engine import make_inputs, make_mesh, make_phases
from jepbt.engine.devices import check_chunk, choose_chunk
from jepbt.engine.generation import Phases
from jepbt.engine.member import decide_batch_size, trace_member
from jepbt.engine.memory import reserved_bytes
from jepbt.engine.programs import lower_each
from jepbt.strategies import Strategy, resolve_strategy
from jepbt.tasks import Task

NAMES = ("init", "evolve", "train", "evaluate")
NUM_STEPS = 100
DIMENSIONS = ("NHWC", "HWIO", "NHWC")


@dataclasses.dataclass
class Hyper(jepbt.HyperParameters):
    rate: float = jepbt.hparam(0.05, min=0.01, max=0.1, log=True)


def convolve_by_jepbt(images, kernel):
    return nn.conv_general_dilated(
        images, kernel, (1, 1), "SAME", dimension_numbers=DIMENSIONS
    )


def convolve_by_lax(images, kernel):
    return jax.lax.conv_general_dilated(
        images, kernel, (1, 1), "SAME", dimension_numbers=DIMENSIONS
    )


def convolve_by_windows(images, kernel):
    """Gathers the 3 x 3 shifted windows, then multiplies once."""
    batch, height, width, channels = images.shape
    padded = jax.numpy.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = jax.numpy.concatenate(
        [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)],
        axis=-1,
    )
    columns = windows.reshape(-1, 9 * channels)
    return (columns @ kernel.reshape(9 * channels, -1)).reshape(
        batch, height, width, -1
    )


CONVOLUTIONS = {
    "jepbt.nn": convolve_by_jepbt,
    "lax": convolve_by_lax,
    "windows": convolve_by_windows,
}


def make_task(convolve, batch_size):
    like = jepbt.models.as_model(jepbt.models.CNN(num_classes=10))

    def block(layer, x):
        x = nn.max_pool(convolve(x, layer["kernel"]), window=2)
        return jax.nn.relu(x + layer["bias"].reshape(1, 1, 1, -1))

    def dense(layer, x):
        return x @ layer["kernel"] + layer["bias"].reshape(1, -1)

    def apply(key, params, variables, hparams, images, *, train):
        x = block(params["conv2"], block(params["conv1"], images))
        x = jax.nn.relu(dense(params["dense1"], x.reshape(x.shape[0], -1)))
        return dense(params["dense2"], x), variables

    return jepbt.classification(
        "fashion_mnist",
        hparams=Hyper,
        model=(like.init, apply),
        loss=lambda h: jepbt.losses.cross_entropy,
        optimizer=lambda h: optax.sgd(h.rate, momentum=0.9),
        batch_size=batch_size,
    )


class Ahead(NamedTuple):
    """Programs for devices that are not here.

    Attributes:
        programs: lowered; `.compile()` one to ask the compiler.
        mesh: of the described devices.
    """

    programs: Phases
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
        The lowered programs.

    Raises:
        ValueError: if the compiler does not know `topology`, or its devices do not
            divide the population.
    """
    devices = _describe_devices(topology)
    return lower_for(
        task, devices, strategy=strategy, chunk_size=chunk_size, only=only, **fields
    )


def lower_for(
    task: Task,
    devices: Sequence[jax.Device],
    *,
    strategy: str | Strategy = "epbt",
    chunk_size: int | None = None,
    only: tuple[str, ...] = NAMES,
    **fields: Any,
) -> Ahead:
    """Lowers the programs of a run for devices that are described, but not attached."""
    config = Config(**fields)
    configs.check(config)
    resolved = resolve_strategy(strategy)
    config = decide_batch_size(task, config)
    member = trace_member(task, resolved, config)
    mesh = make_mesh(devices)
    share, rest = divmod(config.population_size, mesh.size)
    if rest:
        raise ValueError(
            f"population_size={config.population_size} is not divisible by the "
            f"{mesh.size} devices. Choose a multiple of {mesh.size}."
        )
    if chunk_size is None:
        platform = devices[0].platform
        chunk_size = choose_chunk(share, platform, member.step_flops).size
    check_chunk(chunk_size, share)
    phases = make_phases(task, resolved, config, mesh=mesh, chunk_size=chunk_size)
    inputs = jax.eval_shape(
        lambda: make_inputs(jax.random.key(0), _as_arrays(task.data), task.shared)
    )
    lowered = dict(lower_each(phases, inputs, mesh))
    wanted = {name: lowered[name] if name in only else None for name in lowered}
    return Ahead(Phases(**wanted), mesh)


def estimated_cycles(text: str) -> int:
    """Adds up the compiler's cycles of a program for TPU, loops unrolled.

    The compiler notes an estimate at what it fuses; waiting for memory that its
    schedule hides, and collectives, have none. A loop that its data end, not a counter,
    is counted as one turn.

    Args:
        text: `compiled.as_text()`.

    Returns:
        Cycles of one core; 0 if the text has none, as for other platforms.
    """
    bodies, entry = split_bodies(text)
    return 0 if entry is None else _cycles(bodies, entry)


def split_bodies(text: str) -> tuple[dict[str, list[str]], str | None]:
    """Splits a compiled program into its computations, and names the first to run."""
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
    return bodies, entry


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


def estimate(convolution, num_members, chunk_size, batch_size, num_steps=NUM_STEPS):
    """`(cycles a step, MB that the program reserves)` of one v5e chip."""
    ahead = lower_for_tpu(
        make_task(CONVOLUTIONS[convolution], batch_size),
        "v5e:1x1",
        strategy="random_search",
        chunk_size=chunk_size,
        only=("train",),
        population_size=num_members,
        num_generations=1,
        steps_per_generation=num_steps,
    )
    program = ahead.programs.train.compile()
    cycles = estimated_cycles(program.as_text()) / num_steps
    return cycles, reserved_bytes(program) / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--members", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--convolutions", nargs="+", default=list(CONVOLUTIONS))
    options = parser.parse_args()
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no chip is used
    print(f"compiled for one TPU v5e chip; batch {options.batch}; nothing ran on one")
    print(
        f"{'P':>4} {'convolution':12} {'chunk':>5} {'M cycles':>9} {'a member':>9} "
        f"{'MB':>8} {'compile s':>9}"
    )
    for num_members in options.members:
        for name in options.convolutions:
            for chunk_size in (1, 8, num_members):
                start = time.perf_counter()
                cycles, reserved = estimate(
                    name, num_members, chunk_size, options.batch
                )
                print(
                    f"{num_members:4} {name:12} {chunk_size:5} {cycles / 1e6:9.2f} "
                    f"{cycles / num_members / 1e6:9.3f} {reserved:8.1f} "
                    f"{time.perf_counter() - start:9.0f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
