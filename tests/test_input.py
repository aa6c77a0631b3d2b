"""Everything a user can give wrongly, and the words that answer: before it compiles."""

import contextlib
import dataclasses
import datetime
import functools
import io
import re
import shlex
import types
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import jepbt
from jepbt import Candidate, augment, cli, datasets, losses, models, strategies
from jepbt.cli import benchmark
from jepbt.engine.memory import DoesNotFit
from jepbt.hyperparameters import Choice, spaces
from jepbt.operators import gaussian, perturb, uniform
from jepbt.results import Schedules
from jepbt.tasks import shrink_and_perturb
from jepbt.training import Winner, preparation

NAN, INF = float("nan"), float("inf")
NETWORK = models.as_model(models.MLP())
LABELS = np.arange(40) % 4
IMAGES = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
IDS = np.random.default_rng(0).integers(0, 9, (40, 6), np.uint8)
DATE = datetime.date(2020, 1, 1)
SPARSE = types.SimpleNamespace(toarray=lambda: IMAGES)  # all that is asked of one
FRAME = types.SimpleNamespace(to_numpy=lambda: IMAGES)
SMALL = {"population_size": 8, "num_generations": 2, "steps_per_generation": 3}
SMALL |= {"chunk_size": 1, "progress": False}


class OnGpu:
    """Stands for a tensor that NumPy cannot reach."""

    def __array__(self, *args, **kwargs):
        raise TypeError("Use Tensor.cpu() first")


def filled(array, dtype, value):
    """A copy in which one entry is something else."""
    copy = array.astype(dtype)
    copy[3, min(1, copy.shape[1] - 1)] = value
    return copy


def two_heads(key, params, variables, hparams, images, *, train):
    return {"logits": images[:, :4], "aux": images[:, :1]}, variables


class Refused(Exception):
    """What the command line answered, on the error stream."""


@dataclass
class Hyper(jepbt.HyperParameters):
    rate: float = jepbt.hparam(1e-3, min=1e-4, max=0.3, log=True)
    activation: str = jepbt.hparam("relu", choices=("relu", "tanh"))


RATE = ("rate", float, jepbt.hparam(1e-3, min=1e-4, max=0.3, log=True))
Again = dataclasses.make_dataclass("Hyper", [RATE], bases=(jepbt.HyperParameters,))


class Forgotten(jepbt.HyperParameters):
    rate: float = jepbt.hparam(0.1, min=0.0, max=1.0)


@dataclass
class Listed(jepbt.HyperParameters):
    layers: list = field(default_factory=list)


@dataclass
class Other(jepbt.HyperParameters):
    width: int = jepbt.hparam(2, min=1, max=9)
    loss: jepbt.Loss = jepbt.taylor_hparam()


@dataclass
class Empty(jepbt.HyperParameters):
    pass


@dataclass
class Nested(jepbt.HyperParameters):
    rate: float = jepbt.hparam(1e-3, min=1e-4, max=0.3, log=True)
    inner: Hyper = field(default_factory=Hyper)


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(4)(x)


class Cast(linen.Module):
    """Would read standardised pixels as ids."""

    @linen.compact
    def __call__(self, ids):
        embedded = linen.Embed(9, 3)(ids.astype(jnp.int32))
        return linen.Dense(4)(embedded.reshape(len(ids), -1))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.rngs = rngs


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
TABLE = losses.confusion()


def get_rate(h):
    return h.rate


def adapt(loss=TABLE, rate=get_rate, **settings):
    return jepbt.adapt(loss, rate=rate, **settings)


def train(**settings):
    jepbt.train_population(**({"task": task()} | SMALL | settings))


def load(**changes):
    jepbt.load(**({"run_dir": "run", "task": task()} | changes))


def predict(inputs, task=None):
    """By a member that was never trained: nothing asks for its weights."""
    Winner(None, None, None, 0, 0, task or classify()).predict(inputs)


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
    return jepbt.make_run(*(parts | changes).values())


made_run = functools.cache(make_run)


def call_run(**changes):
    """Without a compiled key: zeros are one, of the older kind."""
    good = {"key": np.zeros(2, np.uint32), "data": task().data}
    made_run()(**(good | changes))


def declare(default, *, annotation=object, **settings):
    return spaces_of(jepbt.hparam(default, **settings), annotation)


def declare_loss(default=None, **settings):
    default = () if default is None else (default,)
    return spaces_of(jepbt.taylor_hparam(*default, **settings))


def spaces_of(declared, annotation=object):
    namespace = {"x": declared, "__annotations__": {"x": annotation}}
    return spaces(dataclass(type("Bad", (jepbt.HyperParameters,), namespace)))


def arrays(train=(IMAGES, LABELS), **settings):
    datasets.from_arrays(train, **settings)


def regress(data=(IMAGES, IMAGES[:, 0]), **settings):
    jepbt.regression(data, **settings)


def climb(candidate):
    return Candidate(None, candidate.hparams, 1.0)


def host(**changes):
    arguments = {
        "n_generations": 2,
        "initial_population": [Candidate(None, Hyper()) for _ in range(3)],
        "evaluation_function": lambda candidate: climb(candidate),
    }
    jepbt.epbt(**(arguments | changes))


def apply_alone(key, params, variables, hparams, images, *, train):
    return images


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


