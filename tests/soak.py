"""Trains a tiny population for thousands of generations and watches what grows.

    python tests/soak.py --generations 5000

Prints memory, files and compilations along the way; fails if the memory of the second
half grows by more than the history that it adds and what orbax keeps of every save, if
anything compiles twice, or if files pile up.
"""

import argparse
import os
import pathlib
import resource
import sys
import tempfile
import time

import jax
import resumable


def soak(folder, num_generations, every=5, say=print):
    """Returns `(generation, bytes, files, seconds)` at a hundred moments."""
    rows, compiled = [], []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, seconds, **_: (
            compiled.append(len(rows)) if "backend_compile" in name else None
        )
    )
    start = time.monotonic()
    period = max(num_generations // 100, 1)

    def watch(generation):
        if generation.number % period == 0:
            files = sum(len(names) for _, _, names in os.walk(folder))
            rows.append((generation.number, _memory(), files, time.monotonic() - start))
            if len(rows) % 10 == 1:
                say(
                    f"generation {generation.number}: {rows[-1][1] / 1e6:.1f} MB, "
                    f"{files} files, {rows[-1][3]:.0f} s",
                    flush=True,
                )

    result = resumable.train(
        resumable.make_task(),
        run_dir=folder,
        num_generations=num_generations,
        steps_per_generation=2,
        checkpoint_every=every,
        callbacks=[watch],
    )
    assert len(result.history) == num_generations
    late = [moment for moment in compiled if moment > 1]
    return rows, late


def _memory():
    """Bytes that this process has in memory now."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def check(rows, late, every=5):
    """What grew that should not; empty if nothing did."""
    half, last = rows[len(rows) // 2], rows[-1]
    # A generation of eight members is some 40 small arrays in the history, about 5 kB.
    # Of each save, tensorstore never frees the text of its settings: some 50 kB here.
    allowed = 10e6 + (10_000 + 70_000 / every) * (last[0] - half[0])
    wrong = []
    if last[1] - half[1] > allowed:
        wrong.append(f"memory grew by {(last[1] - half[1]) / 1e6:.1f} MB")
    if max(row[2] for row in rows) > 120:
        wrong.append(f"there were {max(row[2] for row in rows)} files")
    if late:
        wrong.append(f"{len(late)} compilations after the first generations")
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--generations", type=int, default=5000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows, late = soak(pathlib.Path(folder), options.generations)
    wrong = check(rows, late)
    first, half, last = rows[0], rows[len(rows) // 2], rows[-1]
    print(
        f"memory {first[1] / 1e6:.1f} MB at first, {half[1] / 1e6:.1f} in the middle, "
        f"{last[1] / 1e6:.1f} in the end; at most {max(r[2] for r in rows)} files; "
        f"{len(late)} late compilations; {last[3]:.0f} s"
    )
    print(*wrong, sep="\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
