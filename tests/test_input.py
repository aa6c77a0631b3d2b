"""Everything a user can give wrongly, and the words that answer: before it compiles."""

import contextlib
import functools
import io
import re
import shlex
import time
import types
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from made_up_run import write_run

import jepbt
from jepbt import augment, cli, cli_train, datasets, losses, models, strategies
from jepbt.hyperparameters import spaces

NAN, INF = float("nan"), float("inf")
LABELS = np.arange(40) % 4
IMAGES = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
SMALL = {"population_size": 8, "num_generations": 2, "steps_per_generation": 3}
SMALL |= {"chunk_size": 1, "progress": False}


class Refused(Exception):
    """What the command line answered, on the error stream."""


@dataclass
class Hyper(jepbt.HyperParameters):
    rate: float = jepbt.hparam(1e-3, min=1e-4, max=0.3, log=True)
    activation: str = jepbt.hparam("relu", choices=("relu", "tanh"))


class Forgotten(jepbt.HyperParameters):
    rate: float = jepbt.hparam(0.1, min=0.0, max=1.0)


@dataclass
class Listed(jepbt.HyperParameters):
    layers: list = field(default_factory=list)


@dataclass
class Empty(jepbt.HyperParameters):
    pass


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(4)(x)


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(6, 4, rngs=rngs)

    def __call__(self, x):
        return self.dense(x)


def classify(**changes):
    parts = {
        "data": datasets.from_arrays((IMAGES, LABELS)),
        "hparams": Hyper,
        "model": models.MLP(num_classes=4, hidden=(3,)),
        "loss": lambda h: losses.cross_entropy,
        "optimizer": lambda h: optax.sgd(h.rate),
    }
    return jepbt.classification(**(parts | changes))


task = functools.cache(classify)


def train(**settings):
    jepbt.train_population(**({"task": task()} | SMALL | settings))


def evolve(strategy):
    """A strategy's own checks, where they come to a user: in a run's preparation."""
    train(strategy=strategy)


def train_own(**changes):
    good = {
        "hparams": Hyper,
        "init": lambda key, h: {"x": jnp.zeros(3)},
        "train_step": lambda key, s, h, batch, shared: (s, {"loss": jnp.zeros(())}),
        "evaluate": lambda key, s, h, batch, shared: jnp.zeros(batch.shape[0]),
        "data": jepbt.Splits(np.zeros((9, 2)), np.zeros((5, 2))),
    }
    train(task=jepbt.Task(**(good | changes)))


def make_run(**changes):
    parts = {"task": task(), "strategy": strategies.pbt(), "config": jepbt.Config()}
    jepbt.make_run(*(parts | changes).values())


def declare(default, *, annotation=object, **settings):
    declared = default if settings is None else jepbt.hparam(default, **settings)
    return spaces_of(declared, annotation)


def declare_loss(default=None, **settings):
    default = () if default is None else (default,)
    return spaces_of(jepbt.taylor_hparam(*default, **settings))


def spaces_of(declared, annotation=object):
    namespace = {"x": declared, "__annotations__": {"x": annotation}}
    return spaces(dataclass(type("Bad", (jepbt.HyperParameters,), namespace)))


def arrays(train=(IMAGES, LABELS), **settings):
    datasets.from_arrays(train, **settings)


def command(line):
    """Runs a command in this process; it must exit 2 after a line or two."""
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(output):
        try:
            code = cli.main(shlex.split(line))
        except SystemExit as stop:
            code = stop.code
    text = errors.getvalue()
    assert code == 2 and len(text.splitlines()) <= 2 and "Traceback" not in text, text
    assert not output.getvalue()
    raise Refused(text)


