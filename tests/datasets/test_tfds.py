"""Sets of TFDS are prepared and read without TensorFlow, and problems named early.

The original files of Fashion-MNIST come from a Debian package; everything else is
served on this machine.
"""

import contextlib
import functools
import gzip
import hashlib
import http.server
import io
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from jepbt import datasets
from jepbt.datasets import tfds

PACKAGE = "dataset-fashion-mnist"
MODIFIED = {"train": 1504176606, "t10k": 1504176627}  # in the original gzip headers
# sha256 of the first 500 records of each split, pixels and labels in order, as TFDS's
# own builder wrote them with TensorFlow from the first 2,000 examples of each split.
STOCK_ORDER = {
    "train": "6cd11e2d05bb2891de382fbababd3f8eb17bc31348f00f87d462cfa7ae344798",
    "test": "d19c6d404df124869ce637e192bf8c3d58c2a980deb222241c4fb12dff341c88",
}


@pytest.fixture(scope="session")
def original_files(tmp_path_factory):
    """The four published files: the package's, with name and time put back."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        reason = f"needs apt-get and dpkg-deb, to get {PACKAGE}"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    folder = tmp_path_factory.mktemp("debian")
    run = functools.partial(subprocess.run, cwd=folder, capture_output=True, text=True)
    done = run(["apt-get", "download", "-q", PACKAGE])
    if done.returncode:
        reason = f"apt-get download {PACKAGE} failed: {done.stderr[-500:]}"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    (package,) = folder.glob("*.deb")
    run(["dpkg-deb", "-x", package.name, "root"], check=True)
    originals = tmp_path_factory.mktemp("original")
    for path in (folder / "root/usr/share/datasets/fashion-mnist").glob("*.gz"):
        content = path.read_bytes()
        header = b"\x1f\x8b\x08\x08" + struct.pack(
            "<I", MODIFIED[path.name.partition("-")[0]]
        )
        name = path.name.removesuffix(".gz").encode() + b"\0"
        (originals / path.name).write_bytes(
            header + content[8:10] + name + content[10:]
        )
    return originals


@pytest.fixture(scope="session")
def prepared(original_files, tmp_path_factory):
    """A data_dir with the first 2,000 examples of each split of Fashion-MNIST."""
    folder = tmp_path_factory.mktemp("tfds")
    shutil.copytree(original_files, folder / "downloads" / "manual")
    code = (
        "import sys, tensorflow_datasets as tfds\n"
        "from jepbt.datasets.tfds_builders import BUILDERS\n"
        "config = tfds.download.DownloadConfig(\n"
        "    max_examples_per_split=2_000, force_checksums_validation=True)\n"
        f"BUILDERS['fashion_mnist'](data_dir={str(folder)!r}).download_and_prepare(\n"
        "    file_format='array_record', download_config=config)\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return folder


@contextlib.contextmanager
def served(folder):
    """Serves a folder on this machine and yields its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def write_idx(folder, num_train=120, num_test=30, rows=28):
    """Writes a toy set as MNIST's files are: the image of example i is full of i."""
    for part, count in (("train", num_train), ("t10k", num_test)):
        numbers = np.arange(count, dtype=np.uint8)
        images = np.repeat(numbers, rows * 28).tobytes()
        image_file = struct.pack(">4I", 2051, count, rows, 28) + images
        label_file = struct.pack(">2I", 2049, count) + (numbers % 10).tobytes()
        name = f"{part}-{{}}-idx{{}}-ubyte.gz".format
        (folder / name("images", 3)).write_bytes(gzip.compress(image_file))
        (folder / name("labels", 1)).write_bytes(gzip.compress(label_file))


@pytest.fixture
def toy_mnist(tmp_path, monkeypatch):
    """Makes "mnist" a toy set that is downloaded from this machine."""
    from jepbt.datasets import tfds_builders

    folder = tmp_path / "served"
    folder.mkdir()
    write_idx(folder)
    with served(folder) as address:
        monkeypatch.setattr(tfds_builders.Mnist, "URL", address)
        yield SimpleNamespace(data_dir=tmp_path / "data", folder=folder)


@pytest.fixture
def no_tensorflow(monkeypatch):
    monkeypatch.setattr(tfds, "_has_tensorflow", lambda: False)


def digest(image, label):
    total = hashlib.sha256(np.ascontiguousarray(image[:500], np.uint8).tobytes())
    total.update(np.asarray(label[:500], np.uint8).tobytes())
    return total.hexdigest()


def pairs(images, labels):
    return sorted(
        (image.tobytes(), int(label))
        for image, label in zip(images, labels, strict=True)
    )


