"""Maps a function of one member over a population, on the devices that there are."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jepbt.nn.lowering import decide
from jepbt.population import count_rows

AXIS = "population"


def map_members(
    function: Callable[..., Any],
    *,
    mesh: Mesh | None = None,
    chunk_size: int = 1,
    in_place: bool = False,
) -> Callable[[Any, Any], Any]:
    """Batches a function of one member over a population.

    Members are spread over the mesh's devices; each device takes its share one chunk
    after the other, and a chunk's members together. Loops over steps belong inside the
    function: members never meet there.

    Args:
        function: `(member, common) -> result`, pytrees of arrays; no collectives.
        mesh: the devices, on an axis named "population"; `None` for no sharding.
        chunk_size: the members computed together, a divisor of each device's share.
        in_place: True for a function that changes members: each is a pair of its state
            and what else it reads, the result a pair of the new state and more. A
            chunk's new states then overwrite the old ones, so that the population is
            held once.

    Returns:
        `(members [P, ...], common) -> results [P, ...]`.

    Example:
        >>> import jax.numpy as jnp
        >>> double = map_members(lambda x, factor: factor * x, chunk_size=2)
        >>> double(jnp.arange(4), 2).tolist()
        [0, 2, 4, 6]
    """

    def share(members, common):
        num_members = count_rows(members)
        chunk = min(chunk_size, num_members)
        run = lambda member: function(member, common)  # noqa: E731
        if chunk == num_members > 1:
            return _together(run)(members)
        each = _map_in_place if in_place else jax.lax.map
        if chunk == 1:
            return each(run, members)
        chunked = jax.tree.map(
            lambda leaf: leaf.reshape(-1, chunk, *leaf.shape[1:]), members
        )
        results = each(_together(run), chunked)
        return jax.tree.map(
            lambda leaf: leaf.reshape(num_members, *leaf.shape[2:]), results
        )

    if mesh is None:
        return share

    def over_devices(members, common):
        # Traced without the mesh: where it is known, jax writes a sharding into a
        # convolution's gradient and then refuses to batch it (0.7.2 any, on one device
        # too, 0.10.2 those with feature groups; jax-ml/jax#32157).
        share_of = functools.partial(_describe, num_devices=mesh.size)
        shapes = jax.tree.map(share_of, members), jax.tree.map(_describe, common)
        run = trace_apart(share, *shapes)
        if mesh.size == 1:
            return run(members, common)
        # A user's step is arbitrary code: custom gradients and constant carries fail
        # the check of varying axes, and a member has no collectives for it to protect.
        return jax.shard_map(
            run,
            mesh=mesh,
            in_specs=(PartitionSpec(AXIS), PartitionSpec()),
            out_specs=PartitionSpec(AXIS),
            check_vma=False,
        )(members, common)

    return over_devices


def _map_in_place(run: Callable[[Any], Any], members: Any) -> Any:
    """Does what `jax.lax.map` does, but writes new states over those it has read."""
    states, rest = members

    def step(states, counted):
        number, other = counted

        def read(leaf):
            return jax.lax.dynamic_index_in_dim(leaf, number, 0, keepdims=False)

        def write(leaf, part):
            return jax.lax.dynamic_update_index_in_dim(leaf, part, number, 0)

        new, extra = run((jax.tree.map(read, states), other))
        return jax.tree.map(write, states, new), extra

    return jax.lax.scan(step, states, (jnp.arange(count_rows(members)), rest))


def _together(run: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Batches a member's function, and says what can be done if it cannot be."""

    def batched(members):
        try:
            return jax.vmap(run)(members)
        except (NotImplementedError, ValueError) as error:
            if "callback" in str(error).lower():
                error.add_note(
                    "Several members are computed together, in no order: call back "
                    "without ordered=True, and give jax.pure_callback a vmap_method "
                    "such as 'sequential'. chunk_size=1 computes one after the other."
                )
            raise

    return batched


def trace_apart(function: Callable[..., Any], *shapes: Any) -> Callable[..., Any]:
    """Traces a function now, so that it does not see what it is called under.

    The one use that jepbt makes of `jax.extend`, whose names may change. Where the name
    is gone, the function is traced where it is called, as any other: newer versions of
    JAX may no longer need this, and a warning says what to suspect if they do.
    """
    try:
        from jax.extend.core import jaxpr_as_fun
    except ImportError:
        warnings.warn(
            "this version of JAX has no jax.extend.core.jaxpr_as_fun: should a "
            "convolution's gradient fail over several devices, use one device, or an "
            "earlier JAX.",
            RuntimeWarning,
            stacklevel=2,
        )
        return function
    traced, result = jax.make_jaxpr(function, return_shape=True)(*shapes)
    run, structure = jaxpr_as_fun(traced), jax.tree.structure(result)
    return lambda *args: structure.unflatten(run(*jax.tree.leaves(args)))


