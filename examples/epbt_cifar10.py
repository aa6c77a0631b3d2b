"""EPBT against PBT, a fixed loss and random search: real CIFAR-10 at a small scale.

    python examples/epbt_cifar10.py --data cifar10.npz
    python examples/epbt_cifar10.py --data cifar10.npz --size cpu
    python examples/epbt_cifar10.py --data cifar10.npz --make-archive small.npz

The question is EPBT's own, the scale is not: this is never called a reproduction. Four
arms with the same population size, steps, data, search space and first hyperparameters:
EPBT whose Taylor loss evolves from cross-entropy's expansion; PBT with cross-entropy;
EPBT with that expansion held fixed; and random search with cross-entropy, each member's
learning rate falling along half a cosine to 0. 10 epochs in 20 generations. The winner
by validation is read on test images once.

The table is printed, and written as JSON and CSV into `--folder`; started again, the
command goes on with the runs that are missing, also for more `--seeds`.

`--data` is a file with `x_train`, `y_train`, `x_test`, `y_test`, uint8 images
[N, 32, 32, 3] and labels, as `keras.datasets.cifar10.load_data()` returns and
`tfds.load("cifar10", batch_size=-1)` holds them. `--make-archive` writes as much of it
as 45 MB hold, losslessly: 5,000 test images and about 17,400 training images. That
file too is for `--data`.

--size full: for one accelerator, in bfloat16. 16 ResNet-8s a population, batches of
128, all images of an archive, 3 seeds: 2.2 PFLOP in all by the compiler's count.
Ran on one NVIDIA H200 in 4 minutes, 15 s a run. Expect the last table of RESULTS.md.
--size cpu: 2 CPU cores, about 20 minutes if they are idle. 8 small CNNs, 2,000 training
images, 5 seeds. Expect the table of RESULTS.md. --size toy: to try it.
"""

import argparse
import dataclasses
import io
import pathlib
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax

import jepbt
from jepbt import augment, losses
from jepbt.comparison import plan_comparison, run_comparison

EPBT = "EPBT, Taylor evolved"
PBT = "PBT, cross-entropy"
FIXED = "EPBT, expansion fixed"
RANDOM = "random search, cosine"

ARCHIVE_BYTES = 45_000_000
TEST_IMAGES = 5_000
EPOCHS, NUM_GENERATIONS = 10, 20


@dataclass
class Hyper(jepbt.HyperParameters):
    """One search space for all arms; a loss that an arm does not read has no effect."""

    learning_rate: float = jepbt.hparam(0.1, min=0.005, max=0.5, log=True)
    weight_decay: float = jepbt.hparam(5e-4, min=5e-5, max=5e-3, log=True)
    loss: jepbt.Loss = jepbt.taylor_hparam()


@dataclass(frozen=True)
class Size:
    """How much is compared: the same for every arm.

    Attributes:
        network: a model that gives 10 logits.
        population_size: the members of each arm.
        images: the numbers of training images and of images to select by; None for all
            that there are, a tenth of which selects.
        batch_size: the images of a step.
        num_seeds: the seeds, from 0 on.
    """

    network: Any
    population_size: int
    images: tuple[int, int] | None
    batch_size: int
    num_seeds: int


SIZES = {
    "full": Size(jepbt.models.ResNet(depth=8), 16, None, 128, 3),
    "cpu": Size(jepbt.models.CNN(), 8, (2_000, 500), 32, 5),
    "toy": Size(jepbt.models.CNN(), 4, (320, 100), 16, 2),
}


def encode(images: np.ndarray) -> np.ndarray:
    """Takes from red and blue the green, and from each pixel its left neighbour.

    Modulo 256; a zip file compresses these differences of `u8[N, H, W, 3]` well.
    """
    apart = images.copy()
    apart[..., ::2] -= images[..., 1:2]
    apart[:, :, 1:] -= apart[:, :, :-1].copy()
    return np.ascontiguousarray(np.moveaxis(apart, -1, 0))


def decode(planes: np.ndarray) -> np.ndarray:
    """Makes images `u8[N, H, W, 3]` of what `encode` returned."""
    images = np.moveaxis(np.cumsum(planes, -1, dtype=np.uint8), 0, -1).copy()
    images[..., ::2] += images[..., 1:2]
    return images