def test_the_official_set_is_prepared_without_tensorflow(prepared, original_files):
    """Its checksums match, and its examples are those of the published files."""
    dataset = datasets.load("tfds:fashion_mnist", data_dir=prepared)
    assert repr(dataset).startswith(
        "<Dataset tfds:fashion_mnist: 1,833 train / 167 validation / 2,000 test, "
        "28x28x1 uint8, 10 classes"
    )
    train = [
        np.concatenate([dataset.train[part], dataset.validation[part]])
        for part in ("image", "label")
    ]
    for part, found in {
        "train": train,
        "t10k": (dataset.test["image"], dataset.test["label"]),
    }.items():
        images, labels = (
            gzip.decompress((original_files / f"{part}-{name}-ubyte.gz").read_bytes())
            for name in ("images-idx3", "labels-idx1")
        )
        images = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28)
        labels = np.frombuffer(labels, np.uint8, offset=8)
        assert pairs(*found) == pairs(images[:2_000], labels[:2_000])


def test_records_are_in_the_order_of_tfds_s_own_builder(prepared):
    arrays = tfds.load_arrays("fashion_mnist", prepared)
    for split, expected in STOCK_ORDER.items():
        found = digest(arrays[f"{split}_image"], arrays[f"{split}_label"])
        assert found == expected


def test_tfds_reads_it_by_its_stock_name(prepared):
    import tensorflow_datasets

    source = tensorflow_datasets.data_source(
        "fashion_mnist", split="test", data_dir=prepared, download=False
    )
    arrays = tfds.load_arrays("fashion_mnist", prepared)
    assert len(source) == 2_000
    for index in (0, 7, 1_999):
        np.testing.assert_array_equal(
            source[index]["image"], arrays["test_image"][index]
        )
        assert source[index]["label"] == arrays["test_label"][index]


def test_neither_jepbt_nor_the_embedded_set_imports_tfds():
    code = (
        "import sys, jepbt\n"
        "jepbt.datasets.load('fashion_mnist')\n"
        "print({'tensorflow_datasets', 'tensorflow', 'array_record',\n"
        "    'importlib_resources', 'pyarrow'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_downloads_prepares_and_shows_it(toy_mnist, capsys):
    dataset = datasets.load("tfds:mnist", data_dir=toy_mnist.data_dir, validation=20)
    sizes = [len(s["label"]) for s in (dataset.train, dataset.validation, dataset.test)]
    assert sizes == [100, 20, 30]
    for split in (dataset.train, dataset.validation, dataset.test):
        numbers = split["image"][:, 0, 0, 0]
        np.testing.assert_array_equal(split["label"], numbers % 10)
        assert (split["image"] == numbers[:, None, None, None]).all()
    output = capsys.readouterr()
    assert "Generating train examples" in output.err
    assert not output.out


def test_downloads_nothing_twice(tmp_path, monkeypatch):
    from jepbt.datasets import tfds_builders

    write_idx(tmp_path)
    with served(tmp_path) as address:
        monkeypatch.setattr(tfds_builders.Mnist, "URL", address)
        first = tfds.load_arrays("mnist", tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "mnist")  # and nobody serves it any more
    second = tfds.load_arrays("mnist", tmp_path / "data")
    np.testing.assert_array_equal(first["train_image"], second["train_image"])


def test_cifar10_is_read_from_its_archive(tmp_path, monkeypatch):
    from jepbt.datasets import tfds_builders

    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (60, 3, 32, 32), np.uint8)  # channels first
    labels = np.arange(60, dtype=np.uint8) % 10
    rows = np.concatenate([labels[:, None], images.reshape(60, -1)], axis=1)
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    contents = {
        name: part.tobytes()
        for name, part in zip(names, np.split(rows, 6), strict=True)
    } | {"batches.meta.txt": b"\n".join(b"abcdefghij"[i : i + 1] for i in range(10))}
    with tarfile.open(tmp_path / "cifar.tar.gz", "w:gz") as archive:
        for name, content in contents.items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    stock = tfds_builders.cifar.Cifar10._cifar_info.fget
    with served(tmp_path) as address:
        monkeypatch.setattr(
            tfds_builders.Cifar10,
            "_cifar_info",
            property(lambda self: stock(self)._replace(url=address + "cifar.tar.gz")),
        )
        arrays = tfds.load_arrays("cifar10", tmp_path / "data")
    pixels = images.transpose(0, 2, 3, 1)
    for split, where in (("train", slice(50)), ("test", slice(50, 60))):
        assert pairs(arrays[f"{split}_image"], arrays[f"{split}_label"]) == pairs(
            pixels[where], labels[where]
        )