def _describe(leaf: Any, num_devices: int | None = None) -> jax.ShapeDtypeStruct:
    """Keeps of an array its type without sharding; of one device's share, if split."""
    aval = jax.typeof(leaf)
    shape = aval.shape
    if num_devices is not None:
        shape = (shape[0] // num_devices, *shape[1:])
    return jax.ShapeDtypeStruct(shape, aval.dtype, weak_type=aval.weak_type)


def choose_devices(
    devices: str | Sequence[jax.Device] | None, population_size: int
) -> list[jax.Device]:
    """Takes the most devices that share a population evenly."""
    if devices is None or isinstance(devices, str):
        try:
            offered = jax.devices(devices)
        except RuntimeError as error:
            raise ValueError(
                f"devices={devices!r} is not on this machine, which has "
                f"{sorted({device.platform for device in jax.devices()})}. Name one of "
                "these, pass a list of jax.Device, or leave devices out."
            ) from error
    else:
        offered = list(devices) if isinstance(devices, Iterable) else []
        if not offered or not all(isinstance(d, jax.Device) for d in offered):
            raise ValueError(
                f"devices={devices!r} must be a platform's name such as 'cpu' or a "
                "list of at least one jax.Device, as in jax.devices()[:1]."
            )
        if len(set(offered)) < len(offered):
            raise ValueError(f"devices={devices!r} must name each device once.")
    count = largest_divisor(population_size, len(offered))
    if jax.process_count() > 1 and count < len(offered):
        raise ValueError(
            f"population_size={population_size} is not divisible by the {len(offered)} "
            f"devices of {jax.process_count()} processes, and every process must take "
            f"part. Choose a multiple of {len(offered)}."
        )
    return offered[:count]


def make_mesh(devices: Sequence[jax.Device]) -> Mesh:
    """Lays devices along the population's axis."""
    # `jax.make_mesh` makes an explicit axis, along which a fitness cannot be ranked.
    return Mesh(devices, (AXIS,))


def over_members(mesh: Mesh) -> NamedSharding:
    """The sharding of a population: its leading axis over the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds in full."""
    return NamedSharding(mesh, PartitionSpec())


class ChunkChoice(NamedTuple):
    """The members that a device computes together, and why.

    Attributes:
        size: a divisor of the members of a device.
        reason: one line for people.
    """

    size: int
    reason: str


def choose_chunk(num_members: int, platform: str, step_flops: float) -> ChunkChoice:
    """Chooses by a rule, so that the same run computes the same on every machine.

    The rule and its evidence stand in `jepbt.nn.lowering`. `jepbt.scaling` measures
    which size is the fastest for a task.

    Args:
        num_members: the members of one device.
        platform: the device's platform.
        step_flops: the floating-point operations of a member's step; 0 if unknown.

    Returns:
        The largest divisor of `num_members` that the rule allows.

    Example:
        >>> choose_chunk(32, "cpu", 1e6).size, choose_chunk(32, "cpu", 1e8).size
        (8, 1)
    """
    row = decide(platform, "members", step_flops or math.inf)
    step = f"a step of {step_flops / 1e6:.3g} MFLOP" if step_flops else "any step"
    size = largest_divisor(num_members, row.form or num_members)
    return ChunkChoice(size, f"the rule for {step}, {row.evidence}")


def largest_divisor(number: int, most: int) -> int:
    """Finds the largest divisor of a number that is at most `most`.

    Example:
        >>> largest_divisor(12, 8), largest_divisor(0, 8)  # all numbers divide 0
        (6, 8)
    """
    return max(n for n in range(1, min(number or most, most) + 1) if number % n == 0)


def check_chunk(chunk_size: int | str, num_members: int) -> None:
    """Refuses a given chunk size that would leave a remainder."""
    if chunk_size != "auto" and num_members % chunk_size:
        divisors = [n for n in range(1, num_members + 1) if num_members % n == 0]
        raise ValueError(
            f"chunk_size={chunk_size} must divide the {num_members} members of a "
            f"device: one of {divisors}, or 'auto'."
        )


Effort = Literal["full", "some", "none"]


def compiler_options(platform: str, effort: Effort = "full") -> dict[str, Any]:
    """Lists what XLA is told for one platform, beyond its defaults.

    On CPU, vectors as wide as the processor has: by default XLA uses half of AVX-512,
    and a population of small CNNs then trains some 5 % slower. A program is compiled in
    one piece, since the programs of a run compile side by side as it is.

    There, less than full effort also leaves out the slowest part of the compiler, where
    XLA still lets it be left out. A program is ready in a tenth of the time with none,
    in a fifth with some. With some it copies a population as fast as with all, and four
    times as fast as with none.

    Args:
        platform: the platform that a program is compiled for.
        effort: "none" for a program that runs once, "some" for one that runs for
            milliseconds.

    Returns:
        Options for `Lowered.compile`.

    Example:
        >>> compiler_options("gpu")
        {}
    """
    if platform != "cpu":
        return {}
    options = {
        "xla_cpu_prefer_vector_width": 512,
        "xla_cpu_parallel_codegen_split_count": 1,
    }
    if effort == "full":
        return options
    # XLA knows this option no longer in JAX 0.11, and refuses options unknown to it.
    # A training step would run slower without: an MLP's takes 1.4 times as long.
    if jax.__version_info__ < (0, 11):
        options["xla_cpu_use_fusion_emitters"] = False
    level = 1 if effort == "some" else 0
    return options | {"xla_backend_optimization_level": level}


def is_host(device: jax.Device) -> bool:
    """Tells whether a device is the host's CPU, whose devices all share one memory.

    Example:
        >>> from types import SimpleNamespace
        >>> is_host(SimpleNamespace(platform="gpu"))
        False
    """
    return device.platform == "cpu"
