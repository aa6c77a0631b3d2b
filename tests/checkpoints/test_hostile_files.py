"""Whatever a run's folder holds: it is read as it was written, or clearly refused."""

import json
import math
import pathlib
import tempfile

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jepbt.checkpoints import RunFolder, checkpoint
from jepbt.checkpoints import folder as run_directory
from jepbt.results import Generation, load_history, recorded, to_json

settings.register_profile("files", deadline=None, derandomize=True, max_examples=100)
settings.load_profile("files")


FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=False)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["", "nan", "../../etc", "é", "\x00", "generation"])
    | st.just(10**400),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["", "kind", "identity", "a"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@st.composite
def generations(draw):
    size = draw(st.integers(1, 4))

    def column(values):
        return np.array(draw(st.lists(values, min_size=size, max_size=size)))

    return [
        Generation(
            number,
            column(FLOATS).astype(np.float32),
            column(FLOATS).astype(np.float32),
            column(st.integers(0, size - 1)).astype(np.int32),
            {
                "rate": column(FLOATS).astype(np.float32),
                "width": column(st.integers(-(2**31), 2**31 - 1)).astype(np.int32),
                "flag": column(st.booleans()),
                "name": column(st.sampled_from(["relu", "1", "ü"])).astype(object),
            },
            {"loss": column(FLOATS).astype(np.float32)},
            {"elites": column(st.booleans())} if number else {},
            {"train": draw(st.floats(0, 1e6))},
        )
        for number in range(draw(st.integers(1, 3)))
    ]


@pytest.fixture(scope="module", autouse=True)
def temporary_folders(tmp_path_factory):
    """Where pytest clears up: examples make hundreds of folders."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("hostile")
        patch.setattr(tempfile, "tempdir", str(folder))
        yield


def write(text, name="history.jsonl"):
    folder = pathlib.Path(tempfile.mkdtemp())
    (folder / name).write_text(text, encoding="utf-8", errors="surrogatepass")
    return folder


@given(generations())
def test_a_history_comes_back_bit_for_bit(written):
    folder = write("".join(to_json(generation) + "\n" for generation in written))
    for before, after in zip(written, load_history(folder).generations, strict=True):
        columns = [
            {"fitness": g.fitness, "error": g.standard_error, "parents": g.parents}
            | {**g.hparams, **g.metrics, **g.info}
            for g in (before, after)
        ]
        assert columns[0].keys() == columns[1].keys()
        for name, value in columns[0].items():
            other = columns[1][name]
            assert value.dtype == other.dtype, name
            if value.dtype == object:
                assert value.tolist() == other.tolist(), name
            else:
                np.testing.assert_array_equal(value, other)
                zeros = value == 0
                np.testing.assert_array_equal(
                    np.signbit(value[zeros]), np.signbit(other[zeros])
                )


@given(generations(), st.data())
def test_a_damaged_history_is_refused_or_reads_as_a_whole_one(written, data):
    """Without the sums that lines end with, which tell of any change."""
    lines = [json.loads(to_json(generation)) for generation in written]
    for line in lines:
        del line["crc32"]
    line = data.draw(st.sampled_from(lines))
    name = data.draw(st.sampled_from(sorted(line)))
    kind = data.draw(st.sampled_from(["replace", "remove", "inside", "cut", "byte"]))
    if kind == "replace":
        line[name] = data.draw(JSON)
    elif kind == "remove":
        del line[name]
    elif kind == "inside" and isinstance(line[name], list):
        line[name][0] = data.draw(JSON)
    elif kind == "inside" and isinstance(line[name], dict) and line[name]:
        line[name][data.draw(st.sampled_from(sorted(line[name])))] = data.draw(JSON)
    text = "".join(json.dumps(line) + "\n" for line in lines).encode()
    if kind == "cut":
        text = text[: data.draw(st.integers(0, len(text)))]
    if kind == "byte":
        place = data.draw(st.integers(0, len(text) - 1))
        text = text[:place] + data.draw(st.binary(min_size=1)) + text[place + 1 :]
    folder = write("")
    (folder / "history.jsonl").write_bytes(text)
    try:
        history = load_history(folder)
    except ValueError as error:
        assert "history.jsonl" in str(error)
        return
    shape = history.fitness.shape
    assert history.parents.shape == history.standard_error.shape == shape
    assert ((history.parents >= 0) & (history.parents < shape[1])).all()
    assert all(column.shape[:2] == shape for column in history.hparams.values())
    assert all(
        math.isfinite(s) for g in history.generations for s in g.seconds.values()
    )


@given(JSON | st.dictionaries(st.sampled_from(["hparams", "loop", "config"]), JSON))
def test_a_report_reads_or_refuses_any_config(content):
    folder = write(json.dumps(content), "config.json")
    scores = np.float32([0.5])
    line = to_json(Generation(0, scores, scores, np.arange(1), {}, {}, {}, {}))
    (folder / "history.jsonl").write_text(line + "\n")
    try:
        assert len(recorded.read(folder).history) == 1
    except ValueError as error:
        assert "config.json" in str(error)


@given(generations(), st.data())
def test_a_byte_that_changes_in_a_history_never_becomes_another_result(written, data):
    text = "".join(to_json(generation) + "\n" for generation in written).encode()
    place = data.draw(st.integers(0, len(text) - 1))
    # A digit for a digit most of all: what still reads as JSON.
    other = data.draw(st.sampled_from(b"0123456789") | st.integers(0, 255))
    assume(other != text[place])
    folder = write("")
    changed = text[:place] + bytes([other]) + text[place + 1 :]
    (folder / "history.jsonl").write_bytes(changed)
    try:
        found = load_history(folder).generations
    except ValueError as error:
        assert "history.jsonl" in str(error)
        return
    # The line's end, or the sum's own name: then the numbers are those written.
    lines = [to_json(generation) for generation in found]
    assert lines == [to_json(generation) for generation in written[: len(found)]]


@given(JSON | st.fixed_dictionaries({"identity": JSON}))
@pytest.mark.filterwarnings("ignore:.*starts again:RuntimeWarning")
def test_a_run_continues_or_refuses_any_config(content):
    from jepbt import Config

    folder = RunFolder(write(json.dumps(content), "config.json"), None)
    identity = {"settings": {"seed": 0}, "versions": {}}
    with pytest.raises(ValueError, match=r"run_dir=|config\.json"):
        folder.check(identity, Config())


@given(JSON, st.sampled_from(["all", "facts", "files"]), st.booleans())
def test_a_checkpoint_of_any_content_is_whole_or_damaged(content, part, is_forged):
    from jepbt import Config

    run = pathlib.Path(tempfile.mkdtemp())
    path = run / "checkpoints" / "000004"
    path.mkdir(parents=True)
    (path / "arrays").write_bytes(b"abc")
    checkpoint.seal(path.parent, 4, {"identity": {}})
    stored = json.loads((path / "manifest.json").read_text())
    if part == "all":
        stored = content
    else:
        stored[part] = content
    if is_forged and isinstance(stored, dict):
        body = {name: stored[name] for name in ("facts", "files") if name in stored}
        stored["sha256"] = checkpoint._hash(body)
    (path / "manifest.json").write_text(json.dumps(stored))
    try:
        facts = checkpoint.verify(path)
    except checkpoint.Damaged:
        return
    folder = RunFolder(run, None, facts)
    assert folder.known_chunk(4) == 0
    with pytest.raises(ValueError, match="run_dir="):
        folder.check({"settings": {}, "versions": {}}, Config())


@given(generations(), st.data())
def test_a_history_is_cut_to_what_was_written_or_refused(written, data):
    text = "".join(to_json(generation) + "\n" for generation in written).encode()
    count = data.draw(st.integers(1, len(written)))
    place = data.draw(st.integers(0, len(text)))
    kind = data.draw(st.sampled_from(["byte", "cut", "none"]))
    harmed = text
    if kind == "byte":
        harmed = text[:place] + data.draw(st.binary(min_size=1)) + text[place + 1 :]
    elif kind == "cut":
        harmed = text[:place]
    folder = write("")
    (folder / "history.jsonl").write_bytes(harmed)
    try:
        found = run_directory.read_history(folder, count, {}, cut=True)
    except ValueError as error:
        assert "history.jsonl does not hold" in str(error)
        assert (folder / "history.jsonl").read_bytes() == harmed
        assert harmed != text
        return
    assert [to_json(g) for g in found] == [to_json(g) for g in written[:count]]
    assert len((folder / "history.jsonl").read_bytes().splitlines()) == count
    assert len(list(folder.iterdir())) == 1


@given(st.text(max_size=20))
def test_names_that_are_no_checkpoints_are_no_checkpoints(name):
    root = pathlib.Path(tempfile.mkdtemp())
    try:
        (root / name).mkdir()
    except (OSError, ValueError):
        return
    for path in checkpoint.list_all(root):
        assert path.parent == root and path.name == f"{int(path.name):06d}"


def test_a_file_is_replaced_where_it_lies_and_not_where_a_link_leads(tmp_path):
    (tmp_path / "outside").write_text("mine")
    (tmp_path / ".file").symlink_to(tmp_path / "outside")
    (tmp_path / "file").symlink_to(tmp_path / "outside")
    run_directory.replace(tmp_path / "file", b"new")
    assert (tmp_path / "outside").read_text() == "mine"
    assert (tmp_path / "file").read_text() == "new"
    assert not (tmp_path / "file").is_symlink()