def test_arrays_are_kept_until_the_file_is_damaged(toy_mnist, monkeypatch):
    first = tfds.load_arrays("mnist", toy_mnist.data_dir)
    reads = []
    read = tfds._read_records
    monkeypatch.setattr(
        tfds, "_read_records", lambda *args: reads.append(args) or read(*args)
    )

    def load_again():
        again = tfds.load_arrays("mnist", toy_mnist.data_dir)
        assert first.keys() == again.keys()
        for key in first:
            np.testing.assert_array_equal(first[key], again[key])

    load_again()
    assert not reads
    (cache,) = toy_mnist.data_dir.rglob(tfds.CACHE)
    content = cache.read_bytes()
    for damaged in (content[:-100], content[:5000] + b"?" + content[5001:], b""):
        cache.write_bytes(damaged)
        load_again()
    assert len(reads) == 3


def test_a_folder_of_others_is_read_without_keeping_anything(toy_mnist, monkeypatch):
    def refuse(*args):
        raise PermissionError

    monkeypatch.setattr(tfds.os, "replace", refuse)
    cache = toy_mnist.data_dir / tfds.CACHE
    toy_mnist.data_dir.mkdir()
    tfds._write_cache(cache, {"a": np.zeros(3)})
    assert not any(toy_mnist.data_dir.iterdir())


def test_another_set_does_once_it_is_prepared(toy_mnist, no_tensorflow):
    """Here Kuzushiji-MNIST, prepared by a builder of this test."""
    from jepbt.datasets import tfds_builders

    with pytest.raises(ValueError, match=r"tfds:kmnist' is not prepared in .*Tensor"):
        datasets.load("tfds:kmnist", data_dir=toy_mnist.data_dir)

    class Kuzushiji(tfds_builders.Mnist, skip_registration=True):
        name = "kmnist"

    builder = Kuzushiji(data_dir=toy_mnist.data_dir)
    builder.download_and_prepare(file_format="array_record")
    dataset = datasets.load("tfds:kmnist[:50%]", data_dir=toy_mnist.data_dir)
    sizes = [len(s["label"]) for s in (dataset.train, dataset.validation, dataset.test)]
    assert sizes == [54, 6, 30]


def test_records_that_take_tensorflow_say_so(toy_mnist, no_tensorflow):
    tfds.load_arrays("mnist", toy_mnist.data_dir)
    next(toy_mnist.data_dir.rglob(tfds.CACHE)).unlink()
    (info,) = toy_mnist.data_dir.rglob("dataset_info.json")
    content = json.loads(info.read_text()) | {"fileFormat": "tfrecord"}
    info.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="as tfrecord, which takes TensorFlow to read"):
        datasets.load("tfds:mnist", data_dir=toy_mnist.data_dir)