def read(path: pathlib.Path | str) -> dict[str, np.ndarray]:
    """Reads images and labels: a file as of Keras, or an archive of this script."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    for split in ("train", "test"):
        if f"encoded_{split}" in arrays:
            arrays[f"x_{split}"] = decode(arrays.pop(f"encoded_{split}"))
        arrays[f"y_{split}"] = arrays[f"y_{split}"].ravel()
    return arrays


def make_archive(arrays: dict[str, np.ndarray], path, limit=ARCHIVE_BYTES) -> int:
    """Writes what fits of the training images, and returns how many those are."""

    def pack(count):
        parts = {}
        for split, rows in (("train", count), ("test", TEST_IMAGES)):
            parts[f"encoded_{split}"] = encode(arrays[f"x_{split}"][:rows])
            parts[f"y_{split}"] = arrays[f"y_{split}"][:rows].astype(np.uint8)
        file = io.BytesIO()
        np.savez_compressed(file, **parts)
        return file.getvalue()

    without = len(pack(0))
    bytes_each = (len(pack(1_000)) - without) / min(1_000, len(arrays["y_train"]))
    count = min(len(arrays["y_train"]), int(1.02 * (limit - without) / bytes_each))
    while count > 0 and len(packed := pack(count)) > limit:
        count -= max(1, int((len(packed) - limit) / bytes_each))
    if count <= 0:
        raise ValueError(f"{limit} bytes hold no training image beside the test split.")
    pathlib.Path(path).write_bytes(packed)
    return count


def make_dataset(arrays: dict[str, np.ndarray], size: Size) -> jepbt.datasets.Dataset:
    """Carves the images to select by out of the training images, class by class."""
    train, test = ((arrays[f"x_{k}"], arrays[f"y_{k}"]) for k in ("train", "test"))
    num_selecting = 0.1
    if size.images is not None:
        total, num_selecting = sum(size.images), size.images[1]
        if total > len(train[1]):
            has = f"--data has {len(train[1])} training images, --size takes {total}"
            raise ValueError(f"{has}. Choose a smaller size, or a larger file.")
        train = tuple(array[:total] for array in train)
    return jepbt.datasets.from_arrays(
        train, num_selecting, test, num_classes=10, name="CIFAR-10"
    )


def optimizer(h: Hyper, cosine_steps: int | None = None):
    """SGD with Nesterov momentum; a cosine from 1 to 0 over so many steps, or none."""
    schedule = optax.constant_schedule(1.0)
    if cosine_steps is not None:
        schedule = optax.cosine_decay_schedule(1.0, cosine_steps)
    return optax.chain(
        optax.add_decayed_weights(h.weight_decay),
        optax.trace(0.9, nesterov=True),
        optax.scale_by_schedule(schedule),
        optax.scale(-h.learning_rate),
    )


def make_arms(dataset, size: Size, num_steps: int) -> dict[str, tuple[Any, str]]:
    """Makes the four arms; `num_steps` are those of a whole run."""
    on_cpu = jax.default_backend() == "cpu"

    def task(loss, cosine_steps=None):
        return jepbt.classification(
            dataset,
            hparams=Hyper,
            model=size.network,
            loss=loss,
            optimizer=lambda h: optimizer(h, cosine_steps),
            augment=lambda h: augment.chain(augment.shift(2.0), augment.flip(0.5)),
            batch_size=size.batch_size,
            compute_dtype="float32" if on_cpu else "bfloat16",
        )

    start = jepbt.taylorglo.CROSS_ENTROPY_EXPANSION
    plain = lambda h: losses.cross_entropy  # noqa: E731
    return {
        PBT: (task(plain), "pbt"),
        EPBT: (task(lambda h: losses.taylor(h.loss)), "epbt"),
        FIXED: (task(lambda h: losses.taylor(start)), "epbt"),
        RANDOM: (task(plain, num_steps), "random_search"),
    }


def run(arrays, size: Size, folder: pathlib.Path, num_seeds: int | None = None):
    """Runs the comparison, or what is missing of it, and writes its numbers."""
    dataset = make_dataset(arrays, size)
    steps_an_epoch = len(dataset.train["label"]) // size.batch_size
    steps = max(1, round(EPOCHS * steps_an_epoch / NUM_GENERATIONS))
    plan = plan_comparison(
        make_arms(dataset, size, steps * NUM_GENERATIONS),
        seeds=size.num_seeds if num_seeds is None else num_seeds,
        control=PBT,
        primary=EPBT,
        run_dir=folder,
        resume=True,
        population_size=size.population_size,
        num_generations=NUM_GENERATIONS,
        steps_per_generation=steps,
        progress=False,
    )

    comparison = run_comparison(plan, tell)
    comparison.to_json(folder / "comparison.json")
    comparison.to_csv(folder / "comparison.csv")
    return comparison


def tell(outcome: jepbt.comparison.Outcome) -> None:
    line = f"{outcome.arm}, seed {outcome.seed}: {outcome.score:.4f}"
    print(f"{line}, {outcome.seconds:.1f} s", flush=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="an .npz file of CIFAR-10")
    parser.add_argument("--make-archive", metavar="FILE.npz", help="write it, and stop")
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--seeds", type=int, help="from 0 on; default: the size's")
    parser.add_argument("--depth", type=int, help="a ResNet of this depth, 6 n + 2")
    parser.add_argument("--width", type=int, default=16, help="of that ResNet")
    parser.add_argument("--folder", type=pathlib.Path, default="runs/epbt_cifar10")
    options = parser.parse_args(arguments)
    arrays = read(options.data)
    if options.make_archive is not None:
        print(f"{make_archive(arrays, options.make_archive):,} training images")
        return
    jepbt.use_all_cpu_cores()
    size = SIZES[options.size]
    if options.depth is not None:
        network = jepbt.models.ResNet(depth=options.depth, width=options.width)
        size = dataclasses.replace(size, network=network)
    comparison = run(arrays, size, options.folder, options.seeds)
    print(f"\n{comparison}\n")
    against = dataclasses.replace(comparison, control=EPBT, primary=None)
    print(f"The same, against {EPBT}:\n\n{against}")


if __name__ == "__main__":
    main()
