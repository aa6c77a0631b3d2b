"""What a checkpoint, and what says whose it is, must notice: each cause by itself."""

import dataclasses
import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from resumable import make_task

import jepbt
from jepbt.checkpoints import RunFolder, checkpoint, differences, identify, resume
from jepbt.checkpoints import folder as run_directory
from jepbt.config import Config
from jepbt.engine.member import trace_member
from jepbt.strategies import pbt


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("checkpoints")
    arrays = {"x": np.arange(3.0), "none": np.zeros((0, 2), np.int8)}
    for number in (3, 4):
        checkpoint.write(root, number, {"seed": 0}, arrays, 2)
    return root


@pytest.fixture
def root(written, tmp_path):
    return shutil.copytree(written, tmp_path / "checkpoints")


def change(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def array_file(path):
    files = [p for p in (path / "arrays").rglob("*") if p.is_file()]
    return max(files, key=lambda p: p.stat().st_size)


def link_inside(path):
    (path / "facts.json").rename(path.parent / "facts")
    (path / "facts.json").symlink_to(path.parent / "facts")


def link_itself(path):
    path.rename(path.parent / "moved")
    path.symlink_to(path.parent / "moved")


def take_anothers_place(path):
    shutil.rmtree(path)
    shutil.copytree(path.parent / "000003", path)


def rewrite_the_manifest(path):
    """As an honest mistake would: the body agrees with the files, its hash does not."""
    change(array_file(path))
    stored = json.loads((path / "manifest.json").read_text())
    stored["files"] = checkpoint._describe_files(path)
    (path / "manifest.json").write_text(json.dumps(stored))


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda path: change(array_file(path)), "arrays/.* changed"),
        (lambda path: os.truncate(array_file(path), 1), "arrays/.* changed"),
        (lambda path: array_file(path).unlink(), "arrays/.* missing"),
        (lambda path: change(path / "facts.json"), r"facts\.json changed"),
        (lambda path: (path / "facts.json").unlink(), r"facts\.json missing"),
        (lambda path: (path / "more").write_text("x"), "more is foreign"),
        (lambda path: (path / "manifest.json").unlink(), "cannot be read"),
        (rewrite_the_manifest, "its manifest has changed"),
        (take_anothers_place, "another generation's"),
        (link_inside, r"facts\.json is a link"),
        (link_itself, "it is no folder"),
    ],
)
def test_nothing_but_what_was_written_is_whole(root, harm, reason):
    path = root / "000004"
    checkpoint.verify(path)
    harm(path)
    with pytest.raises(checkpoint.Damaged, match=reason):
        checkpoint.verify(path)


def test_more_or_fewer_bytes_than_the_facts_tell_of_are_refused(root):
    path = root / "000004"
    facts = checkpoint.verify(path)
    for key, kind, shape in (("x", "int16", [3]), ("x", "float64", [4])):
        wrong = {**facts, "arrays": [[key, kind, shape]]}
        with pytest.raises(checkpoint.Damaged, match="its arrays are others"):
            checkpoint.read(path, wrong)


def test_arrays_of_all_sizes_and_types_come_back(tmp_path):
    large = np.random.default_rng(0).normal(size=(2, 2**18)).astype(np.float32)
    arrays = {
        "flag": np.array(True),
        "large": large,
        "half": np.array([1.5, -0.0], jnp.bfloat16),
        "none": np.zeros((0, 3), np.float64),
        "column": np.arange(12, dtype=np.int16).reshape(3, 4).T,
    }
    checkpoint.write(tmp_path, 0, {}, arrays, 1)
    found = checkpoint.read(tmp_path / "000000", checkpoint.verify(tmp_path / "000000"))
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes(), name
    for kind, shape in (("int32", [2, 2**18]), ("float32", [2**19])):
        wrong = {"arrays": [["large", kind, shape]]}
        with pytest.raises(checkpoint.Damaged, match="its arrays are others"):
            checkpoint.read(tmp_path / "000000", wrong)


def test_none_is_removed_before_the_new_one_is_whole(root, monkeypatch):
    def fail(folder):
        names = sorted(path.name for path in root.iterdir())
        assert names == [".saving-000005", "000003", "000004"]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_write_manifest", fail)
    with pytest.raises(OSError, match="No space"):
        checkpoint.write(root, 5, {}, {"x": np.ones(2)}, 2)
    assert sorted(path.name for path in root.iterdir()) == ["000003", "000004"]


def test_what_a_killed_process_left_is_removed_and_nothing_else(root):
    for name in (".saving-000005", ".removing-000001", ".removing-saving-000005"):
        (root / name).mkdir()
    (root / "mine").mkdir()
    resume.open_folder(Config(run_dir=root.parent, resume=True)).lock.close()
    assert sorted(path.name for path in root.iterdir()) == ["000003", "000004", "mine"]


@pytest.mark.parametrize(
    ("stored", "known"),
    [(2, 2), (8, 8), (3, 0), (16, 0), (0, 0), (-2, 0), (True, 0), ("2", 0), (None, 0)],
)
def test_a_chunk_size_is_used_again_only_if_it_fits(tmp_path, stored, known):
    folder = RunFolder(tmp_path, None, facts={"chunk_size": stored})
    assert folder.known_chunk(8) == known