@pytest.mark.parametrize("shape", [(None, None, 3), (8, 8, 3)])
def test_sets_of_another_kind_are_refused(shape, tmp_path):
    """Images of many sizes; images without a class."""
    import tensorflow_datasets as tfds

    class Other(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "other_images"
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            label = tfds.features.ClassLabel(num_classes=2)
            features = {"image": tfds.features.Image(shape=shape), "label": label}
            keys = ("image", "label") if None in shape else None
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=keys,
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            from PIL import Image

            for index in range(4):
                image = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
                yield index, {"image": image, "label": index % 2}

    builder = Other(data_dir=tmp_path)
    builder.download_and_prepare(file_format="array_record")
    with pytest.raises(ValueError, match="not made of uint8 images of one size"):
        datasets.load("tfds:other_images", data_dir=tmp_path)


def fake_arrays(num_train, monkeypatch, **others):
    arrays = {
        "num_classes": np.array(10),
        "train_image": np.arange(num_train, dtype=np.float32)[:, None],
        "train_label": np.arange(num_train) % 10,
        "test_image": np.zeros((10_000, 1), np.float32),
        "test_label": np.arange(10_000) % 10,
    }
    monkeypatch.setattr(tfds, "load_arrays", lambda *args: arrays | others)


@pytest.mark.parametrize(
    ("name", "num_train", "sizes"),
    [
        ("mnist", 60_000, (55_000, 5_000)),
        ("mnist:3.0.1", 60_000, (55_000, 5_000)),
        ("fashion_mnist", 60_000, (55_000, 5_000)),
        ("cifar10", 50_000, (45_000, 5_000)),
        ("cifar10[:20%]", 50_000, (9_000, 1_000)),
        ("mnist[600:1800]", 60_000, (1_100, 100)),
        ("cifar100", 50_000, (45_000, 5_000)),
    ],
)
def test_validation_has_the_papers_size(name, num_train, sizes, monkeypatch):
    fake_arrays(num_train, monkeypatch)
    dataset = datasets.load(f"tfds:{name}")
    found = len(dataset.train["label"]), len(dataset.validation["label"])
    assert found == sizes
    assert len(dataset.test["label"]) == 10_000
    counts = np.bincount(dataset.validation["label"], minlength=10)
    np.testing.assert_array_equal(counts, np.full(10, sizes[1] // 10))


def test_a_validation_split_of_its_own_is_used_unless_told(monkeypatch):
    own = {
        "validation_image": np.zeros((30, 1), np.float32),
        "validation_label": np.arange(30) % 10,
    }
    fake_arrays(1_000, monkeypatch, **own)
    assert len(datasets.load("tfds:a").validation["label"]) == 30
    assert len(datasets.load("tfds:a").train["label"]) == 1_000
    assert len(datasets.load("tfds:a", validation=200).validation["label"]) == 200


@pytest.mark.parametrize(
    "text",
    ["[:20%]", "[20%:]", "[33%:67%]", "[-10%:]", "[:-1%]", "[5:17]", "[-7:]"],
)
@pytest.mark.parametrize("num_examples", [150, 50_000, 1_003])
def test_slices_are_tfds_s(text, num_examples):
    from tensorflow_datasets.core import ReadInstruction

    instruction = ReadInstruction.from_spec(f"train{text}")
    info = SimpleNamespace(name="train", num_examples=num_examples)
    (expected,) = instruction.to_absolute({"train": info})
    found = tfds.slice_of(*tfds.parse_name(f"mnist{text}")[1:], num_examples)
    start, stop, _ = slice(expected.from_, expected.to).indices(num_examples)
    assert (found.start, found.stop) == (start, stop)


@pytest.mark.parametrize("text", ["[5:5]", "[20:10]", "[:0%]", "[:101%]", "[-99999:]"])
def test_slices_without_examples_or_beyond_the_end_are_refused(text, monkeypatch):
    fake_arrays(1_000, monkeypatch)
    with pytest.raises(ValueError, match=r"goes from -?\d+ to \d+ of 1000 training"):
        datasets.load(f"tfds:mnist{text}")


@pytest.mark.parametrize(
    "name",
    [
        "cifar10[20%]",
        "cifar10[:20.5%]",
        "cifar10[a:b]",
        "cifar10[:20%",
        "mnist[:9][:5]",
        "mnist[::2]",
        "mnist[:5]+test",
        "",
        " mnist",
    ],
)
def test_malformed_names_are_refused_with_the_form(name):
    with pytest.raises(ValueError, match=r"'tfds:NAME\[FROM:TO\]'"):
        datasets.load(f"tfds:{name}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mnsit", "Dataset mnsit not found.*Did you mean 'tfds:mnist'"),
        ("mnist/nothing", "BuilderConfig nothing not found"),
        ("cifar10:9.9.9", "cannot be loaded at version 9.9.9, only: 3.0.2"),
        ("cifar100", "only mnist, fashion_mnist, cifar10 are prepared without TensorF"),
    ],
)
def test_unknown_sets_are_refused_at_once(name, message, tmp_path, no_tensorflow):
    with pytest.raises(ValueError, match=rf"(?s)tfds:{name}.*{message}"):
        datasets.load(f"tfds:{name}", data_dir=tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("answers", [False, True])
def test_without_a_network_the_error_comes_and_nothing_waits_for_ever(
    answers, tmp_path, monkeypatch
):
    """An address that refuses, and one that takes the call but never says a word."""
    from jepbt.datasets import tfds_builders

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if not answers:
            server.close()
        monkeypatch.setattr(tfds_builders.Mnist, "URL", f"http://127.0.0.1:{port}/")
        start = time.monotonic()
        message = "cannot be reached.*or put train-images-idx3-ubyte.gz, .*manual"
        with pytest.raises(ConnectionError, match=message):
            datasets.load("tfds:mnist", data_dir=tmp_path)
        assert time.monotonic() - start < 60  # it waits 2 s, on an idle machine


def test_a_file_that_is_not_there_is_named(toy_mnist):
    (toy_mnist.folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(OSError, match=r"tfds:mnist.*t10k-labels.*404"):
        datasets.load("tfds:mnist", data_dir=toy_mnist.data_dir)


def test_a_damaged_download_is_refused(tmp_path):
    """Its checksum is TFDS's, for the official file of that name."""
    (tmp_path / "downloads" / "manual").mkdir(parents=True)
    write_idx(tmp_path / "downloads" / "manual")
    with pytest.raises(OSError, match=r"(?s)tfds:mnist.*wrong checksum"):
        datasets.load("tfds:mnist", data_dir=tmp_path)
    assert not (tmp_path / "mnist" / "3.0.1").exists()


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        datasets.load("tfds:mnist", data_dir=tmp_path / "file")
