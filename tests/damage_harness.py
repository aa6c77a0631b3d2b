"""Damages the files of runs in every way it knows, resumes, and looks what comes of it.

    python tests/damage_harness.py --damages 300 --seed 0

The outcome of each damage must be one of: the run ends with the bits of an undamaged
one after a warning (it fell back), or without one (nothing reads what was damaged), or
it is refused with a clear error. Other bits, any other exception, and a change outside
the run's folder are defects.
"""

import argparse
import collections
import contextlib
import functools
import json
import os
import pathlib
import random
import shutil
import sys
import tempfile
import warnings

import numpy as np
import resumable

from jepbt.checkpoints import checkpoint
from jepbt.training import preparation

LIMIT = 8
SETTINGS = {"num_generations": LIMIT, "steps_per_generation": 3}
UNFINISHED = "000004.orbax-checkpoint-tmp"
OUTSIDE = "nothing may write here"


def truncate(path, draw, others):
    os.truncate(path, draw.randrange(path.stat().st_size or 1))


def flip_a_bit(path, draw, others):
    content = bytearray(path.read_bytes())
    if content:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def overwrite_with_noise(path, draw, others):
    content = bytearray(path.read_bytes())
    start = draw.randrange(len(content) or 1)
    size = draw.randrange(1, 65)
    content[start : start + size] = draw.randbytes(size)
    path.write_bytes(content)


def fill_with_zeros(path, draw, others):
    path.write_bytes(bytes(path.stat().st_size))


def append_noise(path, draw, others):
    with open(path, "ab") as file:
        file.write(draw.randbytes(draw.randrange(1, 200)))


def delete(path, draw, others):
    path.unlink()


def replace_by_another(path, draw, others):
    path.write_bytes(draw.choice(others).read_bytes())


def replace_by_a_folder(path, draw, others):
    path.unlink()
    path.mkdir()


def replace_by_a_link(path, draw, others):
    path.unlink()
    path.symlink_to(path_outside(path) / draw.choice(["file", "absent", "."]))


def add_a_stranger(path, draw, others):
    (path.parent / draw.choice(["stranger", ".stranger", "000099", "é"])).write_bytes(
        draw.randbytes(20)
    )


def replace_values(path, draw, others):
    """A JSON file with other values of every type; sums over it are made to match."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        return flip_a_bit(path, draw, others)
    content = _mutate(content, draw)
    if path.name == "manifest.json" and isinstance(content, dict):
        body = {name: content[name] for name in ("facts", "files") if name in content}
        content["sha256"] = checkpoint._hash(body)
    path.write_text(json.dumps(content))


FILE_DAMAGES = [
    truncate,
    flip_a_bit,
    overwrite_with_noise,
    fill_with_zeros,
    append_noise,
    delete,
    replace_by_another,
    replace_by_a_folder,
    replace_by_a_link,
    add_a_stranger,
    replace_values,
]


def delete_the_folder(path, draw):
    shutil.rmtree(path)


def empty_the_folder(path, draw):
    shutil.rmtree(path)
    path.mkdir()


def link_the_folder(path, draw):
    outside = path_outside(path) / "moved"
    if draw.random() < 0.5:
        shutil.move(path, outside)
    else:
        shutil.rmtree(path)
    path.symlink_to(outside)


def rename_the_folder(path, draw):
    names = ["000099", "000001", "999999999", "000005x", "damaged-1", UNFINISHED]
    name = draw.choice(names)
    if not (path.parent / name).exists():
        path.rename(path.parent / name)


def copy_the_folder(path, draw):
    name = draw.choice(["000099", "000000", UNFINISHED, "0000004", "000007"])
    if not (path.parent / name).exists():
        shutil.copytree(path, path.parent / name)


def mix_two_folders(path, draw):
    folders = sorted(p for p in path.parent.iterdir() if p.is_dir() and p != path)
    if folders:
        other = draw.choice(folders)
        for name in ("default", "_CHECKPOINT_METADATA", "manifest.json"):
            if (other / name).exists() and draw.random() < 0.7:
                remove(path / name)
                copy = shutil.copytree if (other / name).is_dir() else shutil.copy
                copy(other / name, path / name)


FOLDER_DAMAGES = [
    delete_the_folder,
    empty_the_folder,
    link_the_folder,
    rename_the_folder,
    copy_the_folder,
    mix_two_folders,
]


def remove(path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path.exists() or path.is_symlink():
        path.unlink()


def path_outside(path):
    while path.name != "run":
        path = path.parent
    return path.parent / "outside"


def _mutate(content, draw):
    strange = [None, True, -1, 10**40, 1e308, "", "../../x", [], {}, [[[[]]]], "999"]
    if isinstance(content, dict) and content and draw.random() < 0.8:
        key = draw.choice(sorted(content))
        if draw.random() < 0.2:
            return {k: v for k, v in content.items() if k != key}
        return {**content, key: _mutate(content[key], draw)}
    if isinstance(content, list) and content and draw.random() < 0.7:
        number = draw.randrange(len(content))
        changed = _mutate(content[number], draw)
        return [*content[:number], changed, *content[number + 1 :]]
    return draw.choice(strange)


def damage(run, draw):
    """Damages one to three things in a run's folder, and says what."""
    done = []
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        # Six in ten go to what is read first: the newest checkpoints.
        root = run / "checkpoints"
        names = sorted(p.name for p in root.iterdir()) if root.is_dir() else []
        newest = [root / name for name in names if name.isdecimal()][-2:]
        within = newest and draw.random() < 0.6
        place = newest[-draw.choice([1, 1, 2]) :][0] if within else run
        paths = [place, *sorted(place.rglob("*"))] if within else sorted(run.iterdir())
        paths += [] if within else sorted((run / "best").glob("*"))
        folders = [p for p in paths if p.is_dir() and not p.is_symlink()]
        files = [p for p in paths if p.is_file() and not p.is_symlink()]
        if folders and draw.random() < 0.25:
            path, kind = draw.choice(folders), draw.choice(FOLDER_DAMAGES)
            kind(path, draw)
        elif files:
            path, kind = draw.choice(files), draw.choice(FILE_DAMAGES)
            kind(path, draw, files)
        else:
            break
        done.append(f"{kind.__name__} {path.relative_to(run)}")
    return "; ".join(done)