CHOICE = Choice(np.int32(1), ("relu", "tanh"))
PBT = strategies.pbt()
SCHEDULE = Schedules({"rate": np.ones(2), "activation": np.array(["relu"] * 2)}, 5)
COMMANDS = {
    "": "the following arguments are required: COMMAND",
    "trian": "invalid choice: 'trian'",
    "train --population-size -3": "population_size=-3 must be a whole number from 1",
    "train --population-size 1e9": "'1e9' is not a whole number",
    "train --population-size": "--population-size: expected one argument",
    "train --population-size 1000000000": "members fit; choose fewer",
    "train --popultion-size 3": "unrecognized arguments: --popultion-size 3",
    "train 8": "unrecognized arguments: 8",
    "train --num-generations 0": "num_generations=0 must be a whole number from 1",
    "train --steps-per-generation few": "'few' is not a whole number",
    "train --batch-size 0": "batch_size=0 must be a whole number from 1",
    "train --seed -1": "seed=-1 must be a whole number from 0 to 4294967295",
    "train --batches mine": "batches='mine' must be 'shared' or 'per_member'",
    "train --chunk-size 5": "chunk_size=5 must divide the ... members of a device",
    "train --chunk-size all": "chunk_size='all' must be ... or 'auto'",
    "train --max-seconds nan": "max_seconds=nan must be a number above 0",
    "train --max-seconds 2h": "--max-seconds: '2h' is not a number",
    "train --target-fitness nan": "target_fitness=nan must be a number",
    "train --run-dir file": "/file' is a file. Name a folder",
    "train --run-dir ''": "run_dir='' must be a folder's path",
    "train --run-dir run": "/run' holds a run already",
    "train --log-level loud": "log_level='loud' must be one of 'debug', 'info'",
    "train --no-progress maybe": "unrecognized arguments: maybe",
    "train --data fashon_mnist": "Did you mean 'fashion_mnist'",
    "train --data nowhere.npz": "nowhere.npz: there is no such file",
    "train --data file.npz": "file.npz is no .npz file",
    "train --data tfds:mnist[5": "'tfds:NAME[FROM:TO]'",
    "train --model resnet": "invalid choice: 'resnet' (choose from",
    "train --strategy ebpt": "invalid choice: 'ebpt' (choose from",
    "train --device tpuu": "devices='tpuu' is not on this machine",
    "benchmark --models mlpp": "'mlpp' is none of tiny_mlp, mlp, cnn, wide_mlp",
    "benchmark --models ''": "'' is none of tiny_mlp",
    "benchmark --max-population 0": "max_population=0 must be a whole number",
    "benchmark --num-rounds 0": "num_rounds=0 must be a whole number",
    "benchmark --num-rounds 1.5": "'1.5' is not a whole number",
    "benchmark --json no/such.json": "json='no/such.json': its folder does not exist",
    "benchmark --json run": "json='run' is a folder",
    "benchmark --figure no/such.png": "figure='no/such.png': its folder does not",
    "report": "the following arguments are required: RUN_DIR",
    "report nowhere": "name the folder of a run",
    "report file": "/file' holds no generation yet",
    "report run": "name the folder of a run",
    "report run --watch": "name the folder of a run",
    "report run --csv no/such.csv": "csv='no/such.csv': its folder does not exist",
    "report run --csv run": "csv='run' is a folder. Name a file in it",
}

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
        ({"chunk_size": 3}, "chunk_size=3 must divide the ... members ... [1, 2"),
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
        ({"run_dir": "file"}, "/file' is a file. Name a folder"),
        ({"run_dir": "file/run"}, "/file/run' cannot be written to"),
        ({"run_dir": "x" * 300}, "cannot be written to: File name too long"),
        ({"run_dir": "a\0b"}, "run_dir='a\\x00b' must be ... without null"),
        ({"run_dir": "run"}, "/run' holds a run already ... another folder"),
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
        (
            {"devices": "tpuu"},
            f"devices='tpuu' is not on this machine ... ['{jax.devices()[0].platform}'",
        ),
        ({"devices": 4}, "devices=4 must be a platform's name ... jax.devices()[:1]"),
        ({"devices": []}, "devices=[] must be ... at least one jax.Device"),
        ({"devices": [0]}, "devices=[0] must be ... at least one jax.Device"),
        ({"devices": jax.devices()[:1] * 2}, "must name each device once"),
        ({"callbacks": print}, "must be a list of functions", TypeError),
        ({"callbacks": [3]}, "callbacks=(3,) must be a list of functions", TypeError),
        ({"callbacks": [lambda: 0]}, "must be a list of functions", TypeError),
        ({"initial": {"kernel": np.ones(3)}}, "params: leaf"),
    ),
    (
        jepbt.may_fail,
        ({"callback": 3}, "may_fail: callback=3 must be a function", TypeError),
        ({"callback": lambda: 0}, "must be a function (generation)", TypeError),
    ),
    # ---- A task of the user's own, traced on shapes
    (
        train_own,
        ({"init": 3}, "Task: init=3 must be a function (key, hparams)", TypeError),
        (
            {"train_step": lambda state: state},
            "Task: train_step=<lambda> must be a function (key, state, hparams, batch",
            TypeError,
        ),
        ({"evaluate": None}, "Task: evaluate=None must be a function (", TypeError),
        (
            {"repair": lambda: 0},
            "Task: repair=<lambda> must be a function (hparams), or None",
            TypeError,
        ),
        ({"behaviour": 3}, "Task: behaviour=3 must be a function", TypeError),
        ({"prepare": 3}, "Task: prepare=3 must be a function", TypeError),
        ({"restart": 3}, "Task: restart=3 must be a function", TypeError),
        ({"hparams": Hyper()}, "Pass the class, not an instance", TypeError),
        ({"hparams": dict}, "must be a dataclass that inherits", TypeError),
        ({"batch_size": 0}, "batch_size=0 must be a whole number from 1 up"),
        ({"batch_size": 6.4}, "batch_size=6.4 must be a whole number"),
        (
            {"data": (np.zeros(4), np.zeros(4))},
            "task.data must be a jepbt.Splits ... got tuple",
            TypeError,
        ),
        (
            {"data": jepbt.Splits(np.zeros((0, 2)), np.zeros((5, 2)))},
            "task.data.train must hold arrays ... at least 1",
        ),
        (
            {"data": jepbt.Splits((np.zeros(4), np.zeros(5)), np.zeros((5, 2)))},
            "one and the same number of examples ... (4,), (5,)",
        ),
        (
            {"data": jepbt.Splits(np.zeros((9, 2)), None)},
            "task.data.validation must hold arrays",
        ),
        ({"data": jepbt.Splits([1, 2, 3], [1, 2])}, "task.data.train must hold arrays"),
        (
            {"data": jepbt.Splits({"x": [LABELS, LABELS.astype(str)]}, IMAGES)},
            "task.data.train ... leaf ['x'][1] is a NumPy array of <U21: leave texts",
            TypeError,
        ),
        (
            {"data": jepbt.Splits(IMAGES, LABELS.astype(">i4"))},
            "task.data.validation ... NumPy array of >i4: swap its bytes",
            TypeError,
        ),
        (
            {"data": jepbt.Splits(IMAGES, LABELS.astype("datetime64[s]"))},
            "task.data.validation ... datetime64[s]: make dates numbers",
            TypeError,
        ),
        (
            {"data": jepbt.Splits(IMAGES, IMAGES, np.full(3, None))},
            "task.data.test ... NumPy array of object: give its rows one shape",
            TypeError,
        ),
        (
            {"data": jepbt.Splits(FRAME, IMAGES)},
            "leaf itself is a SimpleNamespace: pass it as .to_numpy()",
            TypeError,
        ),
        ({"shared": {"name": "w"}}, "task.shared ... ['name'] is a str", TypeError),
        (
            {
                "train_step": lambda key, s, h, b, shared: (
                    s,
                    {"loss": 0.0, "gradients": {"norm": 0.0}},
                )
            },
            "metric 'gradients' must be a scalar, got a dict ... 'gradients/norm'",
        ),
        (
            {
                "train_step": lambda key, s, h, b, shared: (
                    {"x": s["x"][:2]},
                    {"loss": 0},
                )
            },
            "leaf ['x'] is float32[3] from init and float32[2] after a step",
        ),
        (
            {"train_step": lambda key, s, h, b, shared: ({}, {"loss": 0})},
            "leaf ['x'] is float32[3] from init and absent",
        ),
        (
            {"train_step": lambda key, s, h, b, shared: s},
            "train_step must return (state, metrics), got dict",
        ),
        (
            {"train_step": lambda key, s, h, b, shared: (s, {"error": s["x"].sum()})},
            "'loss', got ['error']",
        ),
        (
            {"train_step": lambda key, s, h, b, shared: (s, {"loss": s["x"]})},
            "metric 'loss' must be a scalar, got shape (3,) ... mean",
        ),
        (
            {"evaluate": lambda key, s, h, b, shared: b.sum()},
            "one score for each example, shape (64,) here, got ()",
        ),
        (
            {"evaluate": lambda key, s, h, b, shared: (b, b)},
            "one score for each example ... got <class 'tuple'>",
        ),
        (
            {"init": lambda key, h: {"x": jnp.zeros(3) * h.ratio}},
            "Hyper has no field 'ratio'. Did you mean rate",
            AttributeError,
        ),
    ),
    # ---- classification
    (
        classify,
        ({"data": 3}, "data must be a data set's name ... got int", TypeError),
        ({"data": "mnist"}, "name='mnist' is unknown. Did you mean 'tfds:mnist'"),
        ({"hparams": Hyper()}, "Pass the class, not an instance", TypeError),
        (
            {"hparams": Forgotten},
            "write @dataclasses.dataclass above the class",
            TypeError,
        ),
        ({"hparams": Empty}, "Empty has no fields: nothing would evolve"),
        (
            {"hparams": Listed},
            "Listed.layers has no default. Give it one: jepbt.hparam",
        ),
        (
            {"hparams": Nested},
            "Nested.inner: ... is a dataclass ... declare its fields in Nested, or",
        ),
        (
            {"data": (IMAGES, LABELS, IMAGES, LABELS)},
            "got tuple of 4. More splits than one are given to ... from_arrays",
            TypeError,
        ),
        (
            {"model": (lambda key, x: ({}, {}), two_heads)},
            "got a dict of ['aux'] (1, 1), ['logits'] (1, 4) ... Return that one array",
        ),
        (
            {"data": (IDS, LABELS), "model": Cast()},
            "model: it makes whole numbers of its inputs ... ids.astype(np.int32)",
        ),
        (
            {
                "data": (IDS.astype(int), LABELS),
                "augment": lambda h: augment.mixup(0.5),
            },
            "augment.mixup mixes floats, got inputs of int32: token ids cannot be",
        ),
        (
            {
                "data": (IDS.astype(int), LABELS),
                "augment": lambda h: lambda key, ids, labels: (ids + 0.5, labels),
            },
            "made float32[1, 6] of int32[1, 6]. Token ids cannot be mixed",
        ),
        (
            {
                "data": (IMAGES.reshape(10, 3, 8, 1).repeat(8, 3), LABELS[:10]),
                "model": models.CNN(num_classes=4),
            },
            "got shape (1, 3, 8, 8). Channels come last: images.transpose(0, 2, 3, 1)",
        ),
        ({"model": None}, "model is missing. With hparams=Hyper"),
        ({"loss": None}, "classification: loss is missing"),
        ({"optimizer": None}, "classification: optimizer is missing"),
        (
            {"model": models.MLP(num_classes=10)},
            "logits [B, 4] for the data's 4 classes, got (1, 10)",
        ),
        ({"model": models.CNN(num_classes=4)}, "at least 4x4 pixels ... models.MLP"),
        ({"model": "cnn"}, "model must be ... got 'cnn' of type str", TypeError),
        ({"model": Linen}, "Linen is a linen class; pass an instance", TypeError),
        ({"model": nnx.Linear}, "cannot be called with rngs alone", TypeError),
        (
            {"model": lambda key, images: 0},
            "cannot be called with rngs alone",
            TypeError,
        ),
        (
            {"model": lambda rngs: 3},
            "must return an nnx.Module ... type int",
            TypeError,
        ),
        (
            {"model": (lambda key: 0, NETWORK.apply)},
            "init must take (key, images)",
            TypeError,
        ),
        (
            {"model": (NETWORK.init, lambda params, x: 0)},
            "apply must take (key, params",
            TypeError,
        ),
        (
            {"model": (lambda key, images: {}, NETWORK.apply)},
            "init must return (params, variables), got {}",
            TypeError,
        ),
        (
            {"model": (NETWORK.init, apply_alone)},
            "apply must return (logits, variables), got",
            TypeError,
        ),
        (
            {"loss": optax.softmax_cross_entropy},
            "loss: must be a function of the hyperparameters ... got softmax_cross_",
            TypeError,
        ),
        ({"loss": lambda h: 0.5}, "loss: must be a ... it returned 0.5", TypeError),
        (
            {"loss": lambda h: lambda logits: logits},
            "of (outputs, labels); it returned <lambda>",
            TypeError,
        ),
        (
            {"loss": lambda h: lambda logits, labels: logits},
            "loss: ... shape [B] ... its mean over the outputs; got (1, 4)",
        ),
        (
            {"loss": lambda h: losses.brier if h.rate > 1 else losses.cross_entropy},
            "loss: it asks for the number behind a hyperparameter",
        ),
        (
            {"loss": lambda h: losses.taylor(h.loss)},
            "loss: Hyper has no field 'loss' ... Its fields are rate, activation",
        ),
        ({"optimizer": optax.sgd(0.1)}, "optimizer: must be a function", TypeError),
        ({"optimizer": lambda h: 0.1}, "optimizer: ... it returned float", TypeError),
        (
            {"optimizer": lambda h: optax.sgd(h.learning_rate)},
            "optimizer: Hyper has no field 'learning_rate' ... Its fields are rate",
        ),
        (
            {"optimizer": lambda h: optax.sgd(float(h.rate))},
            "optimizer: it asks for the number behind a hyperparameter",
        ),
        (
            {"optimizer": lambda h: optax.sgd(0.1 if h.activation == "relu" else 1.0)},
            "activation is a choice of ('relu', 'tanh') ... jepbt.choose(h.activation",
            TypeError,
        ),
        (
            {"optimizer": lambda h: {"relu": optax.sgd}[h.activation](h.rate)},
            "activation is a choice of ... with jepbt.epbt alone",
            TypeError,
        ),
        (
            {"loss": lambda h: losses.brier if h.activation else losses.cross_entropy},
            "activation is a choice of ... no value to compare",
            TypeError,
        ),
        (
            {
                "optimizer": lambda h: optax.sgd(
                    optax.warmup_cosine_decay_schedule(0, h.rate, 10, 100)
                )
            },
            "optimizer: ... scale one of unit peak: optax.chain",
        ),
        (
            {"augment": augment.flip(0.5)},
            "augment: must be a function of the hyperparameters",
            TypeError,
        ),
        ({"augment": lambda h: 1}, "augment: must be ... it returned 1", TypeError),
        (
            {"augment": lambda h: lambda key, images, labels: images},
            "augment: it must return (images, labels), got",
            TypeError,
        ),
        (
            {"augment": lambda h: lambda key, images, labels: (images[:, 1:], labels)},
            "augment: it must keep ... images, and made float32[1, 5] of float32[1, 6]",
        ),
        (
            {
                "augment": lambda h: (
                    augment.flip(0.5) if h.rate > 1 else augment.flip(0.0)
                )
            },
            "augment: it asks for the number behind",
        ),
        (
            {"augment": lambda h: augment.flip(0.5)},
            "augment.flip takes images [B, H, W, C], got shape (1, 6)",
        ),
        (
            {"compute_dtype": "float16"},
            "compute_dtype='float16' must be 'float32' or 'bfloat16'",
        ),
        (
            {"distillation": jepbt.distillation},
            "must be made by jepbt.distillation(...)",
            TypeError,
        ),
    ),
    (
        lambda: classify(model=Nnx(nnx.Rngs(0))),
        ({}, "one set of weights ... lambda rngs: Nnx(", TypeError),
    ),
    # ---- Hyperparameters
    (
        declare,
        (
            {"default": 0.5, "min": 1.0, "max": 0.0},
            "Bad.x: min=1.0 must be below max=0.0. Are they swapped",
        ),
        (
            {"default": 0.5, "min": 0.5, "max": 0.5},
            "min=0.5 must be below max=0.5. A value that never changes",
        ),
        (
            {"default": 2.0, "min": 0.0, "max": 1.0},
            "default=2.0 lies outside its bounds [0.0, 1.0]",
        ),
        (
            {"default": 0.1, "min": 0.0, "max": 1.0, "log": True},
            "log=True needs min and max with min > 0, got min=0.0",
        ),
        ({"default": 0.1, "log": True}, "log=True needs min and max ... min=None"),
        (
            {"default": 0.1, "min": 0.01, "max": 1.0, "log": "yes"},
            "log='yes' must be True or False",
        ),
        ({"default": 0.1, "max": INF}, "max=inf must be finite; leave a bound out"),
        ({"default": NAN}, "default=nan must be finite"),
        ({"default": 0.1, "min": "0"}, "min='0' must be a number"),
        ({"default": 0.1, "min": False, "max": 1.0}, "min=False must be a number"),
        ({"default": 0.1, "max": 1e39}, "max=1e+39 does not fit the 32 bits"),
        (
            {"default": 0.1, "min": 1e-50, "max": 1.0, "log": True},
            "min=1e-50 does not fit the 32 bits",
        ),
        (
            {"default": 1, "min": 0.5, "max": 3},
            "min=0.5 must be whole, since the default 1 is an int",
        ),
        (
            {"default": 1, "min": 0, "max": 2**31},
            "max=2147483648 does not fit the 32 bits",
        ),
        (
            {"default": 0.0},
            "a default of 0 without bounds has no scale ... Give min and max",
        ),
        (
            {"default": "adam"},
            "'adam' cannot evolve in the compiled program ... choices=",
        ),
        ({"default": None}, "a default of None cannot evolve"),
        ({"default": [0.1]}, "hparam: a default of [0.1] cannot evolve"),
        (
            {"default": np.zeros(3)},
            "hparam: a default of array([0., 0., 0.]) cannot evolve",
        ),
        (
            {"default": 1, "min": 0, "max": 2, "annotation": float},
            "annotated float, but its default 1 is an int ... Write 1.0",
        ),
        (
            {"default": "a", "choices": ("a",)},
            "choices=('a',) must be at least two different",
        ),
        (
            {"default": 1, "choices": (1, 1.0)},
            "choices=(1, 1.0) must be at least two different",
        ),
        (
            {"default": "c", "choices": ("a", "b")},
            "default='c' must be one of choices=('a', 'b')",
        ),
        (
            {"default": 1, "choices": (1, 2), "min": 0},
            "min, max and log do not apply to choices",
        ),
        ({"default": True, "log": True}, "min, max and log do not apply to choices"),
        ({"default": 1, "choices": 3}, "choices=3 must be a list or tuple"),
        ({"default": "a", "choices": "ab"}, "choices='ab' must be a list or tuple"),
        (
            {"default": "a", "choices": {"a": 0, "b": 1}},
            "choices={'a': 0, 'b': 1} must be a list or tuple",
        ),
        ({"default": "a", "choices": (["a"], ["b"])}, "values that do not change"),
    ),
    (
        declare_loss,
        (
            {"default": (1.0, 2.0)},
            "default=(1.0, 2.0) must be 8 finite numbers, in the order",
        ),
        ({"default": 3}, "default=3 must be 8 finite numbers"),
        ({"default": "abcdefgh"}, "default=abcdefgh must be 8 finite numbers"),
        ({"default": [NAN] * 8}, "must be 8 finite numbers"),
        ({"noise": -1.0}, "Bad.x: noise=-1.0 must be a number from 0 up"),
        ({"sigma": "0.1"}, "Bad.x: sigma='0.1' must be a number from 0 up"),
        ({"genome": "four"}, "genome='four' must be 'coefficients' or 'effective'"),
        (
            {"default": [1, 0, 0, 0, 0, 0, 0, 0], "genome": "effective"},
            "has no gradient ... Choose another default",
        ),
    ),
    (
        jepbt.choose,
        (
            {"choice": CHOICE, "options": {"relu": jax.nn.relu}},
            "options ['relu'] must be exactly the choices",
        ),
        (
            {"choice": 0.5, "options": {}},
            "Numeric choices are read directly",
            TypeError,
        ),
    ),
    # ---- Strategies, and what they are made of
    (
        strategies.epbt,
        ({"num_elites": 2.0}, "epbt: num_elites=2.0 must be a whole number"),
        (
            {"num_elites": True},
            "epbt: num_elites=True must be a whole number",
        ),
        (
            {"select": strategies.truncation},
            "select=truncation must be a function (key, fitness)",
            TypeError,
        ),
        (
            {"mutate": "gaussian"},
            "mutate='gaussian' must be a function (key, hparams)",
            TypeError,
        ),
        (
            {"crossover": 0.5},
            "crossover=0.5 must be a function (key, hparams, is_child)",
            TypeError,
        ),
        (
            {"novelty": strategies.pulsation},
            "novelty must be made by ... got pulsation",
            TypeError,
        ),
    ),
    (
        lambda: strategies.epbt(3, [], print),
        ({}, "epbt() takes 0 positional arguments but 3 were given", TypeError),
    ),
    (
        lambda **settings: evolve(strategies.epbt(**settings)),
        ({"num_elites": 9}, "num_elites=9 exceeds the population of 8 ... from 1 to 8"),
        ({"num_elites": 0}, "num_elites=0 must be a whole number from 1 up"),
        (
            {"novelty": strategies.pulsation(pool=3.0)},
            "pool of 12, more than the population of 8 ... At most pool=2",
        ),
        (
            {"novelty": strategies.pulsation(metric="loss")},
            "no field made by jepbt.taylor_hparam ... Add one",
        ),
    ),
    (
        strategies.pulsation,
        ({"period": 0}, "period=0 must be a whole number from 1 up"),
        ({"pool": 0.5}, "pool=0.5 must be a number from 1 up"),
        ({"pool": "1.5"}, "pool='1.5' must be a number from 1 up"),
        ({"metric": "weights"}, "metric='weights' must be one of 'correctness'"),
        ({"num_examples": True}, "num_examples=True must be a whole number"),
    ),
    (
        strategies.pbt,
        ({"burn_in": -1}, "pbt: burn_in=-1 must be a whole number from 0 up"),
        ({"copy_hparams": 1}, "pbt: copy_hparams=1 must be True or False"),
        (
            {"explore": 0.2},
            "pbt: explore=0.2 must be a function (key, hparams)",
            TypeError,
        ),
        (
            {"exploit": strategies.welch_test},
            "pbt: exploit=welch_test must be a function",
            TypeError,
        ),
    ),
    (
        strategies.pb2,
        ({"num_candidates": 0}, "pb2: num_candidates=0 must be a whole number from 1"),
        ({"num_observations": 2.5}, "pb2: num_observations=2.5 must be a whole number"),
        ({"propose": 1}, "pb2: propose=1 must be a function (key, hparams)", TypeError),
        ({"exploit": "best"}, "pb2: exploit='best' must be a function", TypeError),
    ),
    (
        strategies.mf_pbt,
        (
            {"intervals": ()},
            "intervals=() must be whole numbers from 1 up ... at least one",
        ),
        ({"intervals": 5}, "intervals=5 must be whole numbers from 1 up"),
        (
            {"intervals": (2, 1)},
            "intervals=(2, 1) must be ... each greater than the one before",
        ),
        ({"intervals": (0, 1)}, "intervals=(0, 1) must be whole numbers from 1 up"),
        ({"intervals": (1.0, 2)}, "intervals=(1.0, 2) must be whole numbers from 1 up"),
        ({"explore": 1}, "mf_pbt: explore=1 must be a function", TypeError),
    ),
    (
        evolve,
        (
            {"strategy": strategies.mf_pbt(intervals=range(1, 10))},
            "9 intervals need at least as many members, got a population of 8",
        ),
    ),
    (
        strategies.random_search,
        ({"schedules": ["rate"]}, "schedules=['rate'] must be a dictionary", TypeError),
        (
            {"schedules": {"rate": 0.5}},
            "schedules: rate=0.5 must be a function (progress)",
            TypeError,
        ),
    ),
    (
        lambda **settings: evolve(strategies.random_search(**settings)),
        (
            {"schedules": {"activation": strategies.cosine_decay}},
            "schedules has 'activation', which is no number of Hyper ... rate",
        ),
    ),
    (
        strategies.successive_halving,
        ({"factor": 1}, "factor=1 must be a whole number from 2 up"),
        ({"first_rung": 0}, "first_rung=0 must be a whole number from 1 up"),
    ),
    (
        lambda **settings: strategies.restarts(
            **({"strategy": strategies.pbt()} | settings)
        ),
        ({"strategy": "pbt"}, "restarts: strategy='pbt' must be a Strategy", TypeError),
        ({"interval": 0}, "restarts: interval=0 must be a whole number from 1 up"),
        ({"patience": 1.5}, "restarts: patience=1.5 must be a whole number from 1"),
    ),
    (
        lambda fields, strategy=PBT: evolve(strategies.frozen(strategy, fields)),
        (
            {"fields": {}, "strategy": strategies.pbt},
            "frozen: strategy=pbt must be a Strategy",
            TypeError,
        ),
        (
            {"fields": ["rate"]},
            "frozen: fields=['rate'] must be a dictionary",
            TypeError,
        ),
        ({"fields": {"rate": (3, 2)}}, "frozen: rate=(3, 2) must be (first, stop)"),
        ({"fields": {"rate": 3}}, "frozen: rate=3 must be (first, stop)"),
        (
            {"fields": {"ratee": (0, 1)}},
            "frozen: Hyper has no field 'ratee'. Its fields are rate",
        ),
    ),
    (
        strategies.welch_test,
        ({"num_evaluations": 1}, "num_evaluations=1 must be a whole number from 2 up"),
        ({"level": 0}, "level=0 must lie in (0, 1]"),
    ),
    (
        strategies.significant,
        ({"level": 1.5}, "level=1.5 must lie in (0, 1]"),
        ({"select": 1}, "significant: select=1 must be a function", TypeError),
    ),
    (
        strategies.truncation,
        ({"fraction": 0.0}, "fraction=0.0 must lie in (0, 0.5]"),
        ({"fraction": 0.6}, "fraction=0.6 must lie in (0, 0.5]"),
        ({"fraction": NAN}, "fraction=nan must lie in (0, 0.5]"),
        ({"fraction": "20%"}, "fraction='20%' must lie in (0, 0.5]"),
    ),
    (
        gaussian,
        ({"sigma": -1}, "gaussian: sigma=-1 must be a number from 0 up"),
        ({"reset": 1.5}, "gaussian: reset=1.5 must lie in [0, 1]"),
        ({"redraw": -0.1}, "gaussian: redraw=-0.1 must lie in [0, 1]"),
    ),
    (
        perturb,
        ({"resample": 2}, "perturb: resample=2 must lie in [0, 1]"),
        ({"factors": ()}, "factors=() must be positive numbers, at least one"),
        ({"factors": 1.2}, "factors=1.2 must be positive numbers"),
        ({"factors": (0.8, -1)}, "factors[1]=-1 must be a number above 0"),
    ),
    (uniform, ({"probability": 1.1}, "uniform: probability=1.1 must lie in [0, 1]")),
    (
        lambda **settings: shrink_and_perturb(**({"task": task()} | settings)),
        ({"task": None}, "shrink_and_perturb: task must be a jepbt.Task", TypeError),
        ({"shrink": 2}, "shrink=2 must lie in [0, 1]"),
        ({"noise": -1}, "noise=-1 must be a number from 0 up"),
    ),
    (
        jepbt.distillation,
        ({"weight": 1.2}, "weight=1.2 must lie in [0, 1]"),
        ({"weight": "0.3"}, "weight='0.3' must lie in [0, 1]"),
        ({"temperature": 0}, "temperature=0 must be a number above 0"),
        ({"teacher": "all"}, "teacher='all' must be 'best' or 'elites'"),
        ({"num_elites": 2}, "num_elites=2 must be ... with teacher='elites'"),
    ),
    (
        lambda **settings: train(
            task=classify(
                distillation=jepbt.distillation(teacher="elites", num_elites=9)
            ),
            **settings,
        ),
        ({}, "num_elites=9 exceeds the population of 8"),
        ({"batches": "per_member"}, "batches='per_member' ... batches='shared'"),
    ),
    (
        adapt,
        (
            {"loss": losses.brier},
            "adapt: loss must be a jepbt.losses.AdaptiveLoss, such as "
            "jepbt.losses.confusion(), got 'brier'",
            TypeError,
        ),
        (
            {"rate": 0.1},
            "adapt: rate must be a function of the hyperparameters, as in rate=lambda "
            "h: h.meta_rate, got 0.1",
            TypeError,
        ),
        ({"every": 0}, "adapt: every=0 must be a whole number from 1 up"),
        ({"batch_size": 0}, "adapt: batch_size=0 must be a whole number from 1 up"),
    ),
    (
        losses.confusion,
        ({"form": "gold"}, "form='gold' must be 'transition' or 'offsets'"),
        ({"counts": [1, 2]}, "counts are for form='offsets'"),
        (
            {"form": "offsets", "counts": [1, 0]},
            "confusion: counts=[1, 0] must hold one number above 0 for each class",
        ),
    ),
    (
        lambda loss=TABLE, rate=get_rate, **parts: classify(
            loss=adapt(loss, rate), **parts
        ),
        (
            {"distillation": jepbt.distillation()},
            "distillation and a loss that adapts cannot be combined",
        ),
        (
            {"rate": lambda h: jnp.ones(2) * h.rate},
            "adapt: rate must return one number for a member, got shape (2,)",
        ),
        (
            {"loss": losses.confusion("offsets", counts=[1, 2, 3])},
            "confusion: counts is of 3 classes, the logits are of 4",
        ),
        (
            {
                "data": datasets.from_arrays(
                    (IMAGES, LABELS), (IMAGES[:9], LABELS[:9] % 3)
                )
            },
            "learns from trusted labels ... no example of class 3 ... from_arrays",
        ),
    ),
    # ---- The other drivers
    (
        make_run,
        ({"task": "images"}, "task must be a jepbt.Task, got str", TypeError),
        ({"strategy": "eppt"}, "strategy='eppt' is none of ... mean 'epbt'?"),
        ({"config": {}}, "config must be a jepbt.Config, got dict", TypeError),
        ({"config": jepbt.Config(seed=-1)}, "seed=-1 must be"),
        ({"config": jepbt.Config(chunk_size=3)}, "chunk_size=3 must divide the 32"),
    ),
    (
        call_run,
        ({"data": IMAGES}, "a jepbt.Splits such as task.data, got ndarray", TypeError),
        ({"data": None}, "such as task.data, got NoneType", TypeError),
        ({"key": 0}, "key must be one random key ... got int", TypeError),
        ({"key": None}, "key must be one random key ... got None", TypeError),
        (
            {"key": np.zeros((3, 2), np.uint32)},
            "got uint32[3, 2]. For several",
            TypeError,
        ),
        (
            {"data": jepbt.Splits({"image": IMAGES}, task().data.validation)},
            "data.train['label'] is absent, of task.data int32[64]: data must be like",
        ),
        (
            {
                "data": jepbt.Splits(
                    task().data.train, {"image": IMAGES, "label": IMAGES}
                )
            },
            "data.validation['label'] is float32[64, 6], of task.data int32[64]",
        ),
    ),
    (
        lambda **settings: jepbt.scaling(**({"task": task()} | settings)),
        ({"task": "mlp"}, "task must be a jepbt.Task, got str", TypeError),
        (
            {"max_population": 0},
            "max_population=0 must be a whole number from 1 up",
        ),
        ({"num_rounds": 1.5}, "num_rounds=1.5 must be a whole number"),
        ({"chunk_size": -1}, "chunk_size=-1 must be"),
        ({"steps_per_generation": 0}, "steps_per_generation=0 must be"),
        ({"batch_size": 0}, "batch_size=0 must be"),
        ({"strategy": "ebpt"}, "Did you mean 'epbt'"),
        ({"devices": "tpuu"}, "devices='tpuu' is not on this machine"),
    ),
    (
        lambda **settings: jepbt.replay(
            **({"task": task(), "schedule": SCHEDULE} | settings)
        ),
        ({"task": 3}, "task must be a jepbt.Task, got int", TypeError),
        ({"schedule": 3}, "schedule must be a Result ... got int", TypeError),
        ({"schedule": "nowhere"}, "is no schedule of a run"),
        (
            {"schedule": Schedules({"rate": np.ones(2)}, 5)},
            "the schedule has rate; the task's Hyper has rate, activation",
        ),
        (
            {
                "schedule": Schedules(
                    {"rate": np.ones(2), "activation": np.array(["gelu"] * 2, object)},
                    5,
                )
            },
            "activation='gelu' is none of the task's choices",
        ),
        ({"strategy": "pbt"}, "strategy='pbt' is not allowed: nothing evolves in a"),
        ({"num_generations": 3}, "num_generations=3 is not allowed: the schedule has"),
        (
            {"steps_per_generation": 7, "scale": 2},
            "steps_per_generation=7 is not allowed: scale=2 makes it",
        ),
        ({"scale": 0}, "scale=0 must be a number above 0"),
        ({"scale": INF}, "scale=inf must be a number above 0"),
        ({"scale": 0.01}, "scale=0.01 leaves no step ... at least 0.2"),
        ({"config": {}}, "config must be a jepbt.Config, got dict", TypeError),
    ),
    (
        host,
        ({"n_generations": 0}, "n_generations=0 must be a whole number from 1"),
        ({"n_generations": 2.0}, "n_generations=2.0 must be a whole number"),
        ({"initial_population": []}, "initial_population is empty"),
        (
            {"initial_population": 8},
            "must be a list of jepbt.Candidate, got int",
            TypeError,
        ),
        (
            {"initial_population": [Hyper()]},
            "[0] must be a jepbt.Candidate, got Hyper",
            TypeError,
        ),
        (
            {"initial_population": [Candidate(None, {})]},
            "[0].hparams must be a dataclass that inherits",
            TypeError,
        ),
        (
            {
                "initial_population": [
                    Candidate(None, Hyper()),
                    Candidate(None, Other()),
                ]
            },
            "[1].hparams is a Other, others are a Hyper",
            TypeError,
        ),
        (
            {"initial_population": [Candidate(None, h()) for h in (Hyper, Again)]},
            "[1].hparams is a Hyper, others are a Hyper ... Hyper was defined twice",
            TypeError,
        ),
        (
            {"initial_population": [Candidate(None, Hyper(rate=5.0))]},
            "[0].hparams.rate=5.0 lies outside its bounds",
        ),
        (
            {"initial_population": [Candidate(None, Hyper(rate=NAN))]},
            "[0].hparams.rate=nan lies outside",
        ),
        (
            {"initial_population": [Candidate(None, Hyper(rate="0.1"))]},
            "[0].hparams.rate='0.1' must be a number",
            TypeError,
        ),
        (
            {"initial_population": [Candidate(None, Other(width=2.5))]},
            "[0].hparams.width=2.5 must be a whole number",
            TypeError,
        ),
        (
            {"initial_population": [Candidate(None, Hyper(activation="gelu"))]},
            "activation='gelu' must be one of ('relu', 'tanh')",
        ),
        (
            {"initial_population": [Candidate(None, Other(loss=np.zeros(3)))]},
            "loss=array([0., 0., 0.]) must be 8 finite numbers",
        ),
        (
            {"initial_population": [Candidate(None, Other(loss=["a"] * 8))]},
            "'a'] must be 8 finite numbers",
        ),
        (
            {"initial_population": [Candidate(None, Other(loss=[[1.0], []]))]},
            "loss=[[1.0], []] must be 8 finite numbers",
        ),
        (
            {"evaluation_function": 3},
            "evaluation_function must be a function",
            TypeError,
        ),
        (
            {"evaluation_function": strategies.epbt()},
            "pass that as strategy=",
            TypeError,
        ),
        ({"evaluation_function": strategies.epbt}, "pass that as strategy=", TypeError),
        ({"n_processes": 0}, "n_processes=0 must be a whole number from 1"),
        (
            {"n_processes": 1},
            "<lambda> cannot be pickled ... top level of a module",
            TypeError,
        ),
        (
            {
                "n_processes": 1,
                "evaluation_function": climb,
                "initial_population": [Candidate(lambda: 0, Hyper())],
            },
            "[0].model cannot be pickled, which another process needs",
            TypeError,
        ),
        (
            {"run_dir": "new", "initial_population": [Candidate(lambda: 0, Hyper())]},
            "[0].model cannot be pickled, which run_dir needs",
            TypeError,
        ),
        (
            {"n_processes": 1, "executor": ThreadPoolExecutor(1)},
            "n_processes=1 and executor= ... Give one of them",
        ),
        ({"executor": 4}, "must be a concurrent.futures.Executor, got 4", TypeError),
        ({"seed": -1}, "seed=-1 must be"),
        ({"retries": -1}, "retries=-1 must be"),
        ({"asynchronous": "yes"}, "asynchronous='yes' must be True or False"),
        ({"resume": 1}, "resume=1 must be True or False"),
        ({"resume": True}, "resume=True needs run_dir"),
        ({"run_dir": 3}, "run_dir=3 must be a folder's path"),
        ({"run_dir": "file"}, "/file' is a file. Name a folder"),
        ({"run_dir": "run"}, "/run' holds a run already ... resume=True"),
        ({"strategy": "ebpt"}, "strategy='ebpt' ... Did you mean 'epbt'"),
        (
            {"strategy": jepbt.epbt},
            "jepbt.epbt is the loop over an evaluation",
            TypeError,
        ),
        (
            {"strategy": strategies.epbt(num_elites=9)},
            "num_elites=9 exceeds the population of 3",
        ),
    ),
    (
        jepbt.field_dict,
        ({"instance": Candidate}, "instance of a dataclass", TypeError),
        ({"instance": {"a": 1}}, "instance of a dataclass", TypeError),
    ),
    # ---- Losses, augmentations, models, layers
    (
        lambda call: call(),
        (
            {"call": lambda: losses.generalized_cross_entropy(0)},
            "q=0 must lie in (0, 1] ... losses.cross_entropy",
        ),
        (
            {"call": lambda: losses.generalized_cross_entropy("0.7")},
            "q='0.7' must be a number",
        ),
        (
            {"call": lambda: losses.generalized_cross_entropy(np.ones(3))},
            "q must be a scalar ... got shape (3,)",
        ),
        ({"call": lambda: losses.label_smoothing(1.0)}, "alpha=1.0 must lie in [0, 1)"),
        (
            {"call": lambda: losses.taylor(np.zeros(7))},
            "theta has shape (7,), expected",
        ),
        (
            {"call": lambda: losses.taylor(np.zeros((3, 8)))},
            "theta has shape (3, 8), expected (8,): vmap",
        ),
        (
            {"call": lambda: losses.taylor(np.zeros(8, int))},
            "theta has dtype int64, expected floats",
        ),
        (
            {"call": lambda: losses.cross_entropy(IMAGES, LABELS)},
            "labels have dtype int32 ... one_hot(labels, 6)",
        ),
        (
            {"call": lambda: losses.brier(IMAGES, IMAGES[:, :3])},
            "labels have shape (40, 3), expected the logits' (40, 6)",
        ),
        (
            {"call": lambda: losses.brier(IMAGES[:, :1], IMAGES[:, :1])},
            "at least 2 classes: give a binary classifier two",
        ),
        (
            {"call": lambda: losses.brier(LABELS[None], LABELS[None])},
            "logits have dtype int32, expected floats",
        ),
        (
            {"call": lambda: augment.shift(-1)},
            "augment.shift: pixels=-1 must be a number from 0 up",
        ),
        (
            {"call": lambda: augment.flip(1.5)},
            "augment.flip: probability=1.5 must lie in [0, 1]",
        ),
        (
            {"call": lambda: augment.flip("half")},
            "augment.flip: probability='half' must be a number",
        ),
        (
            {"call": lambda: augment.cutout(NAN)},
            "augment.cutout: size=nan must be a number from 0 up",
        ),
        (
            {"call": lambda: augment.mixup(2)},
            "augment.mixup: strength=2 must lie in [0, 1]",
        ),
        (
            {"call": lambda: augment.brightness(-0.1)},
            "augment.brightness: strength=-0.1 must be",
        ),
        (
            {"call": lambda: augment.contrast(np.ones(3))},
            "augment.contrast: strength must be a scalar ... got shape (3,)",
        ),
        (
            {"call": lambda: augment.chain(augment.flip(0.5), 0.5)},
            "augment.chain takes augmentations ... got 0.5",
            TypeError,
        ),
    ),
    (
        models.MLP,
        ({"hidden": (8, 0)}, "MLP: hidden[1]=0 must be a whole number from 1 up"),
        ({"hidden": 64}, "MLP: hidden=64 must be a sequence ... as in hidden=(256,)"),
        ({"hidden": "64"}, "MLP: hidden='64' must be a sequence of widths"),
        ({"num_classes": 2.5}, "MLP: num_classes=2.5 must be a whole number from 1 up"),
        ({"num_classes": True}, "MLP: num_classes=True must be a whole number"),
        ({"dropout": 1.0}, "MLP: dropout=1.0 must lie in [0, 1), or be a function"),
        ({"dropout": "half"}, "MLP: dropout='half' must lie in [0, 1) ... lambda h"),
        ({"dropout": NAN}, "MLP: dropout=nan must lie in [0, 1)"),
    ),
    (models.CNN, ({"num_classes": 0}, "CNN: num_classes=0 must be a whole number")),
    (
        models.ResNet,
        ({"depth": 18}, "ResNet: depth=18 must be 6 n + 2 ... 8, 14, 20"),
        ({"depth": "20"}, "ResNet: depth='20' must be 6 n + 2"),
        ({"width": 0}, "ResNet: width=0 must be a whole number from 1 up"),
        ({"num_classes": 0}, "ResNet: num_classes=0 must be a whole number from 1 up"),
    ),
    # ---- Data
    (
        datasets.load,
        ({"name": "fashion-mnist"}, "Did you mean 'fashion_mnist'"),
        ({"name": "TFDS:cifar10"}, "Did you mean 'tfds:cifar10'"),
        (
            {"name": None},
            "name=None is unknown ... Available: 'fashion_mnist' ... from_arrays",
        ),
        (
            {"name": "nowhere.npz"},
            "nowhere.npz: there is no such file",
            FileNotFoundError,
        ),
        ({"name": "file.npz"}, "file.npz is no .npz file, or was cut short"),
        ({"name": "tfds:mnist[5"}, "'tfds:NAME[FROM:TO]'"),
        ({"data_dir": "here"}, "data_dir='here' is for names like 'tfds:mnist'"),
        ({"label_noise": 40}, "label_noise=40 must lie in [0, 1] ... 0.4 for 40 %"),
        (
            {"validation_label_noise": "0.4"},
            "validation_label_noise='0.4' must lie in [0, 1]",
        ),
        ({"seed": -1}, "seed=-1 must be a whole number from 0 up"),
    ),
    (
        arrays,
        ({"train": IMAGES}, "train must be (images, labels) ... got ndarray"),
        (
            {"train": (IMAGES, LABELS, LABELS)},
            "train must be (images, labels) ... got tuple",
        ),
        ({"train": {"image": IMAGES}}, 'keys "image" and "label" ... got [\'image\']'),
        (
            {"train": ([[1.0], [1.0, 2.0]], [0, 1])},
            "train image is no array: its examples have different shapes",
        ),
        (
            {"train": (np.full((40, 6), print), LABELS)},
            "train image is an array of objects (builtin_function_or_method); stack",
        ),
        (
            {"train": (filled(IMAGES, object, "a"), LABELS)},
            "train image holds texts, 'a' at (3, 1): make numbers of them ... ids",
        ),
        (
            {"train": (filled(IMAGES, object, None), LABELS)},
            "train image has missing values, the first at (3, 1): remove ... .fillna",
        ),
        (
            {"train": (IMAGES > 0, LABELS.astype("datetime64[s]"))},
            "train label has dtype datetime64[s] and holds dates: pass numbers",
        ),
        (
            {"train": (IMAGES + 1j, LABELS)},
            "train image has dtype complex64 and holds complex numbers",
        ),
        (
            {"train": (np.ma.masked_less(IMAGES, 0), LABELS)},
            "train image is a masked array ... values of which are missing: fill them",
        ),
        (
            {"train": (SPARSE, LABELS)},
            "train image is a sparse matrix (SimpleNamespace) ... .toarray()",
        ),
        (
            {"train": (OnGpu(), LABELS)},
            "NumPy cannot read this OnGpu (Use Tensor.cpu() first). Pass a NumPy",
        ),
        (
            {"train": ((image for image in IMAGES), LABELS)},
            "is no array, but of type generator: collect ... np.stack(list(examples))",
        ),
        (
            {"train": (np.zeros((40, 2, 2), np.int64), LABELS)},
            "dtype int64 and values from 0 to 0: they fit ... images.astype(np.uint8)",
        ),
        (
            {"train": (np.full((40, 2, 2), 256, np.uint16), LABELS)},
            "dtype uint16 and ... 256: scale them, (images / 65535).astype(np.float32)",
        ),
        (
            {"train": (np.full((40, 6), 2**31), LABELS)},
            "which 32 bits cannot hold: scale them, as floats",
        ),
        (
            {"train": (IMAGES[:, 0], LABELS)},
            "train image has shape (40,); allowed are [N, D]",
        ),
        ({"train": (IMAGES[:0], LABELS[:0])}, "train image has shape (0, 6)"),
        ({"train": (IMAGES[:30], LABELS)}, "train: 30 images and 40 labels"),
        (
            {"train": (IMAGES * NAN, LABELS)},
            "train image has 240 values like nan at (0, 0) ... remove or repair",
        ),
        (
            {"train": (np.full((40, 6), 1e300), LABELS)},
            "which float32 cannot hold; scale them",
        ),
        (
            {"train": (IMAGES, LABELS.astype(str))},
            "train label has dtype <U21 ... return_inverse",
        ),
        (
            {"train": (IMAGES, LABELS + 0.5)},
            "train label has dtype float64 ... labels are integers ... regression",
        ),
        (
            {"train": (IMAGES, np.eye(4)[LABELS] + np.eye(4)[0])},
            "those of example 0 have the sum 2 ... several labels ... multilabel.py",
        ),
        (
            {"train": (IMAGES, np.full((40, 2), [1.5, -0.5]))},
            "have the sum 1 and the least is -0.5. Logits become ... jax.nn.softmax",
        ),
        (
            {"train": (IMAGES, np.zeros((40, 3, 3), int))},
            "For a label on each pixel, examples/multilabel.py shows how",
        ),
        (
            {"train": (IMAGES, np.eye(4)[LABELS]), "num_classes": 5},
            "probabilities of 4 classes; there are 5",
        ),
        (
            {"train": (IMAGES, LABELS.astype(object) * NAN)},
            "train label has 40 values like nan at (0,)",
        ),
        (
            {"train": (IMAGES, filled(LABELS[:, None], object, "cat")[:, 0])},
            "train label holds texts, 'cat' at (3,): number the classes ... np.unique",
        ),
        (
            {"train": (IMAGES, LABELS + 1)},
            "first being class 0 ... np.unique(labels, return_inverse=True)[1]",
        ),
        (
            {"train": (IMAGES[1:2], LABELS[1:2])},
            "train has 1 example, of which none can be spared",
        ),
        ({"train": (IMAGES, LABELS[:, None])}, "is a column ... labels[:, 0]"),
        (
            {"train": (IMAGES, LABELS - 1)},
            "train label has 10 values outside 0 to 2, the first being -1",
        ),
        (
            {"train": (IMAGES, -LABELS // 2)},
            "train label has 30 values outside 0 to 1, the first being -1 ... unique",
        ),
        (
            {"train": (IMAGES, filled(LABELS[:, None], object, DATE)[:, 0])},
            "train label holds dates: pass numbers, as (dates - first) ... found date",
        ),
        ({"train": (IMAGES, None)}, "train label is None, where an array is needed"),
        (
            {"train": (IMAGES, LABELS * 0)},
            "num_classes=1 by the largest training label",
        ),
        (
            {"train": (IMAGES, LABELS * 2)},
            "no example of 3 of 7 classes, the first being class 1",
        ),
        (
            {"test": (IMAGES[:, :3], LABELS)},
            "test image has examples of float32[3], train image of float32[6]",
        ),
        ({"test": (IMAGES, LABELS + 1)}, "test label has 10 values outside 0 to 3"),
        ({"validation": (IMAGES[:0], LABELS[:0])}, "validation image has shape (0, 6)"),
        (
            {"validation": 0},
            "validation=0 takes 0 of 40 training examples ... from 1 to 39",
        ),
        ({"validation": 40}, "validation=40 takes 40 of 40"),
        ({"validation": 1.0}, "validation=1.0; allowed are a fraction between 0 and 1"),
        ({"validation": NAN}, "validation=nan; allowed are"),
        (
            {"validation": "0.1"},
            "validation must be ... a fraction or a number; got str",
        ),
        ({"num_classes": 4.0}, "num_classes=4.0; a classification needs an integer"),
        (
            {"num_classes": 3},
            "train label has 10 values outside 0 to 2 ... pass num_classes",
        ),
        ({"seed": 0.5}, "seed=0.5 must be a whole number from 0 up"),
    ),
    (
        regress,
        (
            {"data": IMAGES},
            "data must be (inputs, targets), or data a jepbt.Splits ... got ndarray",
            TypeError,
        ),
        (
            {"data": (IMAGES[:, 0], LABELS)},
            "data input has shape (40,) ... pass inputs[:, None]",
        ),
        ({"data": (IMAGES, LABELS[:3])}, "data has 40 inputs and 3 targets"),
        (
            {"data": (IMAGES, LABELS.astype(str))},
            "data target has dtype <U21 and holds texts: numbers to predict",
        ),
        (
            {"data": (IMAGES * NAN, LABELS)},
            "data input has 240 values like nan at (0, 0) ... remove or repair",
        ),
        (
            {"data": (IMAGES[:1], LABELS[:1])},
            "data has 1 example, of which none can be spared",
        ),
        ({"data": jepbt.Splits((IMAGES, LABELS), None)}, "data.validation is missing"),
        (
            {"data": jepbt.Splits((IMAGES, LABELS), (IMAGES[:, :2], LABELS))},
            "validation input has examples of float32[2], train input of float32[6]",
        ),
        ({"seed": -1}, "seed=-1 must be a whole number from 0 up"),
        ({"hparams": Hyper}, "regression: model is missing. With hparams=Hyper"),
        ({"hparams": Hyper()}, "Pass the class, not an instance", TypeError),
        ({"hparams": {"rate": 0.1}}, "hparams must be a dataclass", TypeError),
        (
            {"model": models.MLP(num_classes=3)},
            "predictions [B, 1] of the data's 1 targets, got (1, 3)",
        ),
        ({"loss": lambda h: optax.squared_error}, "loss: ... shape [B] ... got (1, 1)"),
    ),
    # ---- What reads a run
    (
        jepbt.load_history,
        ({"run": 3}, "got int", TypeError),
        ({"run": "nowhere"}, "name the folder of a run"),
    ),
    (
        jepbt.plots.fitness,
        (
            {"run": 3},
            "expected a jepbt.Result ... the folder of a run, got int",
            TypeError,
        ),
        ({"run": "nowhere"}, "name the folder of a run"),
    ),
    (
        jepbt.plots.animate,
        ({"run": "run", "path": "run.mp4"}, "run.mp4' must end in .gif"),
        ({"run": "run", "path": "no/run.gif"}, "its folder does not exist"),
        ({"run": 3, "path": "run.gif"}, "of a run, got int", TypeError),
        ({"run": "run", "path": "run.gif"}, "name the folder of a run"),
    ),
    (
        load,
        ({"run_dir": 3}, "load: run_dir must be a run's folder, got int", TypeError),
        ({"task": "fashion_mnist"}, "load: task must be a jepbt.Task", TypeError),
        ({"run_dir": "nowhere"}, "it is not known what the run there was"),
        ({"run_dir": "file"}, "it is not known what the run there was"),
        ({"run_dir": "run"}, "holds no whole checkpoint: nothing can be loaded"),
    ),
    # ---- A trained member
    (
        predict,
        ({"inputs": IMAGES[:, :4]}, "float32 and shape (40, 4) ... on float32[N, 6]"),
        ({"inputs": IMAGES[0]}, "predict: inputs has shape (6,); allowed are [N, D]"),
        ({"inputs": IMAGES[:0]}, "predict: inputs has shape (0, 6); allowed are"),
        ({"inputs": IDS}, "predict: inputs have dtype uint8 and shape (40, 6), and"),
        ({"inputs": filled(IMAGES, float, NAN)}, "predict: inputs has 1 values like"),
        ({"inputs": IMAGES.astype(str)}, "predict: inputs has dtype ... texts"),
        ({"inputs": SPARSE}, "predict: inputs is a sparse matrix"),
        ({"inputs": None}, "predict: inputs"),
        (
            {"inputs": IMAGES, "task": dataclasses.replace(task(), inference=None)},
            "does not say how a trained member predicts: its `inference` is None",
        ),
    ),
    # ---- The command line
    (
        command,
        *[({"line": line}, words, Refused) for line, words in COMMANDS.items()],
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


def go_on(*args, **kwargs):
    raise AssertionError("not refused: what comes next takes long")


@pytest.fixture(scope="module")
def compilations():
    """Whatever is compiled once for all, such as keys, is compiled before."""
    listener = Listener()
    task(), made_run(), nnx.Rngs(0)
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
    for name in ("file", "file.npz"):
        (tmp_path / name).write_text("")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    monkeypatch.setattr(jepbt, "use_all_cpu_cores", lambda: 4)
    for module, name in ((preparation, "place_inputs"), (benchmark, "_run")):
        monkeypatch.setattr(module, name, go_on)
    before = sorted(tmp_path.rglob("*"))
    pattern = ".*".join(map(re.escape, words.split(" ... ")))
    compilations.count = 0
    with pytest.raises(error, match=f"(?s){pattern}") as raised:
        function(**kwargs)
    assert compilations.count == 0
    assert type(raised.value) in (error, DoesNotFit)
    assert sorted(tmp_path.rglob("*")) == before  # nothing is left behind
