"""Compares the forms in which a population of CNNs can be lowered on a device."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax

from jepbt import nn
from jepbt.benchmark import controls
from jepbt.benchmark.check.cost import time_call
from jepbt.benchmark.check.record import Finding, Record
from jepbt.benchmark.check.sizes import Size, workload_named
from jepbt.benchmark.workloads import FlaxCNN, make_task
from jepbt.engine.chunks import largest_divisor
from jepbt.engine.devices import is_host
from jepbt.nn.lowering import BLOCKS, FEW, IN_TURN, WINDOWS, XLA
from jepbt.training import prepare

ALL, EIGHT, ONE, SCAN_OUTSIDE = (
    "all at once",
    "8 at a time",
    "1 at a time",
    "scan outside",
)


class Form(NamedTuple):
    """One way to train the population."""

    convolution: str
    members: str = ALL
    compute_dtype: str = "float32"
    pooling: str = BLOCKS

    @property
    def name(self) -> str:
        """The form in words."""
        return f"{self.convolution}, {self.members}, {self.compute_dtype}" + (
            f", pooling {self.pooling}" * (self.pooling != BLOCKS)
        )


FORMS = (
    Form(XLA),
    Form(WINDOWS),
    Form(XLA, ONE),
    Form(IN_TURN, EIGHT),
    Form(IN_TURN, EIGHT, pooling=XLA),
    Form(IN_TURN, ONE),
    Form(XLA, EIGHT),
    Form(WINDOWS, EIGHT),
    Form(XLA, compute_dtype="bfloat16"),
    Form(WINDOWS, compute_dtype="bfloat16"),
    Form(XLA, ONE, "bfloat16"),
    Form(XLA, SCAN_OUTSIDE),
    Form(WINDOWS, SCAN_OUTSIDE),
)
"""The most telling first."""


def form_parts(size: Size) -> dict[str, Callable[[Record], Finding]]:
    """Makes the parts: the training of a population of CNNs in each form."""
    return {
        form.name: lambda record, form=form: _measure(size, form)
        for form in FORMS[: size.num_forms]
    }


def _measure(size: Size, form: Form) -> Finding:
    on_cpu = is_host(jax.devices()[0])
    number = size.num_members_on_cpu if on_cpu else size.num_members
    num_steps = 2 if on_cpu else size.num_steps
    workload = dataclasses.replace(
        workload_named("cnn"),
        population_size=number,
        num_steps=num_steps,
        num_vmap_steps=num_steps,
    )
    convolve = functools.partial(nn.conv_general_dilated, form=form.convolution)
    cnn = FlaxCNN(convolve)
    if form.pooling == BLOCKS:
        cnn = FlaxCNN(convolve, nn.max_pool)
    task = make_task(workload, cnn=cnn, compute_dtype=form.compute_dtype)
    chunks = {ALL: number, EIGHT: largest_divisor(number, FEW), ONE: 1, SCAN_OUTSIDE: 1}
    prepared = prepare(
        task,
        strategy="random_search",
        devices=jax.devices()[:1],
        population_size=number,
        num_generations=1,
        steps_per_generation=num_steps,
        chunk_size=chunks[form.members],
    )
    if form.members == SCAN_OUTSIDE:
        start = controls.make_start(prepared)
        run = controls.plain_vmap(workload, start, task).run
    else:
        run = controls.population_program(prepared).run
    seconds = time_call(run) / num_steps
    figures = {
        "P": number,
        "ms a step": float(f"{1e3 * seconds:.4g}"),
        "samples/s": float(f"{number * workload.batch_size / seconds:.4g}"),
    }
    return Finding(None, figures)
