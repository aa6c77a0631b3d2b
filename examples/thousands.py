"""Thousands of members, or of generations: what they cost in seconds, memory and files.

    python examples/thousands.py
    python examples/thousands.py --case wide --members 256

Three runs, each in a process of its own: 4,096 tiny networks for 100 generations
("many"), 1,024 CNNs for 3 ("wide"), and 8 tiny networks for 10,000 ("long"). About 10
minutes on 2 CPU cores, and 4 GB of memory. Expect programs that need beside the
population ("temp / state") a few hundredths of it, except `evolve` for the tiny
networks, and a long run that grows by its history alone, some 5 kB a generation.
"""

import argparse
import dataclasses
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
import optax

import jepbt
from jepbt.report import write_report
from jepbt.training import execute, prepare

CASES = {  # members, generations, steps of a generation
    "many": (4096, 100, 2),
    "wide": (1024, 3, 2),
    "long": (8, 10_000, 1),
}


@dataclasses.dataclass
class Hyper(jepbt.HyperParameters):
    learning_rate: float = jepbt.hparam(0.1, min=1e-3, max=1.0, log=True)
    momentum: float = jepbt.hparam(0.9, min=0.0, max=0.99)


def make_task(case):
    draw = np.random.default_rng(0)
    if case == "wide":  # made-up images: this is about memory
        images = draw.normal(size=(120, 28, 28, 1)).astype(np.float32)
        return jepbt.classification((images, np.arange(120) % 10), batch_size=8)
    inputs = draw.normal(size=(400, 8)).astype(np.float32)
    return jepbt.classification(
        (inputs, (inputs @ draw.normal(size=(8, 3))).argmax(1)),
        hparams=Hyper,
        model=jepbt.models.MLP(num_classes=3, hidden=(16,)),
        loss=lambda h: jepbt.losses.cross_entropy,
        optimizer=lambda h: optax.sgd(h.learning_rate, momentum=h.momentum),
        batch_size=16,
    )


def held():
    """The bytes that this process has in memory now (on Linux), and had at most."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * resource.getpagesize(), most


def timed(function, *args):
    start = time.perf_counter()
    return function(*args), time.perf_counter() - start


def measure(case, folder, members, generations, steps):
    """Trains, draws, reports and loads one run: what each costs, by name."""
    task, sizes, table = make_task(case), [], {}
    config = jepbt.Config(members, generations, steps, progress=False, run_dir=folder)
    prepared, table["prepare, s"] = timed(lambda: prepare(task, config=config))
    before, _ = held()
    watch = lambda generation: sizes.append(held()[0])  # noqa: E731
    result, table["run, s"] = timed(execute, prepared, [watch])
    table["a generation, ms"] = 1e3 * table["run, s"] / generations
    state = table["state of all members, MB"] = prepared.checkpoint_bytes / 1e6
    peak = table["peak less what was held before, MB"] = (held()[1] - before) / 1e6
    table["that / state"] = peak / state
    growth = sizes[-1] - sizes[generations // 2]
    table["growth in the second half, kB a generation"] = (
        growth / 1e3 / (generations / 2)
    )
    for name, program in prepared.programs._asdict().items():
        memory = program.memory_analysis()
        for kind in ("temp", "output", "alias"):
            count = getattr(memory, f"{kind}_size_in_bytes")
            whole = count * prepared.mesh.size / 1e6  # it is told for one device
            table[f"{name}: {kind} / state"] = whole / state
    _, table["lineage plot, s"] = timed(draw, result, folder / "lineage.png")
    page, table["report, s"] = timed(write_report, folder)
    _, table["load, s"] = timed(jepbt.load, folder, task)
    files = {path.name: path for path in folder.iterdir() if path.is_file()}
    for name in ("history.jsonl", "lineage.png", page.name):
        table[f"{name}, MB"] = files[name].stat().st_size / 1e6
    checkpoint = sorted((folder / "checkpoints").iterdir())[-1]
    num_bytes = sum(p.stat().st_size for p in checkpoint.rglob("*") if p.is_file())
    table["checkpoint / state"] = num_bytes / 1e6 / state
    return table


def draw(result, path):
    jepbt.plots.lineage(result).figure.savefig(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--members", type=int)
    parser.add_argument("--generations", type=int)
    parser.add_argument("--keep", help="a new folder for the run's files")
    options = parser.parse_args()
    if options.case is None:
        for case in CASES:
            subprocess.run([sys.executable, __file__, "--case", case], check=True)
        return
    members, generations, steps = CASES[options.case]
    members = options.members or members
    generations = options.generations or generations
    print(f"{options.case}: {members} members, {generations} generations", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(options.keep or temporary) / "run"
        table = measure(options.case, folder, members, generations, steps)
    for name, value in table.items():
        print(f"  {name:45} {value:10.4g}", flush=True)


if __name__ == "__main__":
    main()