TABLE = [
    # ---- Config, as train_population's keywords
    (
        train,
        ({"population_size": -3}, "population_size=-3 must be ... from 1 to"),
        ({"population_size": 1e9}, "population_size=1000000000.0 must be a whole"),
        ({"population_size": True}, "population_size=True must be a whole number"),
        ({"population_size": np.array(4)}, "population_size=array(4) must be"),
        ({"population_size": "8"}, "population_size='8' must be a whole number"),
        ({"population_size": None}, "population_size=None must be a whole number"),
        (
            {"population_size": 10**9},
            "population_size=1000000000 needs at least ... At most ... members fit",
        ),
        ({"num_generations": 0}, "num_generations=0 must be ... from 1 to"),
        ({"steps_per_generation": 2.5}, "steps_per_generation=2.5 must be a whole"),
        (
            {"steps_per_generation": 10**6, "num_generations": 10**3},
            "examples must stay below 2**31 ... Choose fewer generations or steps",
        ),
        ({"batch_size": 0}, "batch_size=0 must be ... from 1 to"),
        ({"batch_size": "64"}, "batch_size='64' must be a whole number"),
        ({"seed": -1}, "seed=-1 must be ... from 0 to 4294967295"),
        ({"seed": 2**32}, "seed=4294967296 must be ... from 0 to 4294967295"),
        ({"seed": 0.0}, "seed=0.0 must be a whole number"),
        ({"batches": "mine"}, "batches='mine' must be 'shared' or 'per_member'"),
        ({"chunk_size": 3}, "chunk_size=3 must divide the 2 members ... [1, 2]"),
        ({"chunk_size": 0}, "chunk_size=0 must be ... or 'auto'"),
        ({"chunk_size": "all"}, "chunk_size='all' must be ... or 'auto'"),
        ({"max_seconds": 0}, "max_seconds=0 must be a number above 0, or None"),
        ({"max_seconds": NAN}, "max_seconds=nan must be a number above 0"),
        ({"max_seconds": "60"}, "max_seconds='60' must be a number above 0"),
        ({"target_fitness": "0.9"}, "target_fitness='0.9' must be a number, or None"),
        ({"target_fitness": NAN}, "target_fitness=nan must be a number"),
        ({"log_level": "loud"}, "log_level='loud' must be one of 'debug', 'info'"),
        ({"debug": 1}, "debug=1 must be True or False"),
        ({"progress": "no"}, "progress='no' must be True or False"),
        ({"run_dir": 3}, "run_dir=3 must be a folder's path ... or None"),
        ({"run_dir": ""}, "run_dir='' must be a folder's path"),
        ({"run_dir": "file"}, "run_dir='file' is a file. Name a folder"),
        ({"run_dir": "file/run"}, "run_dir='file/run' cannot be written to"),
        ({"run_dir": "x" * 300}, "cannot be written to: File name too long"),
        ({"run_dir": "a\0b"}, "run_dir='a\\x00b' must be ... without null"),
        ({"run_dir": "run"}, "run_dir='run' holds a run already ... another folder"),
        ({"popluation_size": 3}, "Did you mean population_size", TypeError),
        ({"config": {"seed": 1}}, "must be a jepbt.Config, got dict", TypeError),
        ({"config": jepbt.Config}, "must be a jepbt.Config, got", TypeError),
    ),
    # ---- train_population's own arguments
    (
        train,
        ({"task": "fashion_mnist"}, "task must be a jepbt.Task, got str", TypeError),
        ({"task": classify}, "must be a jepbt.Task, got function", TypeError),
        ({"strategy": "ebpt"}, "strategy='ebpt' ... Did you mean 'epbt'"),
        ({"strategy": "cma"}, "strategy='cma' is none of 'epbt', 'pbt'"),
        ({"strategy": strategies.epbt}, "a builder is no strategy yet", TypeError),
        ({"strategy": jepbt.epbt}, "is strategy='epbt', or", TypeError),
        ({"strategy": 3}, "strategy must be one of ... got int", TypeError),
        ({"devices": "tpuu"}, "devices='tpuu' is not on this machine ... ['cpu']"),
        ({"devices": 4}, "devices=4 must be a platform's name ... jax.devices()[:1]"),
        ({"devices": []}, "devices=[] must be ... at least one jax.Device"),
        ({"devices": [0]}, "devices=[0] must be ... at least one jax.Device"),
        ({"devices": jax.devices()[:1] * 2}, "must name each device once"),
        ({"callbacks": print}, "must be a list of functions", TypeError),
        ({"callbacks": [3]}, "callbacks=(3,) must be a list of functions", TypeError),
        ({"callbacks": [lambda: 0]}, "must be a list of functions", TypeError),
        ({"initial": {"kernel": np.ones(3)}}, "params: leaf"),
    ),
]


class Listener:
    """Counts what XLA compiles while it listens."""

    def __init__(self):
        self.count = None
        jax.monitoring.register_event_duration_secs_listener(self)

    def __call__(self, event, duration, **facts):
        if event.endswith("backend_compile_duration") and self.count is not None:
            self.count += 1


@pytest.fixture(scope="module")
def compilations():
    """Whatever is compiled once for all, such as keys, is compiled before."""
    listener = Listener()
    task()
    jax.random.key(0)
    yield listener
    listener.count = None


ROWS = [
    pytest.param(function, kwargs, error[0] if error else ValueError, words, id=words)
    for function, *rows in TABLE
    for kwargs, words, *error in rows
]


@pytest.mark.parametrize(("function", "kwargs", "error", "words"), ROWS)
def test_what_is_wrong_is_named_before_anything_compiles(
    function, kwargs, error, words, compilations, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    monkeypatch.setattr(jepbt, "use_all_cpu_cores", lambda: 4)
    before = sorted(tmp_path.rglob("*"))
    pattern = ".*".join(map(re.escape, words.split(" ... ")))
    compilations.count = 0
    start = time.process_time()
    with pytest.raises(error, match=f"(?s){pattern}") as raised:
        function(**kwargs)
    assert time.process_time() - start < 2
    assert compilations.count == 0
    assert type(raised.value) is error
    assert sorted(tmp_path.rglob("*")) == before  # nothing is left behind
