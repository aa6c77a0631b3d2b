"""Prepares MNIST, Fashion-MNIST and CIFAR-10 for TFDS without TensorFlow.

TFDS's own builders of these sets need TensorFlow only to unpack, read and encode
images. The builders here have the same names, versions, addresses, checksums and keys,
and so the same order of records: TFDS reads their records by the stock names.
"""

import gzip
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tensorflow_datasets.image_classification import cifar, mnist

IDX_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}


class Mnist(mnist.MNIST, skip_registration=True):
    """MNIST, and other sets that are published at a `URL` in the same format."""

    name = "mnist"

    @property
    def urls(self) -> list[str]:
        """The addresses of the files to download."""
        return [self.URL + name for pair in IDX_FILES.values() for name in pair]

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        paths = dict(zip(self.urls, dl_manager.download(self.urls), strict=True))
        return {
            split: self._generate_examples(*(paths[self.URL + name] for name in pair))
            for split, pair in IDX_FILES.items()
        }

    def _generate_examples(self, image_path: Path, label_path: Path) -> Iterator:
        images = _read_idx(image_path, header_size=16).reshape(-1, 28, 28)
        labels = _read_idx(label_path, header_size=8)
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield index, {"image": Image.fromarray(image), "label": int(label)}


class FashionMnist(Mnist, mnist.FashionMNIST, skip_registration=True):
    """Fashion-MNIST."""

    name = "fashion_mnist"
    URL = mnist.FashionMNIST.URL
    _info = mnist.FashionMNIST._info


class Cifar10(cifar.Cifar10, skip_registration=True):
    """CIFAR-10."""

    name = "cifar10"

    @property
    def urls(self) -> list[str]:
        """The addresses of the files to download."""
        return [self._cifar_info.url]

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        source = self._cifar_info
        (path,) = dl_manager.download(self.urls)
        with tarfile.open(path) as archive:
            files = {
                name: archive.extractfile(source.prefix + name).read()
                for name in [*source.label_files, *source.train_files, "test_batch.bin"]
            }
        names = files["batches.meta.txt"].decode().split()
        self.info.features["label"].names = names
        train = b"".join(files[name] for name in source.train_files)
        return {
            "train": self._generate_examples("train_", train),
            "test": self._generate_examples("test_", files["test_batch.bin"]),
        }

    def _generate_examples(self, prefix: str, content: bytes) -> Iterator:
        rows = np.frombuffer(content, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
        images = np.moveaxis(rows[:, 1:].reshape(-1, 3, 32, 32), 1, -1)
        for index, (image, label) in enumerate(zip(images, rows[:, 0], strict=True)):
            image = Image.fromarray(np.ascontiguousarray(image))
            name = f"{prefix}{index:05d}"
            yield index, {"id": name, "image": image, "label": int(label)}


BUILDERS = {builder.name: builder for builder in (Mnist, FashionMnist, Cifar10)}


def _read_idx(path: Path, header_size: int) -> np.ndarray:
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), np.uint8, offset=header_size)
