"""What a checkpoint, and what says whose it is, must notice: each cause by itself."""

import dataclasses
import json
import os
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as orbax
import pytest
from resumable import make_task

import jepbt
from jepbt.checkpoints import RunFolder, checkpoint, differences, identify, resume
from jepbt.checkpoints import folder as run_directory
from jepbt.config import Config
from jepbt.engine import Best, RunState, make_mesh
from jepbt.engine.member import trace_member
from jepbt.population import Member
from jepbt.strategies import pbt


def write(root, generation, facts, content=b"arrays"):
    """What orbax leaves when it calls for the manifest, and renames after that."""
    folder = root / f"{generation:06d}.orbax-checkpoint-tmp"
    (folder / "default" / "d").mkdir(parents=True)
    (folder / "default" / "_METADATA").write_text("{}")
    (folder / "default" / "d" / "0123").write_bytes(content)
    (folder / "_CHECKPOINT_METADATA").write_text("{}")
    checkpoint.seal(root, generation, facts)
    return folder.rename(root / f"{generation:06d}")


@pytest.fixture
def root(tmp_path):
    for number in (3, 4):
        write(tmp_path / "checkpoints", number, {"seed": 0})
    return tmp_path / "checkpoints"


def change(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def array_file(path):
    return path / "default" / "d" / "0123"


def link_inside(path):
    array_file(path).rename(path.parent / "arrays")
    array_file(path).symlink_to(path.parent / "arrays")


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


def change_a_fact(path):
    text = (path / "manifest.json").read_text()
    (path / "manifest.json").write_text(text.replace('"seed": 0', '"seed": 1'))


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda path: change(array_file(path)), "default/d/0123 changed"),
        (lambda path: os.truncate(array_file(path), 1), "default/d/0123 changed"),
        (lambda path: array_file(path).unlink(), "default/d/0123 missing"),
        (lambda path: (path / "more").write_text("x"), "more is foreign"),
        (lambda path: (path / "manifest.json").unlink(), "cannot be read"),
        (rewrite_the_manifest, "its manifest has changed"),
        (change_a_fact, "its manifest has changed"),
        (take_anothers_place, "another generation"),
        (link_inside, r"0123 is a link"),
        (link_itself, "it is not a folder"),
    ],
)
def test_nothing_but_what_was_written_is_whole(root, harm, reason):
    path = root / "000004"
    assert checkpoint.verify(path) == {"seed": 0, "generation": 4}
    harm(path)
    with pytest.raises(checkpoint.Damaged, match=reason):
        checkpoint.verify(path)


def test_what_a_killed_process_left_is_removed_and_nothing_else(root):
    for name in ("000005.orbax-checkpoint-tmp", "000001.orbax-checkpoint-tmp-17"):
        (root / name).mkdir()
    (root / "mine").mkdir()
    (root / "mine.orbax-checkpoint-tmp").mkdir()
    resume.open_folder(Config(run_dir=root.parent, resume=True)).release()
    assert sorted(path.name for path in root.iterdir()) == [
        "000003",
        "000004",
        "mine",
        "mine.orbax-checkpoint-tmp",
    ]


def test_only_the_newest_stay_and_nothing_that_a_link_leads_to_goes(root):
    write(root, 2, {})
    (root / "outside").mkdir()
    (root / "000001").symlink_to(root / "outside")
    (root / "000000").write_text("a file")
    RunFolder(root.parent, None).remove_oldest(2)
    names = ["000003", "000004", "outside"]
    assert sorted(path.name for path in root.iterdir()) == names
    (root / "000009").symlink_to(root / "outside")
    RunFolder(root.parent, None).remove_oldest(3)
    assert sorted(path.name for path in root.iterdir()) == names


def manager_of(root, at_end=lambda: None):
    options = orbax.CheckpointManagerOptions(
        max_to_keep=1,
        step_format_fixed_length=6,
        async_options=orbax.AsyncOptions(post_finalization_callback=at_end),
    )
    return orbax.CheckpointManager(root, options=options)


def save(manager, number, arrays):
    manager.save(number, args=orbax.args.StandardSave(arrays), force=True)
    manager.wait_until_finished()


