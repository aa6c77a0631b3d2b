"""What XLA makes of a population for an H100 that is not here: calls, copies, bytes.

    python examples/compile_for_cuda.py

Needs no GPU, but the extra `cuda-compile`, in an environment of its own. 2 CPU cores,
3 minutes. Compiled for one H100 and never run on one; without a device XLA cannot time
its alternatives, so it takes the first. Expect for 16 members, batch 64:

- Of ResNet-20's 56 convolutions 54 are one grouped call of cuDNN for all members. Only
  1 of the 19 gradients of kernels is cuDNN's own call for it (column `filter`); one by
  one, all 19 are. The others have become convolutions with a window as large as the
  image: what they cost must be measured.
- The population is updated in place (`in place` is all of `state`), and operations that
  only copy or transpose move 1 % of the bytes.
- A step of ResNet-20 reads and writes 17.3 GB, 8.8 in bfloat16, 13.5 one by one, 33.9
  with windows; one of the CNN 777 MB, 1,094 where XLA pools, 1,132 with windows.

Bytes are not time: on a GPU windows were the faster all the same (SCALING.md).
"""

from __future__ import annotations

import argparse
import math
import re
import time

import jax
import numpy as np
import optax
from compile_for_tpu import lower_for, split_bodies

import jepbt
from jepbt.benchmark.workloads import LearningRate
from jepbt.nn import lowering

H100 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84929347584
  shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 }
runtime_version { major: 12 minor: 8 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
"""The compiler's own description of the device, as XLA's protocol buffer."""

NUM_STEPS = 10
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4}

FREE = ("get-tuple-element", "tuple", "parameter", "bitcast", "constant", "after-all")
"""Operations that neither read nor write memory."""


FORMS = (
    (lowering.XLA, lowering.XLA, "float32", True),
    (lowering.XLA, lowering.BLOCKS, "float32", True),
    (lowering.XLA, lowering.BLOCKS, "float32", False),
    (lowering.WINDOWS, lowering.BLOCKS, "float32", True),
    (lowering.XLA, lowering.BLOCKS, "bfloat16", True),
)
"""Convolution, pooling, dtype, and whether all members are computed together."""


def describe_h100():
    """Describes one H100 to JAX; raises what the compiler says if it cannot."""
    from jax.experimental import topologies

    described = topologies.get_topology_desc(
        platform="cuda", target_config=H100, topology="1x1x1"
    )
    return described.devices


def make_task(model, compute_dtype):
    """Classifies random images of the size that a network is made for."""
    draw = np.random.default_rng(0)
    shape = (32, 32, 3) if model == "resnet20" else (28, 28, 1)
    images = draw.integers(0, 256, (2000, *shape), dtype=np.uint8)
    data = images, draw.integers(0, 10, 2000)
    networks = {"cnn": jepbt.models.CNN(), "resnet20": jepbt.models.ResNet(depth=20)}
    return jepbt.classification(
        jepbt.datasets.from_arrays(data, num_classes=10),
        hparams=LearningRate,
        model=networks[model],
        loss=lambda h: jepbt.losses.cross_entropy,
        optimizer=lambda h: optax.sgd(h.learning_rate, momentum=0.9),
        compute_dtype=compute_dtype,
    )


def compile_training(model, num_members, chunk_size, convolution, pooling, dtype):
    """Compiles the training program of one H100, with layers in the forms named."""
    forms = {"convolution": convolution, "pooling": pooling}
    with lowering.trying("gpu", forms):
        ahead = lower_for(
            make_task(model, dtype),
            describe_h100(),
            strategy="random_search",
            chunk_size=chunk_size,
            only=("train",),
            population_size=num_members,
            num_generations=1,
            steps_per_generation=NUM_STEPS,
        )
    # Without a device the compiler cannot time its alternatives.
    return ahead.programs.train.compile({"xla_gpu_autotune_level": 0})


