"""jepbt beside Ray Tune, torch.func and a pool of processes: PBT on equal work.

    python examples/beside_ray.py --json beside.json --figure beside.png
    python examples/beside_ray.py --size toy

Needs `pip install torch "ray[tune]"`; a way whose library is missing is left out. The
second command sees that it works. Both take long without reused actors, since every
actor imports PyTorch, and their figures mean little on busy cores.

A population of 16 small convolutional networks trains for 4 generations on the embedded
Fashion-MNIST: the same architecture, batches, SGD with momentum, float32, and the same
rule between generations, PBT's. The worst quarter by validation accuracy copies weights
and velocities of the best, and multiplies the learning rate by 0.8 or 1.2 or draws it
anew. Every way is a process of its own, and its seconds count from the command to the
last accuracy: start-up, imports and compiling included. The ways take turns.
"""

import argparse
import dataclasses
import importlib.util
import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
from beside_ray_ways import WAYS, Work, count_cores

SIZES = {"full": (16, 4), "toy": (4, 3)}  # members, generations
RESULT = "result: "


def is_installed(way):
    return all(importlib.util.find_spec(name) for name in WAYS[way][1])


def summarise(records):
    """Accuracies of the last generation, and copies, counted by the weights."""
    num_copied = 0
    for earlier, later in itertools.pairwise(records):
        known = {member["after"] for member in earlier}
        for before, now in zip(earlier, later, strict=True):
            if now["before"] not in known:
                raise RuntimeError("a member goes on with weights that no member had")
            num_copied += now["before"] != before["after"]
    accuracies = [member["accuracy"] for member in records[-1]]
    return {"accuracies": accuracies, "num_copied": num_copied}


def measure(way, work):
    """Runs one way in a new process; times it from the start to its last accuracy."""
    facts = {"way": way, "load": os.getloadavg()[0], **dataclasses.asdict(work)}
    command = [sys.executable, __file__, "--one", way, json.dumps(facts)]
    # Nothing that an earlier run compiled shortens the start of the next one.
    environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    # On busy cores Ray takes longer to start than the 30 s that it gives itself.
    environment.setdefault("RAY_raylet_start_wait_time_s", "300")
    start, found = time.perf_counter(), None
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, env=environment, text=True
        ) as process,
    ):
        for line in process.stdout:
            if line.startswith(RESULT):
                facts["seconds"] = time.perf_counter() - start
                found = json.loads(line.removeprefix(RESULT))
        if process.wait() or found is None:
            errors.seek(0)
            raise RuntimeError(f"{way} failed:\n{errors.read()[-3000:]}")
    return facts | found


def compare(runs):
    """One row for each way and length: seconds a generation, and ratios to jepbt."""
    rows = []
    for steps, way in dict.fromkeys((run["num_steps"], run["way"]) for run in runs):
        mine, base = (
            [r for r in runs if (r["num_steps"], r["way"]) == (steps, name)]
            for name in (way, "jepbt")
        )
        pairs = zip(mine, base, strict=False)  # of one round
        ratios = sorted(each["seconds"] / other["seconds"] for each, other in pairs)
        seconds = [run["seconds"] / run["num_generations"] for run in mine]
        accuracies = [run["accuracies"] for run in mine]
        rows.append(
            {
                "way": way,
                "num_steps": steps,
                "seconds_a_generation": statistics.median(seconds),
                "ratio": statistics.median(ratios) if ratios else None,
                "ratios": ratios,
                "best": statistics.mean(map(max, accuracies)),
                "mean": statistics.mean(map(statistics.mean, accuracies)),
            }
        )
    return rows


def fit(rows, way):
    """Seconds a generation as `a + b * steps`: start-up shared out, and a step."""
    points = [
        (r["num_steps"], r["seconds_a_generation"]) for r in rows if r["way"] == way
    ]
    steps, seconds = np.array(points).T
    slope, start = np.polyfit(steps, seconds, 1, w=1 / seconds)
    return start, slope


