"""Compares the forms in which a population can be lowered on a device."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax

from jepbt.benchmark.check.cost import make_task_of, rounded, time_call
from jepbt.benchmark.check.record import Finding
from jepbt.benchmark.check.sizes import RESNET, Size
from jepbt.benchmark.controls import (
    make_start,
    plain_vmap,
    population_program,
    prepare_training,
)
from jepbt.engine.devices import is_host, largest_divisor
from jepbt.nn.lowering import (
    BLOCKS,
    EACH_ITS_OWN,
    FEW,
    IN_TURN,
    WINDOWS,
    XLA,
    trying,
)

ALL, EIGHT, ONE = "all at once", "8 at a time", "1 at a time"
SCAN_OUTSIDE = "scan outside"


class Form(NamedTuple):
    """One way to train the population."""

    convolution: str
    members: str = ALL
    compute_dtype: str = "float32"
    pooling: str = BLOCKS
    model: str = "cnn"
    batch: str | None = None

    @property
    def name(self) -> str:
        """The form in words."""
        model = f"{self.model}: " * (self.model != "cnn")
        pooling = f", pooling {self.pooling}" * (self.pooling != BLOCKS)
        form = f"batch {self.batch}" if self.batch else self.convolution
        return f"{model}{form}, {self.members}, {self.compute_dtype}{pooling}"


FORMS = (
    Form(XLA),
    Form(WINDOWS),
    Form(XLA, ONE),
    Form(IN_TURN, EIGHT),
    Form(WINDOWS, EIGHT),
    Form(XLA, compute_dtype="bfloat16"),
    Form(WINDOWS, compute_dtype="bfloat16"),
    Form(XLA, model=RESNET),
    Form(WINDOWS, model=RESNET),
    Form(XLA, ONE, model=RESNET),
    Form(XLA, compute_dtype="bfloat16", model=RESNET),
    Form(WINDOWS, compute_dtype="bfloat16", model=RESNET),
    Form(XLA, model="mlp", batch=EACH_ITS_OWN),
    Form(XLA, model="mlp", batch=XLA),
    Form(WINDOWS, pooling=XLA),
    Form(WINDOWS, ONE),
    Form(WINDOWS, SCAN_OUTSIDE),
    Form(XLA, SCAN_OUTSIDE),
    Form(IN_TURN, EIGHT, pooling=XLA),
    Form(IN_TURN, ONE),
    Form(XLA, EIGHT),
    Form(XLA, ONE, "bfloat16"),
)
"""The most telling first."""


def form_parts(size: Size) -> dict[str, Callable[[], Finding]]:
    """Makes the parts: the training of a population in each form."""
    return {
        f"lowering/{form.name}": functools.partial(_measure, size, form)
        for form in FORMS[: size.num_forms]
    }


def _measure(size: Size, form: Form) -> Finding:
    device = jax.devices()[0]
    number, num_steps = size.num_members, size.num_steps
    if form.model == RESNET:
        number = max(1, number // 4)
    if is_host(device):
        if form.model == RESNET:
            return Finding(None, {"note": "left out: it would take too long here"})
        number, num_steps = size.num_members_on_cpu, 2
    chunks = {ALL: number, EIGHT: largest_divisor(number, FEW), ONE: 1, SCAN_OUTSIDE: 1}
    forms = {"convolution": form.convolution, "pooling": form.pooling}
    forms |= {"batch": form.batch} if form.batch else {}
    with trying(device.platform, forms):
        task = make_task_of(form.model, form.compute_dtype)
        prepared = prepare_training(
            task,
            number,
            num_steps,
            devices=[device],
            chunk_size=chunks[form.members],
        )
        if form.members == SCAN_OUTSIDE:
            control = plain_vmap(task, make_start(prepared), num_steps)
        else:
            control = population_program(prepared)
        seconds = time_call(control.run) / num_steps
    figures = {
        "P": number,
        "ms a step": 1e3 * seconds,
        "samples/s": number * prepared.config.batch_size / seconds,
    }
    return Finding(None, rounded(figures))