def test_a_folder_that_was_refused_is_free_again(tmp_path):
    (tmp_path / "checkpoints" / "000001").mkdir(parents=True)
    for _ in range(2):
        with pytest.raises(ValueError, match="no checkpoint is whole"):
            resume.open_folder(Config(run_dir=tmp_path, resume=True))


def test_a_run_that_fails_before_it_starts_lets_go_of_its_folder(tmp_path):
    folder = RunFolder(tmp_path, run_directory.lock(tmp_path))
    with pytest.raises(MemoryError), resume.released_on_error(folder):
        raise MemoryError
    assert folder.lock.closed


def test_a_run_that_starts_again_is_compared_with_the_settings_file(tmp_path):
    identity = {"settings": {"seed": 0}, "versions": {}}
    run_directory.write_config(tmp_path, {"identity": identity})
    folder, other = RunFolder(tmp_path, None), {**identity, "settings": {"seed": 1}}
    with (
        pytest.warns(RuntimeWarning, match="starts again"),
        pytest.raises(ValueError, match="seed was 0 and is 1"),
    ):
        folder.check(other, Config())


def test_a_file_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    def fail(self, target):
        raise OSError(28, "No space left on device")

    run_directory.replace(tmp_path / "test.json", b"before")
    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="No space"):
        run_directory.replace(tmp_path / "test.json", b"after")
    assert [path.name for path in tmp_path.iterdir()] == ["test.json"]
    assert (tmp_path / "test.json").read_bytes() == b"before"


def describe(task, initial=None):
    config = Config(population_size=4, num_generations=2, steps_per_generation=2)
    config = dataclasses.replace(config, batch_size=8)
    member = trace_member(task, pbt(), config)
    return identify(task, config, member, "cpu", initial)


def with_split(task, name):
    rows = getattr(task.data, name)
    other = jax.tree.map(np.array, rows)
    jax.tree.leaves(other)[0].flat[7] += 1e-3
    return dataclasses.replace(task, data=task.data._replace(**{name: other}))


def test_each_part_of_a_run_tells_it_from_others():
    task = make_task()
    before = describe(task, initial=np.zeros(4))
    assert differences(before, describe(make_task(), initial=np.zeros(4))) == []

    def evaluate(*args):
        return 2 * task.evaluate(*args)

    for other, said in (
        (with_split(task, "validation"), "the validation data are others"),
        (with_split(task, "test"), "the test data are others"),
        (dataclasses.replace(task, shared=np.ones(2)), "the shared data are others"),
        (dataclasses.replace(task, evaluate=evaluate), "differs: how members are"),
    ):
        assert said in "; ".join(differences(before, describe(other, np.zeros(4))))
    for shape in ((2, 2), (4, 1)):  # of the same bytes
        other = describe(task, initial=np.zeros(shape))
        assert differences(before, other) == ["initial holds other values"]


def test_another_version_is_named_and_refuses_nothing_by_itself():
    before = {"settings": {"seed": 0}, "versions": {"jax": "0.7.2"}}
    now = {**before, "versions": {"jax": "0.8.0"}}
    assert differences(before, now) == []
    found = differences(before, {**now, "settings": {"seed": 1}})
    assert found == ["seed was 0 and is 1", "jax was 0.7.2 and is 0.8.0"]


def test_a_single_number_that_a_model_closes_over_makes_another_program():
    @dataclasses.dataclass
    class Rate(jepbt.HyperParameters):
        rate: float = jepbt.hparam(0.1, min=0.01, max=1.0)

    def task(table):
        return jepbt.Task(
            hparams=Rate,
            init=lambda key, h: jnp.zeros(10_000),
            train_step=lambda key, state, h, batch, shared: (
                state + h.rate * table,
                {"loss": h.rate},
            ),
            evaluate=lambda key, state, h, batch, shared: state[:1],
        )

    table = np.random.default_rng(0).normal(size=10_000).astype(np.float32)
    other = table.copy()
    other[5_000] = np.nextafter(other[5_000], np.float32(9))
    before = describe(task(table))
    assert differences(before, describe(task(table.copy()))) == []
    assert "the model" in differences(before, describe(task(other)))[0]
    assert "the model" in differences(before, describe(task(jnp.asarray(other))))[0]


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (None, "x is missing"),
        (np.zeros(3, np.float32), "x is float32.3., not float32.2."),
        (np.zeros(2, np.int32), "x is int32"),
    ],
)
def test_arrays_that_do_not_fit_the_program_are_named(array, said):
    with pytest.raises(ValueError, match=said):
        checkpoint._check("x", array, (2,), np.dtype(np.float32))


def test_a_restored_array_has_memory_of_its_own():
    """Programs take over what they are given: JAX could not, of memory it shares."""
    memory = np.zeros(64 * 65, np.uint8)
    start = -memory.ctypes.data % 64  # as aligned as JAX needs it, to share it
    array = memory[start : start + 4096].view(np.float32)
    place = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])
    restored = checkpoint._to_device(array, place)
    assert restored.unsafe_buffer_pointer() != array.ctypes.data
