"""What the TPU compiler expects of the main job's CNN, by convolution and chunk.

    python examples/compile_for_tpu.py

Needs no TPU, but the extra `tpu-compile`, in an environment of its own. 2 CPU cores,
1.5 to 5 minutes. Compiled for one v5e chip, never run on one: cycles are the compiler's
estimates, added up over a training step of the whole population (see
`jepbt.ahead.estimated_cycles`), bytes are what a compiled program reserves. Expect 0.60
million cycles for 16 members in chunks of 8, 1.08 one by one and 1.57 all at once; with
convolutions as windows 3.9 to 35.
"""

import argparse
import dataclasses
import os
import time

import jax
import optax

import jepbt
from jepbt import nn
from jepbt.ahead import compiled_bytes, estimated_cycles, lower_for_tpu

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
    like = jepbt.models.CNN(num_classes=10)

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


def estimate(convolution, num_members, chunk_size, batch_size, num_steps=NUM_STEPS):
    """`(cycles a step, MB compiled for, MB estimated by jepbt)` of one v5e chip."""
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
    return cycles, compiled_bytes(program) / 1e6, ahead.estimated_bytes["train"] / 1e6


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
        f"{'MB':>8} {'MB (jepbt)':>10} {'compile s':>9}"
    )
    for num_members in options.members:
        for name in options.convolutions:
            for chunk_size in (1, 8, num_members):
                start = time.perf_counter()
                cycles, compiled, estimated = estimate(
                    name, num_members, chunk_size, options.batch
                )
                print(
                    f"{num_members:4} {name:12} {chunk_size:5} {cycles / 1e6:9.2f} "
                    f"{cycles / num_members / 1e6:9.3f} {compiled:8.1f} "
                    f"{estimated:10.1f} {time.perf_counter() - start:9.0f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
