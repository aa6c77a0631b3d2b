"""Kills runs at random moments until they have finished anyway, and compares the bits.

    python tests/kill_harness.py --kills 100 --seed 0

Every run is killed (SIGKILL) a few times: at moments spread evenly over the processor
time that a whole run takes, its start included, and every fourth time while a
checkpoint is being written. Each time it is resumed in its folder. In the end every
array of its result and every file that it leaves must equal those of a run that nobody
has disturbed.
"""

import argparse
import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import random
import signal
import sys
import tempfile
import time
import traceback

import numpy as np
import resumable

UNFINISHED = ".orbax-checkpoint-tmp"
SETTINGS = {"num_generations": 30, "steps_per_generation": 10, "checkpoint_every": 1}


@dataclasses.dataclass
class Counts:
    """What happened.

    Attributes:
        kills: all of them, by what was going on at the time.
        runs: that were killed, resumed and compared.
        lost: generations that had to be trained again after a kill.
        defects: runs that failed or ended with other bits.
    """

    kills: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    runs: int = 0
    lost: list = dataclasses.field(default_factory=list)
    defects: list = dataclasses.field(default_factory=list)

    def __str__(self):
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.kills.items())
        return (
            f"{self.kills.total()} kills ({kinds}) in {self.runs} runs; generations "
            f"trained again after a kill: {sum(self.lost) / max(len(self.lost), 1):.2f}"
            f" on average, {max(self.lost, default=0)} at most; "
            f"{len(self.defects)} defects"
        )


def harass(folder, num_kills, seed, settings=SETTINGS, say=print):
    """Kills and resumes runs in a folder until there were enough kills."""
    draw = random.Random(seed)
    _wait(_start(folder / "whole", settings), folder / "whole")  # fills caches
    duration = _wait(_start(folder / "again", settings), folder / "again")
    expected = outcome(folder / "whole", settings)
    counts = Counts()
    while counts.kills.total() < num_kills:
        run = folder / f"run{counts.runs}"
        for _ in range(draw.choice([1, 2, 3, 4])):
            number = counts.kills.total()
            if number % 4 == 3:
                moment = draw.randrange(settings["num_generations"])
                is_killed = _kill_while_writing(run, settings, moment, draw)
            else:
                is_killed = _kill_after(run, settings, draw.uniform(0, duration))
            if not is_killed:
                break
            counts.kills[_describe(run)] += 1
            counts.lost.append(_count_lost(run))
        counts.runs += 1
        try:
            _wait(_start(run, settings), run)
            _compare(outcome(run, settings), expected)
        except Exception:
            counts.defects.append(f"{run}: {traceback.format_exc()}")
        say(counts, flush=True)
    return counts


def outcome(run, settings):
    """All that a finished run leaves: arrays by name, and the files for others."""
    with np.load(run.with_suffix(".npz")) as arrays:
        found = dict(arrays)
    found |= {
        f"history/{number}/{key}": np.array(json.dumps(value))
        for number, line in enumerate((run / "history.jsonl").open())
        for key, value in json.loads(line).items()
        if key not in ("seconds", "crc32")
    }
    with np.load(run / "best" / "weights.npz") as arrays:
        found |= {f"best/{name}": array for name, array in arrays.items()}
    for name in ("best/member.json", "schedule.json", "loss.py"):
        found[name] = np.array((run / name).read_text())
    checkpoints = sorted(path.name for path in (run / "checkpoints").iterdir())
    last = settings["num_generations"]
    assert checkpoints == [f"{n:06d}" for n in range(last - 3, last)], checkpoints
    return found


def _compare(found, expected):
    assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        assert found[name].tobytes() == array.tobytes(), name


def _start(run, settings):
    """Forks before JAX has started anything: imports are shared, nothing else is."""
    number = os.fork()
    if number:
        return number
    code = 1
    try:
        with open(run.with_suffix(".log"), "ab", 0) as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        result = resumable.train(run_dir=run, resume=True, **settings)
        arrays = {
            name.replace("/", "|"): value.astype(str)
            if value.dtype == object
            else value
            for name, value in resumable.everything(result).items()
        }
        np.savez(run.with_suffix(".npz"), **arrays)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(number, run):
    _, status, usage = os.wait4(number, 0)
    log = run.with_suffix(".log").read_text()
    assert status == 0, f"status {status}: {log[-3000:]}"
    return usage.ru_utime + usage.ru_stime


def _has_ended(number):
    return os.waitpid(number, os.WNOHANG) != (0, 0)


def _kill(number):
    os.kill(number, signal.SIGKILL)
    _, status = os.waitpid(number, 0)
    return os.WIFSIGNALED(status)


def _kill_after(run, settings, seconds):
    number = _start(run, settings)
    while _processor_seconds(number) < seconds:
        if _has_ended(number):
            return False
        time.sleep(0.003)
    return _kill(number)


def _processor_seconds(number):
    """Of all threads: a moment that does not hang on what else the machine does."""
    fields = pathlib.Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _kill_while_writing(run, settings, moment, draw):
    """Kills once a checkpoint of that generation or a later one is half there."""
    number = _start(run, settings)
    root = run / "checkpoints"
    while not _has_ended(number):
        with contextlib.suppress(OSError):
            for name in os.listdir(root):
                if UNFINISHED in name and int(name[:6]) >= moment:
                    time.sleep(draw.uniform(0, 0.04))
                    return _kill(number)
        time.sleep(0.002)
    return False


def _describe(run):
    names = os.listdir(run / "checkpoints") if (run / "checkpoints").exists() else []
    unfinished = [name for name in names if UNFINISHED in name]
    if any((run / "checkpoints" / x / "manifest.json").exists() for x in unfinished):
        return "between a manifest and its checkpoint's name"
    if unfinished:
        return "within the writing of a checkpoint"
    whole = [name for name in names if name.isdecimal()]
    if not all((run / "checkpoints" / x / "manifest.json").exists() for x in whole):
        return "within the removal of one"
    if not (run / "config.json").exists():
        return "before the run had written anything"
    if not names:
        return "before the first checkpoint"
    return "between checkpoints"


def _count_lost(run):
    history, root = run / "history.jsonl", run / "checkpoints"
    done = history.read_text().count("\n") if history.exists() else 0
    names = os.listdir(root) if root.exists() else []
    saved = [int(name) for name in names if name.isdecimal()]
    return max(done - 1 - max(saved, default=-1), 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    import jax

    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        counts = harass(pathlib.Path(folder), options.kills, options.seed)
        print(counts, *counts.defects, sep="\n")
    return bool(counts.defects)


if __name__ == "__main__":
    sys.exit(main())