def harass(folder, num_damages, seed, say=print):
    """Returns how often each outcome came, and the defects."""
    bases, expected = _make_runs(folder)
    outcomes, defects, kinds = collections.Counter(), [], collections.Counter()
    with _compiled_once():
        for number in range(num_damages):
            draw = random.Random(f"{seed}/{number}")
            place = folder / "damaged"
            remove(place)
            shutil.copytree(draw.choice(bases), place / "run")
            (place / "outside").mkdir()
            (place / "outside" / "file").write_text(OUTSIDE)
            what = damage(place / "run", draw)
            kinds.update(part.split()[0] for part in what.split("; "))
            before = _list(place / "outside")
            try:
                outcome, detail = _resume(place / "run", expected)
            except Exception as error:
                outcome, detail = "defect", f"{type(error).__name__}: {error}"
            if _list(place / "outside") != before:
                outcome, detail = "defect", f"wrote outside: {outcome} {detail}"
            outcomes[outcome] += 1
            if outcome == "defect":
                defects.append(f"{seed}/{number}: {what}: {detail}")
                say(defects[-1], flush=True)
            elif num_damages <= 20:
                say(f"{seed}/{number}: {what}: {outcome}: {detail}", flush=True)
            elif number % 20 == 19:
                say(dict(outcomes), flush=True)
    say(dict(kinds))
    return outcomes, defects


def _resume(run, expected):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        try:
            result = resumable.train(_task(), run_dir=run, resume=True, **SETTINGS)
        except ValueError as error:
            message = str(error)
            is_clear = "run_dir=" in message or "checkpoint" in message
            is_clear = is_clear or "config.json" in message
            return "refused" if is_clear else "defect", message
    said = [str(w.message) for w in caught if w.category is RuntimeWarning]
    _check(result, run, expected, " ".join(said))
    if any("cannot be written to" in message for message in said):
        return "a file could not be written, loudly", said
    if any("starts again" in message for message in said):
        return "started again, loudly", said
    return ("fell back, loudly" if said else "harmless"), said


def _check(result, run, expected, said):
    arrays = resumable.everything(result)
    assert arrays.keys() == expected["arrays"].keys()
    for name, array in expected["arrays"].items():
        same = arrays[name].tolist() == array.tolist()
        same = same or arrays[name].tobytes() == array.tobytes()
        assert same and arrays[name].dtype == array.dtype, f"other bits in {name}"
    for name, content in expected["files"].items():
        # Beside weights that cannot be replaced, what describes them stays too.
        stays = name == "best/member.json" and not (run / "best/weights.npz").is_file()
        if stays:
            continue
        unwritable = not (run / name).is_file()
        if unwritable:
            assert pathlib.Path(name).name in said, f"no {name}, and no word"
        else:
            assert _read_file(run / name) == content, f"another {name}"


def _read_file(path):
    if path.name == "weights.npz":
        with np.load(path) as arrays:
            return {name: array.tobytes() for name, array in arrays.items()}
    if path.name != "history.jsonl":
        return path.read_text()
    history = [json.loads(line) for line in path.read_text().splitlines()]
    for line in history:
        del line["seconds"], line["crc32"]  # the sum is of the seconds too
    return history


def _files(run):
    names = ("history.jsonl", "best/weights.npz", "best/member.json")
    names += ("schedule.json", "loss.py")
    return {name: _read_file(run / name) for name in names}


def _list(folder):
    return {
        path: path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@functools.cache
def _task():
    return resumable.make_task()


def _make_runs(folder):
    """One run that has ended, and one that was stopped with three checkpoints."""
    whole = resumable.train(_task(), run_dir=folder / "ended", **SETTINGS)

    def stop(generation):
        if generation.number == LIMIT - 3:
            raise Stop

    with contextlib.suppress(Stop):
        resumable.train(
            _task(), run_dir=folder / "stopped", callbacks=[stop], **SETTINGS
        )
    expected = {
        "arrays": resumable.everything(whole),
        "files": _files(folder / "ended"),
    }
    return [folder / "ended", folder / "stopped"], expected


class Stop(Exception):
    pass


@contextlib.contextmanager
def _compiled_once():
    """Every run here is the same run: identified and compiled a single time."""
    before = {}
    for name in ("trace_member", "identify", "place_inputs", "compile_each"):
        before[name] = getattr(preparation, name)
        setattr(preparation, name, _remember_first(before[name]))
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(preparation, name, function)


def _remember_first(function):
    known = []

    def remembered(*args):
        if not known:
            known.append(function(*args))
        return known[0]

    return remembered


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--damages", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcomes, defects = harass(pathlib.Path(folder), options.damages, options.seed)
    print(sum(outcomes.values()), "damages:", dict(outcomes))
    return bool(defects)


if __name__ == "__main__":
    sys.exit(main())