def programs_like(state, mesh):
    """A stand-in for compiled programs: all that restoring asks them for."""
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    info = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    places = jax.tree.map(lambda _: place, state)
    return SimpleNamespace(init=SimpleNamespace(out_info=info, output_shardings=places))


@pytest.mark.devices(4)
def test_arrays_of_all_sizes_types_and_names_come_back(tmp_path):
    odd = np.array([-0.0, 0.0, np.nan], np.float32)
    odd.view(np.uint32)[2] = 0x7FC00123
    member = Member(
        state={
            "": jnp.array([1.5, -0.0], jnp.bfloat16),
            "..": jnp.array(True),
            "a/b": jnp.zeros((0, 3)),
            "a b": jnp.array(odd),
            "é": jnp.full((3, 2), -0.0),
            "key": jax.random.split(jax.random.key(1), 3),
            "large": jax.random.normal(jax.random.key(2), (2, 2**18)),
        },
        hparams=(),
        fitness=jnp.float32(0.5),
    )
    best = Best(member, jnp.float32(0.1), jnp.int32(2), jnp.int32(3))
    state = RunState(member, (), best, ())
    with manager_of(tmp_path) as manager:
        save(manager, 0, checkpoint.pack(state, best))
        for devices in (jax.devices()[:1], jax.devices()[2:4]):
            programs = programs_like(state, make_mesh(devices))
            found = checkpoint.restore(manager, 0, programs)
            assert jax.tree.structure(found) == jax.tree.structure((state, best))
            for leaf, other in zip(
                jax.tree.leaves((state, best)), jax.tree.leaves(found), strict=True
            ):
                assert leaf.dtype == other.dtype and leaf.shape == other.shape
                assert other.devices() == set(devices)
                if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                    leaf, other = map(jax.random.key_data, (leaf, other))
                assert np.asarray(leaf).tobytes() == np.asarray(other).tobytes()


def test_a_checkpoint_of_another_state_is_refused(tmp_path):
    member = Member({"x": jnp.ones(2)}, (), jnp.float32(0.5))
    best = Best(member, jnp.float32(0.1), jnp.int32(2), jnp.int32(3))
    state = RunState(member, (), best, ())
    with manager_of(tmp_path) as manager:
        save(manager, 0, checkpoint.pack(state, best))
        for other in ({"y": jnp.ones(2)}, {}):
            programs = programs_like(
                dataclasses.replace(
                    state, population=dataclasses.replace(member, state=other)
                ),
                make_mesh(jax.devices()[:1]),
            )
            with pytest.raises(ValueError):
                checkpoint.restore(manager, 0, programs)


def test_the_manifest_is_there_before_the_checkpoint_has_its_name(tmp_path):
    """Until then no older one is removed: a checkpoint is whole, or is not there."""
    seen = []

    def look():
        seen.append(sorted(path.name for path in tmp_path.iterdir()))

    with manager_of(tmp_path, look) as manager:
        for number in (3, 4):
            save(manager, number, {"x": jnp.ones(2)})
    (alone,), (older, unfinished) = seen
    assert alone.startswith("000003.orbax-checkpoint-tmp") and older == "000003"
    assert unfinished.startswith("000004.orbax-checkpoint-tmp")
    assert [path.name for path in tmp_path.iterdir()] == ["000004"]


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
    assert not folder.lock.is_locked


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


@pytest.mark.devices("cpu")
def test_a_copy_has_memory_of_its_own():
    """Programs overwrite what they are given, while orbax may still be reading it."""
    memory = np.zeros(64 * 65, np.uint8)
    start = -memory.ctypes.data % 64  # as aligned as JAX needs it, to share it
    array = memory[start : start + 4096].view(np.float32)
    place = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])
    shared = jax.make_array_from_callback(array.shape, place, lambda i: array[i])
    copied = checkpoint.copy({"x": shared})["x"]
    again = checkpoint.copy({"x": copied})["x"]
    places = [x.unsafe_buffer_pointer() for x in (copied, again)]
    assert len({array.ctypes.data, *places}) == 3


def test_a_folder_is_used_unlocked_where_the_package_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(run_directory, "filelock", None)
    with pytest.warns(RuntimeWarning, match="without the package filelock"):
        assert run_directory.lock(tmp_path) is None
    assert not run_directory.is_in_use(tmp_path)