def calls_of_cudnn(text):
    """Counts cuDNN's calls, those of several groups, and those for kernels' gradients.

    A kernel's gradient that is no such call has become a convolution whose window is
    the whole image.
    """
    calls = [
        line for line in text.splitlines() if 'custom_call_target="__cudnn' in line
    ]
    grouped = sum("feature_group_count=" in line for line in calls)
    return len(calls), grouped, sum("convBackwardFilter" in line for line in calls)


def traffic(text):
    """Adds up what the operations of one training step read and write.

    Each operation reads its operands and writes its result once; caches, and rows of
    the data that are gathered, are not looked at.

    Returns:
        `(bytes, bytes of operations that copy or transpose and nothing else)`.
    """
    bodies, _ = split_bodies(text)
    loop = max(
        re.findall(rf'body=%?([\w.-]+).*"known_trip_count":{{"n":"{NUM_STEPS}"', text),
        key=lambda body: len(bodies[body]),
    )
    sizes, total, copied = {}, 0, 0
    for line in bodies[loop]:
        found = re.match(r"\s*(?:ROOT )?%(\S+) = (.*?) ([\w-]+)\((.*)", line)
        if not found:
            continue
        name, result, operation, rest = found.groups()
        sizes[name] = num_bytes(result)
        if operation in FREE or is_data(result):
            continue
        operands = re.findall(r"%([\w.-]+)", rest.split("), ")[0])
        moved = sizes[name] + sum(sizes.get(operand, 0) for operand in operands)
        total += moved
        called = re.search(r"calls=%?([\w.-]+)", line)
        inside = bodies.get(called[1], []) if called else [line]
        kinds = {found[1] for found in map(OPERATION.match, inside) if found}
        copied += moved if kinds - set(FREE) <= {"copy", "transpose", "reshape"} else 0
    return total, copied


OPERATION = re.compile(r"\s*(?:ROOT )?%\S+ = .*? ([\w-]+)\(")


def is_data(result):
    """Tells the training split, of which a step reads a batch alone."""
    return "1800," in result


def num_bytes(result):
    """Adds up the bytes of the arrays in a result's type."""
    return sum(
        BYTES[dtype] * math.prod(int(n) for n in shape.split(",") if n)
        for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", result)
        if dtype in BYTES and "1800" not in shape.split(",")
    )


def main():
    jax.config.update("jax_platforms", "cpu")  # else JAX looks for a GPU, and fails
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--members", type=int, default=16)
    parser.add_argument("--models", nargs="+", default=["cnn", "resnet20"])
    options = parser.parse_args()
    number = options.members
    print(f"compiled for one H100, not autotuned; P={number}, batch 64; nothing ran")
    head = ("model", "convolution", "pooling", "dtype", "chunk", "cuDNN", "grouped")
    head += ("filter", "MB/step", "copied", "state", "in place", "temp", "seconds")
    print("  ".join(head))
    for model in options.models:
        for form in FORMS:
            if model == "resnet20" and form[1] == lowering.XLA:
                continue  # it pools nothing
            convolution, pooling, dtype, is_together = form
            chunk = number if is_together else 1
            start = time.perf_counter()
            compiled = compile_training(
                model, number, chunk, convolution, pooling, dtype
            )
            seconds = time.perf_counter() - start
            text, memory = compiled.as_text(), compiled.memory_analysis()
            numbers = [number // chunk * n / 1e6 for n in traffic(text)]
            numbers += [
                memory.output_size_in_bytes / 1e6,
                memory.alias_size_in_bytes / 1e6,
                memory.temp_size_in_bytes / 1e6,
                seconds,
            ]
            cells = [model, convolution, pooling, dtype, chunk, *calls_of_cudnn(text)]
            cells += [f"{n:.0f}" for n in numbers]
            print(
                "  ".join(
                    str(cell).rjust(len(name))
                    for cell, name in zip(cells, head, strict=True)
                ),
                flush=True,
            )


if __name__ == "__main__":
    main()
