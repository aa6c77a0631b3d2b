"""10,000 evaluations by the host loop: what each costs, and what a run survives.

    python examples/many_evaluations.py serial
    python examples/many_evaluations.py processes
    python examples/many_evaluations.py dask
    python examples/many_evaluations.py ray --kill --late

Dask needs `distributed`, Ray `ray`. The training is next to nothing, so that what is
left is the loop's own time, and the workers are processes on this machine. `--kill`
kills the process of one evaluation after a sixth of the run. `--late` starts with one
worker, adds another after a third, and lets every evaluation take 0.2 seconds.

Prints milliseconds an evaluation without start-up, memory after a tenth of the run and
at its end, how often an evaluation began anew, and how many processes took part.
"""

import argparse
import contextlib
import functools
import os
import pathlib
import signal
import tempfile
import time
import warnings
from dataclasses import dataclass

import jepbt
from jepbt import Candidate


@dataclass
class Hyper(jepbt.HyperParameters):
    step: float = jepbt.hparam(0.01, min=0.001, max=0.5, log=True)


def train(candidate, folder, seconds=0.0):
    """One step down x². Notes its process, and kills it where it shall be killed."""
    with (folder / "processes").open("a") as file:
        file.write(f"{os.getpid()}\n")
    with contextlib.suppress(FileNotFoundError):
        (folder / "kill").unlink()  # which succeeds once
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(seconds)
    x = 1.0 if candidate.model is None else candidate.model
    x -= candidate.hparams.step * 2 * x
    return Candidate(x, candidate.hparams, fitness=-(x**2))


@contextlib.contextmanager
def start_dask(num_workers):
    """Yields what `jepbt.epbt` needs, and a function that adds a worker."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=num_workers, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):

        def add_worker():
            cluster.scale(2)
            client.wait_for_workers(2)

        yield {"executor": client.get_executor()}, add_worker


@contextlib.contextmanager
def start_ray(num_workers):
    import ray
    from ray.cluster_utils import Cluster
    from ray_example import RayExecutor

    node = {"num_cpus": num_workers, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        # Which waits until the node has joined.
        yield {"executor": RayExecutor()}, lambda: cluster.add_node(num_cpus=1)
    finally:
        ray.shutdown()
        cluster.shutdown()


PLACES = {
    "serial": lambda num_workers: contextlib.nullcontext(({}, None)),
    "processes": lambda num_workers: contextlib.nullcontext(
        ({"n_processes": num_workers}, None)
    ),
    "dask": start_dask,
    "ray": start_ray,
}


say = functools.partial(print, flush=True)


def memory_of(process="self"):
    """The megabytes that a process holds; 0 where the system does not tell."""
    with contextlib.suppress(OSError):
        status = pathlib.Path(f"/proc/{process}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024
    return 0.0


def main(place, num_evaluations=10_000, population_size=100, kill=False, late=False):
    num_generations = num_evaluations // population_size
    population = [Candidate(None, Hyper()) for _ in range(population_size)]
    with (
        tempfile.TemporaryDirectory() as name,
        PLACES[place](1 if late else 2) as (settings, add_worker),
        warnings.catch_warnings(record=True) as failures,
    ):
        warnings.simplefilter("always", RuntimeWarning)
        folder = pathlib.Path(name)

        def processes():
            return (folder / "processes").read_text().split()

        # A late worker is late for evaluations that take no time.
        function = functools.partial(train, folder=folder, seconds=0.2 if late else 0)
        loop = jepbt.epbt(
            num_generations, population, function, strategy="pbt", **settings
        )
        before, memory = None, []
        for number, best in enumerate(loop, 1):  # noqa: B007
            if number == 1:
                start = time.perf_counter()
            if number == num_generations // 6 and kill:
                (folder / "kill").touch()
            if number == num_generations // 3 and late:
                before = set(processes())
                add_worker()
            if number in (max(1, num_generations // 10), num_generations):
                held = [memory_of(process) for process in set(processes())]
                memory.append((memory_of(), max(held)))
        seconds = time.perf_counter() - start
        started = processes()
    failures = [str(each.message) for each in failures if "slot" in str(each.message)]
    done = num_generations * population_size
    say(f"{done} evaluations, {len(failures)} failed; the best: {best}")
    cost = 1_000 * seconds / (done - population_size)
    say(f"{cost:.2f} ms an evaluation after the first {population_size}")
    for at, (own, worker) in zip(("a tenth", "the end"), memory, strict=True):
        say(f"memory at {at}: {own:.0f} MB here, {worker:.0f} MB the largest worker")
    say(f"{len(started) - done} began anew; {len(set(started))} processes took part")
    if late:
        joined = [process for process in started if process not in before]
        say(f"{len(joined)} evaluations on {len(set(joined))} late processes")
    return best


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("place", choices=PLACES)
    parser.add_argument("--num-evaluations", type=int, default=10_000)
    parser.add_argument("--population-size", type=int, default=100)
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--late", action="store_true")
    main(**vars(parser.parse_args()))
