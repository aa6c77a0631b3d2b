"""Reads image classification sets of TFDS by name, without TensorFlow.

The arrays of a set are kept beside its records, where the next call finds them.
"""

import contextlib
import difflib
import http.client
import importlib.util
import io
import os
import re
import sys
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from jepbt.arguments import user_path

PREPARED_HERE = ("mnist", "fashion_mnist", "cifar10")
SPLITS = ("train", "validation", "test")
CACHE = "jepbt_arrays.npz"  # in the folder of the records, and deleted with it

_NAME = re.compile(r"([\w/.:]+)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?")


def parse_name(name: str) -> tuple[str, str | None, str | None]:
    """Splits `NAME` or `NAME[FROM:TO]` into its three parts."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(
            f"datasets.load: name='tfds:{name}'; allowed are 'tfds:NAME' and "
            "'tfds:NAME[FROM:TO]', a slice of the training split in examples or whole "
            "percents, as in 'tfds:cifar10[:20%]'."
        )
    return match.groups()


def slice_of(start: str | None, stop: str | None, num_examples: int) -> slice:
    """Turns the bounds in a name into a slice of so many examples, as TFDS does."""
    first = 0 if start is None else _position(start, num_examples)
    end = num_examples if stop is None else _position(stop, num_examples)
    if not 0 <= first < end <= num_examples:
        raise ValueError(
            f"datasets.load: the slice [{start or ''}:{stop or ''}] goes from {first} "
            f"to {end} of {num_examples} training examples; it must lie within them "
            "and hold at least one."
        )
    return slice(first, end)


def _position(text: str, num_examples: int) -> int:
    value = int(text.rstrip("%"))
    if text.endswith("%"):
        value = round(value * num_examples / 100)
    return value + num_examples if text.startswith("-") else value


def load_arrays(name: str, data_dir: str | os.PathLike | None) -> dict[str, np.ndarray]:
    """Reads a set's splits, after downloading and preparing it if need be.

    Returns "num_classes", and for each split that exists "SPLIT_image", `uint8[N, H, W,
    C]`, and "SPLIT_label", `int64[N]`.
    """
    default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    folder = user_path("data_dir, or TFDS_DATA_DIR,", data_dir or default)
    with contextlib.redirect_stdout(sys.stderr):  # TFDS prints its progress
        builder = _find_builder(name, folder)
        if not builder.is_prepared():
            builder = _prepare(name, builder, folder)
        cache = Path(builder.data_path) / CACHE
        arrays = _read_cache(cache)
        if arrays is None:
            arrays = _read_records(name, builder)
            _write_cache(cache, arrays)
    return arrays


def _read_cache(cache: Path) -> dict[str, np.ndarray] | None:
    """Returns the arrays; None if the file is absent or damaged."""
    try:
        with cache.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return dict(stored)  # zip's checksums find flipped bits
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def _write_cache(cache: Path, arrays: dict[str, np.ndarray]) -> None:
    part = cache.with_name(f"{cache.name}.{os.getpid()}")
    try:
        with part.open("wb") as file:
            np.savez(file, **arrays)
        os.replace(part, cache)
    except OSError:  # a read-only folder or a full disk: the records can be read again
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _find_builder(name: str, folder: Path) -> Any:
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(name, data_dir=folder)
    except (ValueError, AssertionError, ImportError) as error:
        reason = str(error).partition("Available datasets:")[0].strip()
        known = tfds.list_builders(with_community_datasets=False)
        close = difflib.get_close_matches(name, known, n=1)
        suggestion = f" Did you mean 'tfds:{close[0]}'?" if close else ""
        raise ValueError(
            f"datasets.load: name='tfds:{name}': {reason}{suggestion}"
        ) from error


def _prepare(name: str, builder: Any, folder: Path) -> Any:
    """Downloads a set and writes its records; returns the builder that reads them."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.download_manager import (
        NonMatchingChecksumError,
    )

    if builder.name in PREPARED_HERE:
        from jepbt.datasets import tfds_builders

        builder = tfds_builders.BUILDERS[builder.name](data_dir=folder)
        _check_network(name, builder.urls, folder / "downloads")
    elif not _has_tensorflow():
        raise ValueError(
            f"datasets.load: name='tfds:{name}' is not prepared in {folder}, and only "
            f"{', '.join(PREPARED_HERE)} are prepared without TensorFlow. Install it, "
            f"or prepare the set elsewhere by tfds.builder({name!r}).download_and_"
            'prepare(file_format="array_record") and pass its data_dir=.'
        )
    try:
        builder.download_and_prepare(file_format="array_record")
    except (OSError, tfds.download.DownloadError, NonMatchingChecksumError) as error:
        if not builder.is_prepared():  # nor by another process, which was faster
            raise OSError(
                f"datasets.load: name='tfds:{name}' was not downloaded and prepared in "
                f"{folder}: {error}"
            ) from error
    return builder


