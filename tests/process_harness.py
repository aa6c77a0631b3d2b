"""Kills one of two processes that share a run, at random moments, and compares bits.

    python tests/process_harness.py --kills 20 --seed 0

Two processes of two devices share a run, and one of them, drawn at random, is killed
(SIGKILL) at a random moment between their start and the run's end. Once they have found
each other, the other must end within a minute; once training has begun, it must say in
one sentence how the run goes on, or have finished it. Two processes go on with the run;
after three kills it is finished, by two processes, or one, or four, drawn at random,
and must equal a run that nobody has disturbed, in every array.
"""

import argparse
import pathlib
import random
import sys
import tempfile
import time
import traceback

import processes
from processes import outcomes

SETTINGS = {"num_generations": 60, "checkpoint_every": 1, "resume": True}
LAYOUTS = [(2, 2), (1, 4), (4, 1)]
KILLS_OF_A_RUN = 3
MINUTE = 60
SENTENCE = "resume=True with the same run_dir goes on."


def harass(folder, num_kills, seed, say=print):
    """Kills processes of runs in a folder, and returns what went wrong, in words."""
    draw = random.Random(seed)
    started = time.monotonic()
    whole = outcomes(processes.start((2, 2), SETTINGS | {"run_dir": str(folder / "a")}))
    duration = time.monotonic() - started
    defects, kills, waits = [], 0, []
    while kills < num_kills:
        run_dir = folder / f"run{kills}"
        try:
            for _ in range(min(KILLS_OF_A_RUN, num_kills - kills)):
                kills += 1
                waits.append(_kill_one(run_dir, draw, draw.uniform(0, duration)))
                say(
                    f"{kills} kills; {_describe(run_dir)}; the other ended after "
                    f"{waits[-1]:.0f} s",
                    flush=True,
                )
            layout = draw.choice(LAYOUTS)
            run = processes.start(layout, SETTINGS | {"run_dir": str(run_dir)})
            assert outcomes(run) == whole, f"{layout} ended with other bits"
        except Exception:
            defects.append(f"{run_dir}: {traceback.format_exc()}")
        say(f"{kills} kills, {len(defects)} defects", flush=True)
    say(f"the others ended after {max(waits):.0f} s at most")
    return defects


def _kill_one(run_dir, draw, seconds):
    """Kills one of two after some seconds, and returns how long the other lived on.

    Where they had not found each other yet, JAX lets the other wait for minutes:
    nothing had begun, and it is killed as well.
    """
    pair = processes.start((2, 2), SETTINGS | {"run_dir": str(run_dir)})
    try:
        time.sleep(seconds)
        victim = draw.randrange(2)
        has_begun = (run_dir / "history.jsonl").exists()
        pair[victim].kill()
        killed = time.monotonic()
        stdout, _ = pair[victim].communicate()
        other = pair[1 - victim]
        if "joined" not in stdout:
            return 0.0
        _, stderr = other.communicate(timeout=MINUTE)
        # JAX may still end a process that has left its finished run.
        if has_begun and other.returncode != 0 and not _is_finished(run_dir):
            assert SENTENCE in stderr, stderr[-3000:]
        return time.monotonic() - killed
    finally:
        for process in pair:
            if process.poll() is None:
                process.kill()
                process.communicate()


def _is_finished(run_dir):
    last = f"{SETTINGS['num_generations'] - 1:06}"
    return (run_dir / "checkpoints" / last).exists()


def _describe(run_dir):
    history, root = run_dir / "history.jsonl", run_dir / "checkpoints"
    done = history.read_text().count("\n") if history.exists() else 0
    names = sorted(path.name for path in root.iterdir()) if root.exists() else []
    return f"{done} generations, checkpoints {' '.join(names) or 'none'}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        defects = harass(pathlib.Path(folder), options.kills, options.seed)
    print(*defects, sep="\n")
    return bool(defects)


if __name__ == "__main__":
    sys.exit(main())
