"""Decides in which form a layer is computed, by platform, layer and population.

One table holds every decision, with the evidence behind it; `jepbt check` measures
whether it is right for the device at hand.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
from jax import lax

XLA = "xla"
"""The form of XLA itself: `vmap` over kernels makes one grouped convolution."""

IN_TURN = "in turn"
"""One member's kernel after the other, with gradients that are fast in a loop."""

WINDOWS = "windows"
"""Gathered windows and one multiplication, which `vmap` makes a batched one."""

BLOCKS = "blocks"
"""Windows that touch but do not overlap, reshaped to blocks."""

EACH_ITS_OWN = "each its own"
"""Each member reads a batch that all share for itself, as if it were its own."""

FEW = 8
"""Members whose activations fit a CPU's cache, or a TPU's own memory, together."""

SMALL_STEP = 1e7
"""Floating-point operations of a step below which one member leaves a CPU core idle."""

PLATFORMS = {"cpu": ("cpu",), "gpu": ("cuda", "rocm"), "tpu": ("tpu",)}
"""The platforms of JAX's devices, by the names that the compiler has for each."""


class Row(NamedTuple):
    """One decision, and what it rests on.

    Attributes:
        platform: a device's platform, such as "cpu", "gpu" or "tpu".
        layer: "convolution", "pooling", "batch" for reading what all members share, or
            "members" for the members of one device.
        form: the name of a form; of members, the most that are computed together, or
            None for all.
        evidence: the kind of evidence, in a few words for people. The figures, and the
            commands that gave them, stand above each row of the table.
        most_flops: the largest training step of one member that the row holds for, in
            floating-point operations.
    """

    platform: str
    layer: str
    form: str | int | None
    evidence: str
    most_flops: float = math.inf


_ON_CPU = "measured on two CPU cores"
_FOR_TPU = "compiled for TPU v5e, never run on one"
_FOR_GPU = "compiled for H100"
_ON_GPU = "measured on an H200"

TABLE = (
    # jepbt benchmark --models cnn: 16 CNNs take 113 times as long in XLA's form.
    Row("cpu", "convolution", IN_TURN, _ON_CPU),
    # jepbt check --parts lowering: 8 CNNs take 5.2 times as long in XLA's form.
    Row("cpu", "pooling", BLOCKS, _ON_CPU),
    # jepbt.scaling, dense layers and convolutions alike: 8 at once gain 1.1 to 1.3
    # times up to 7 MFLOP a step, and lose as much from 26 MFLOP on.
    Row("cpu", "members", FEW, _ON_CPU, SMALL_STEP),
    Row("cpu", "members", 1, _ON_CPU),
    # jepbt check --parts lowering: 64 CNNs take 2.2 times as long in XLA's form (one
    # grouped call of cuDNN), 6.7 times one by one; 16 ResNet-20s 2.3 times; 64 CNNs in
    # bfloat16 2.1 times.
    Row("gpu", "convolution", WINDOWS, _ON_GPU),
    # examples/compile_for_cuda.py: the same step reads and writes 1,094 MB in XLA's
    # form, 777 in blocks: its gradient writes five arrays of indices.
    Row("gpu", "pooling", BLOCKS, _FOR_GPU),
    # jepbt.scaling: 1,024 MLPs take 6.0 times as long 8 at a time, 37 one by one.
    Row("gpu", "members", None, _ON_GPU),
    # jepbt check --parts lowering, with 256 members: a step of MLPs takes 1.24 times as
    # long where vmap joins their first layers to one matrix.
    Row("gpu", "batch", EACH_ITS_OWN, _ON_GPU),
    # examples/compile_for_tpu.py: 16 CNNs take 0.60 million cycles 8 at a time, 1.08
    # one by one, 1.57 all at once; with windows 3.9 to 35.
    Row("tpu", "convolution", XLA, _FOR_TPU),
    Row("tpu", "members", FEW, _FOR_TPU),
)
"""The first row that fits decides; where none does, XLA's default: see `decide`."""

_elsewhere: str | None = None


def decide(platform: str, layer: str, step_flops: float = 0.0) -> Row:
    """Decides in which form a layer is computed on a platform.

    It is a rule, not a measurement, so that the same run computes the same on every
    machine.

    Args:
        platform: a device's platform, such as "cpu", "gpu" or "tpu".
        layer: the name of a layer, as in `Row`.
        step_flops: the floating-point operations of a member's training step.

    Returns:
        The table's row; where nothing is known, one with XLA's default.

    Example:
        >>> decide("cpu", "convolution").form, decide("gpu", "convolution").form
        ('in turn', 'windows')
    """
    for row in TABLE:
        fits = row.platform == platform and row.layer == layer
        if fits and step_flops <= row.most_flops:
            return row
    default = None if layer == "members" else XLA
    return Row(platform, layer, default, f"unknown on {platform}, so XLA's default")


@contextlib.contextmanager
def trying(platform: str, forms: Mapping[str, str]) -> Iterator[None]:
    """Traces programs for a platform that may not be here, with other forms if given.

    Args:
        platform: the platform that is traced for, beside those that are here.
        forms: a form by the name of its layer, in the table's place.

    Example:
        >>> with trying("gpu", {"pooling": XLA}):
        ...     decide("gpu", "pooling").form
        'xla'
    """
    global TABLE, _elsewhere
    before = TABLE, _elsewhere
    tried = tuple(Row(platform, *named, "tried here") for named in forms.items())
    TABLE, _elsewhere = tried + TABLE, platform
    try:
        yield
    finally:
        TABLE, _elsewhere = before


def lower(
    layer: str,
    forms: Mapping[str, Callable[..., Any]],
    *args: Any,
    form: str | None = None,
) -> Any:
    """Computes a layer in one of `forms`, functions by name, `XLA` among them.

    With a `form` of None it is the table's, for where the layer is compiled for: the
    CPU, or JAX's own platform here. Tracing the forms of others would take time.
    """
    if form is not None:
        return forms[form](*args)
    traced_for = "cpu", jax.default_backend(), _elsewhere
    branches = {
        name: forms[decided]
        for platform, names in PLATFORMS.items()
        if platform in traced_for and (decided := decide(platform, layer).form) != XLA
        for name in names
    }
    return lax.platform_dependent(*args, **branches, default=forms[XLA])