def _has_tensorflow() -> bool:
    return importlib.util.find_spec("tensorflow") is not None


def _check_network(name: str, urls: list[str], downloads: Path) -> None:
    """Refuses at once to download without a network, which TFDS tries for minutes."""
    notes = "".join(path.read_text() for path in downloads.rglob("*.INFO"))
    manual = downloads / "manual"
    files = {url.rpartition("/")[2]: url for url in urls if url not in notes}
    missing = [file for file in files if not (manual / file).exists()]
    if not missing:
        return
    url = files[missing[0]]
    request = urllib.request.Request(url, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=2).close()
    except (urllib.error.HTTPError, http.client.HTTPException):
        return  # a server is there; TFDS will say what is wrong with its answer
    except OSError as error:
        raise ConnectionError(
            f"datasets.load: name='tfds:{name}' must be downloaded, and {url} cannot "
            f"be reached ({error}). Connect this machine and try again, or put "
            f"{', '.join(missing)} into {manual}. The embedded 'fashion_mnist' takes "
            "no network."
        ) from error


def _read_records(name: str, builder: Any) -> dict[str, np.ndarray]:
    image_key, label_key = _image_and_label(name, builder)
    shape = builder.info.features[image_key].shape
    arrays = {"num_classes": np.array(builder.info.features[label_key].num_classes)}
    for split in SPLITS:
        if split not in builder.info.splits:
            continue
        examples = _examples(name, builder, split, image_key)
        arrays[f"{split}_image"] = np.stack(
            [_decode(example[image_key], shape) for example in examples]
        )
        arrays[f"{split}_label"] = np.array([each[label_key] for each in examples])
    if "train_image" not in arrays:
        raise ValueError(
            f"datasets.load: name='tfds:{name}' has no split named train, only "
            f"{', '.join(builder.info.splits)}."
        )
    return arrays


def _image_and_label(name: str, builder: Any) -> tuple[str, str]:
    import tensorflow_datasets as tfds

    keys, features = builder.info.supervised_keys, builder.info.features
    if keys and len(keys) == 2 and all(isinstance(key, str) for key in keys):
        image, label = (features[key] for key in keys)
        if (
            isinstance(image, tfds.features.Image)
            and None not in image.shape
            and image.np_dtype == np.uint8
            and isinstance(label, tfds.features.ClassLabel)
            and label.num_classes
        ):
            return keys
    raise ValueError(
        f"datasets.load: name='tfds:{name}' is not made of uint8 images of one size "
        f"with one class each; its supervised keys are {keys} of {features}. Make "
        "arrays of it and pass them to jepbt.datasets.from_arrays."
    )


def _examples(name: str, builder: Any, split: str, image_key: str) -> list[dict]:
    """Reads a split in its official order, images still encoded."""
    import tensorflow_datasets as tfds

    decoders = {image_key: tfds.decode.SkipDecoding()}
    try:
        source = builder.as_data_source(split, decoders=decoders)
    except NotImplementedError as error:  # no array_record, the one format with access
        if not _has_tensorflow():
            raise ValueError(
                f"datasets.load: name='tfds:{name}' is prepared in {builder.data_path} "
                f"as {builder.info.file_format.value}, which takes TensorFlow to read. "
                "Install it, or pass another data_dir=."
            ) from error
        in_order = tfds.ReadConfig(interleave_cycle_length=1)
        dataset = builder.as_dataset(split, decoders=decoders, read_config=in_order)
        return list(dataset.as_numpy_iterator())
    return source.__getitems__(range(len(source)))  # twice as fast as one by one


def _decode(encoded: bytes, shape: tuple[int, ...]) -> np.ndarray:
    from PIL import Image

    # Some sets store images with more channels, or fewer, than they declare.
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[shape[-1]]
    image = Image.open(io.BytesIO(encoded)).convert(mode)
    return np.asarray(image).reshape(shape)
