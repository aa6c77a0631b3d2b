"""Image classification sets of TFDS by name: slices, and a cache that takes no TFDS.

What was read once is kept as arrays beside the records.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
import urllib.parse
import zipfile
from pathlib import Path

import numpy as np

from jepbt import tfds_records

CACHE_KEYS = ("records", "checksum")  # not of the data set

_NAME = re.compile(r"([\w/.:]+)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?")


def parse_name(name: str) -> tuple[str, tuple[str | None, str | None] | None]:
    """Takes a name of TFDS and the slice of its training split apart.

    Raises:
        ValueError: if it is not of the form `NAME` or `NAME[FROM:TO]`.

    Example:
        >>> parse_name("cifar10[:20%]")
        ('cifar10', (None, '20%'))
        >>> parse_name("mnist")
        ('mnist', None)
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(
            f"datasets.load: name='tfds:{name}'; allowed are 'tfds:NAME' and "
            "'tfds:NAME[FROM:TO]', a slice of the training split in examples or whole "
            "percents, as in 'tfds:cifar10[:20%]'."
        )
    return match[1], None if match[0] == match[1] else (match[2], match[3])


def slice_of(bounds: tuple[str | None, str | None] | None, num_examples: int) -> slice:
    """Turns what `parse_name` found into a slice of so many examples, as TFDS does.

    Raises:
        ValueError: if it holds no example, or a bound is out of range.

    Example:
        >>> slice_of((None, "20%"), 50_000)
        slice(0, 10000, None)
    """
    if bounds is None:
        return slice(0, num_examples)
    start, stop = (
        default if text is None else _position(text, num_examples)
        for text, default in zip(bounds, (0, num_examples), strict=True)
    )
    if not 0 <= start < stop <= num_examples:
        raise ValueError(
            f"datasets.load: the slice [{bounds[0] or ''}:{bounds[1] or ''}] goes from "
            f"{start} to {stop} of {num_examples} training examples; it must lie "
            "within them and hold at least one."
        )
    return slice(start, stop)


def _position(text: str, num_examples: int) -> int:
    is_percent = text.endswith("%")
    value = int(text.rstrip("%"))
    value = round(value * num_examples / 100) if is_percent else value
    return value + num_examples if text.startswith("-") else value


def load_arrays(name: str, data_dir: str | os.PathLike | None) -> dict[str, np.ndarray]:
    """Reads a set's splits, after preparing it if need be.

    Args:
        name: TFDS's, with a config and version if wanted.
        data_dir: where TFDS keeps its data; None: where it does by default.

    Returns:
        "num_classes", and for each of train, validation and test, as far as they
        exist, "SPLIT_image", `uint8[N, H, W, C]`, and "SPLIT_label", `int64[N]`.

    Raises:
        ValueError: if there is no such set, it is none of images of one size with one
            label each, or takes TensorFlow, which is not installed.
        ConnectionError: if it must be downloaded and there is no network.
        OSError: if it could not be downloaded, was damaged, or cannot be written.
    """
    default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    folder = Path(data_dir or default).expanduser()
    cache = folder / "jepbt_cache" / f"{urllib.parse.quote(name, safe='')}.npz"
    arrays = _read_cache(cache)
    if arrays is None:
        arrays, records = tfds_records.prepare_and_read(name, folder)
        _write_cache(cache, arrays, records)
    return arrays


def _read_cache(cache: Path) -> dict[str, np.ndarray] | None:
    """Reads arrays whose records are still what they were; None if there are none."""
    try:
        with cache.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            if _checksum(str(stored["records"])) != str(stored["checksum"]):
                return None
            return {key: stored[key] for key in stored if key not in CACHE_KEYS}
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return None  # absent or damaged: the records are read again


def _write_cache(cache: Path, arrays: dict[str, np.ndarray], records: str) -> None:
    # A folder of others', or a full disk: reading the records again is only slower.
    with contextlib.suppress(OSError):
        cache.parent.mkdir(exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cache.parent, delete=False) as file:
            try:
                np.savez(file, **arrays, records=records, checksum=_checksum(records))
                os.replace(file.name, cache)
            except BaseException:
                os.unlink(file.name)
                raise


def _checksum(records: str) -> str:
    """Hashes the files of `NAME/CONFIG/VERSION`, their names and order included."""
    total = hashlib.sha256()
    for path in sorted(Path(records).iterdir()):
        with path.open("rb") as file:
            total.update(path.name.encode() + b"\0")
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()