def draw(rows, path):
    """Each way's seconds over jepbt's, by the steps a generation, with asymptotes."""
    from jepbt.plots import style

    axes = style.new_axes()
    names = [way for way in dict.fromkeys(row["way"] for row in rows) if way != "jepbt"]
    longest = max(row["num_steps"] for row in rows)
    steps = np.geomspace(min(row["num_steps"] for row in rows), 100 * longest, 200)
    base_start, base_slope = fit(rows, "jepbt")
    for name, colour in zip(names, style.LINES, strict=False):
        start, slope = fit(rows, name)
        curve = (start + slope * steps) / (base_start + base_slope * steps)
        label = f"{name}, towards {slope / base_slope:.2f}"
        axes.plot(steps, curve, "--", color=colour, linewidth=0.9)
        for row in (row for row in rows if row["way"] == name):
            spread = [
                [row["ratio"] - row["ratios"][0]],
                [row["ratios"][-1] - row["ratio"]],
            ]
            look = {"fmt": "o", "color": colour, "capsize": 3, "label": label}
            axes.errorbar(row["num_steps"], row["ratio"], spread, **look)
            label = None
    axes.axhline(1, color=style.WINNER, label="jepbt")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("steps a generation of each of the members")
    axes.set_ylabel("seconds, over jepbt's")
    axes.legend(frameon=False)
    axes.figure.savefig(path)


def say_run(run):
    accuracies = run["accuracies"]
    print(
        f"{run['way']:11} {run['num_steps']:4} steps {run['seconds']:7.1f} s  best "
        f"{max(accuracies):.3f}  mean {statistics.mean(accuracies):.3f}  "
        f"{run['num_copied']:2} copies  load {run['load']:.1f}",
        flush=True,
    )


def say_rows(rows):
    print("\nway         steps  s a generation  times jepbt's (min..max)  best   mean")
    for row in rows:
        ratios = row["ratios"]
        ratio = (
            f"{row['ratio']:.2f} ({ratios[0]:.2f}..{ratios[-1]:.2f})" if ratios else ""
        )
        print(
            f"{row['way']:11} {row['num_steps']:5} {row['seconds_a_generation']:15.2f}"
            f"  {ratio:24}  {row['best']:.3f}  {row['mean']:.3f}"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ways", default=",".join(filter(is_installed, WAYS)))
    parser.add_argument("--steps", help="a generation; default: 10,50,200, toy 20")
    parser.add_argument("--rounds", help="one number for each of --steps, or for all")
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--json", help="write every run here")
    parser.add_argument("--figure", help="draw the ratios here")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        way, facts = args.one[0], json.loads(args.one[1])
        fields = (field.name for field in dataclasses.fields(Work))
        records = WAYS[way][0](Work(*(facts[name] for name in fields)))
        print(RESULT + json.dumps(summarise(records)), flush=True)
        return
    steps = args.steps or ("20" if args.size == "toy" else "10,50,200")
    steps = [int(number) for number in steps.split(",")]
    rounds = [int(n) for n in (args.rounds or "1").split(",")]
    runs, ways = [], args.ways.split(",")
    for num_steps, num_rounds in zip(steps, itertools.cycle(rounds), strict=False):
        work = Work(*SIZES[args.size], num_steps)
        for number in range(num_rounds):
            first = number % len(ways)
            for way in ways[first:] + ways[:first]:
                try:
                    runs.append(run := measure(way, work))
                except RuntimeError as error:  # the others still take their turns
                    print(error, file=sys.stderr)
                    continue
                say_run(run)
                if args.json:  # after every run: many take long
                    content = {"num_cores": count_cores(), "runs": runs}
                    text = json.dumps(content | {"rows": compare(runs)}, indent=1)
                    pathlib.Path(args.json).write_text(text + "\n")
    rows = compare(runs)
    say_rows(rows)
    if args.figure:
        draw(rows, args.figure)


if __name__ == "__main__":
    main()
