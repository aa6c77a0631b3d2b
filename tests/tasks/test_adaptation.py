"""A loss that learns from validation labels, against derivatives worked out by hand."""

import dataclasses
import json
import pickle
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numerics import enable_x64, softmax

import jepbt
from jepbt.losses import confusion
from jepbt.report import write_report
from jepbt.tasks import adaptation
from jepbt.tasks.adaptation import Adapted, Turn

rng = np.random.default_rng(0)
close = np.testing.assert_allclose


def same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


@dataclass
class Hyper(jepbt.HyperParameters):
    rate: float = jepbt.hparam(0.1, min=1e-3, max=1.0, log=True)
    meta_rate: float = jepbt.hparam(0.1, min=0.01, max=0.5, log=True)


def blobs(num_train=400, num_validation=60):
    """Three classes far apart; four in ten training labels name the next class."""
    labels = np.arange(num_train + num_validation) % 3
    images = 3.0 * np.eye(3)[labels] + 0.5 * rng.normal(size=(len(labels), 3))
    train, validation = slice(num_train), slice(num_train, None)
    seen = labels[train].copy()
    seen[rng.random(num_train) < 0.4] += 1
    return jepbt.datasets.from_arrays(
        (images[train].astype(np.float32), seen % 3),
        (images[validation].astype(np.float32), labels[validation]),
    )


DATA = blobs()


def make_task(
    form="transition", data=DATA, every=10, rate=lambda h: h.meta_rate, **parts
):
    return jepbt.classification(
        data,
        hparams=Hyper,
        model=jepbt.models.MLP(num_classes=3, hidden=(8,)),
        loss=jepbt.adapt(confusion(form), rate=rate, every=every, batch_size=32),
        optimizer=lambda h: optax.sgd(h.rate),
        batch_size=20,
        **parts,
    )


SMALL = {"population_size": 4, "num_generations": 3, "steps_per_generation": 12}
SMALL |= {"progress": False, "seed": 1}


def test_the_gradient_of_offsets_has_a_closed_form():
    """`sum over examples labelled a of p (zd - p.zd)`, and `A` has centred rows."""
    with enable_x64(True):
        weights, towards = rng.normal(size=(2, 5, 4))
        inputs, labels = rng.normal(size=(30, 5)), rng.integers(0, 4, 30)
        trusted = rng.normal(size=(9, 5)), rng.integers(0, 4, 9)
        table = rng.normal(size=(4, 4))
        got = adaptation.direction(
            confusion("offsets", counts=[1, 2, 3, 4]),
            jnp.array(table),
            jnp.array(weights),
            (lambda w: inputs @ w, np.eye(4)[labels]),
            (lambda w: trusted[0] @ w, np.eye(4)[trusted[1]]),
        )
    q = softmax(trusted[0] @ weights) - np.eye(4)[trusted[1]]
    towards = trusted[0].T @ q / 9
    z, moved = inputs @ weights, inputs @ towards
    shares = np.log(np.array([1, 2, 3, 4]) / 10)
    p = softmax(z + shares + (table - table.mean(1, keepdims=True))[labels])
    pushes = p * (moved - (p * moved).sum(1, keepdims=True))
    expected = np.stack([pushes[labels == a].sum(0) for a in range(4)])
    expected -= expected.mean(1, keepdims=True)
    close(got, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("form", ["transition", "offsets"])
def test_the_gradient_is_that_of_validation_after_a_step(form):
    """Ascending it lowers the validation loss that one step of descent arrives at."""
    loss = confusion(form)
    with enable_x64(True):
        w = {
            "a": jnp.array(rng.normal(size=(5, 6))),
            "b": jnp.array(rng.normal(size=(6, 4))),
        }
        x, y = rng.normal(size=(30, 5)), np.eye(4)[rng.integers(0, 4, 30)]
        xv, yv = rng.normal(size=(9, 5)), np.eye(4)[rng.integers(0, 4, 9)]
        table = jnp.array(rng.normal(size=(4, 4)))

        def predict(w, x):
            return jnp.tanh(x @ w["a"]) @ w["b"]

        def after_a_step(table, size=1e-6):
            def total(w):
                return loss.loss(table, predict(w, x), y).sum()

            moved = jax.tree.map(lambda w, g: w - size * g, w, jax.grad(total)(w))
            logits = predict(moved, xv)
            return optax.softmax_cross_entropy(logits, yv).mean() / size

        expected = -jax.grad(after_a_step)(table)
        training, validation = (
            (lambda w: predict(w, x), y),
            (lambda w: predict(w, xv), yv),
        )
        got = adaptation.direction(loss, table, w, training, validation)
    close(got, expected, rtol=0.02, atol=1e-3 * np.abs(expected).max())


def make_learned(table, count=0):
    """Knowledge with that number of gradients behind it, and averages of them."""
    adam = optax.ScaleByAdamState(jnp.int32(count), count * table, count * table)
    return Adapted(table, adam, jnp.bool_(False))


def test_adam_moves_the_table_and_stays_within_its_limit(monkeypatch):
    settings = jepbt.adapt(confusion(), rate=lambda h: h.meta_rate)
    gradients = iter(
        np.float32([[[1, -2], [0, 4]], [[3, 1], [0, 4]], [[np.nan, 1], [1, 1]]])
    )
    monkeypatch.setattr(adaptation, "direction", lambda *given: next(gradients))
    learned = make_learned(np.float32([[1, 2], [3, 7.95]]))

    def improve(learned):
        return adaptation.improve(settings, learned, 0.1, {}, None, None)

    learned = improve(learned)  # the rate, in the gradient's direction
    close(learned.parameters, [[1.1, 1.9], [3.0, 8.0]], rtol=1e-6)
    learned = improve(learned)
    mean, square = 0.9 * 0.1 + 0.1 * 3, 0.99 * 0.01 + 0.01 * 9
    step = mean / (1 - 0.9**2) / np.sqrt(square / (1 - 0.99**2))
    close(learned.parameters[0, 0], 1.1 + 0.1 * step, rtol=1e-5)
    assert learned.parameters[1, 1] == 8.0 and learned.adam.count == 2
    same(improve(learned), learned)  # nan


def test_a_start_is_the_mean_of_what_the_member_sees_in_each_class():
    settings = jepbt.adapt(confusion(), rate=lambda h: h.meta_rate)
    logits = rng.normal(size=(7, 3)).astype(np.float32)
    labels = np.array([0, 1, 2, 0, 1, 2, 0])
    table = np.float32(4 * np.eye(3))
    turn = Turn(jnp.bool_(True), jnp.bool_(True), None)

    def start(learned, turn=turn):
        def one_hot(rows):
            return jax.nn.one_hot(rows["label"], 3)

        rows = {"logits": jnp.array(logits), "label": jnp.array(labels)}
        return adaptation.start(
            settings, learned, turn, lambda rows: rows["logits"], one_hot, rows
        )

    learned = make_learned(table, count=2)
    started = start(learned)
    seen = softmax(logits) @ softmax(table)
    means = np.stack([seen[labels == a].mean(0) for a in range(3)])
    close(started.parameters, np.log(means + 1e-3), rtol=1e-5)
    assert (
        started.is_started and started.adam.count == 0 and not np.any(started.adam.mu)
    )
    later = started.adam._replace(count=jnp.int32(5))
    again = dataclasses.replace(started, adam=later)
    same(start(again), again)
    new = make_learned(table)  # has never trained
    same(start(new), new)
    same(start(learned, turn._replace(starts=jnp.bool_(False))), learned)


def test_a_table_learns_the_noise_and_the_winner_the_classes():
    """Of class `a` six in ten are labelled `a`, four in ten the next class."""
    fields = {"population_size": 4, "num_generations": 4, "steps_per_generation": 60}
    result = jepbt.train_population(make_task(), progress=False, **fields)
    table = np.asarray(result.task.confusions(result.best.state))
    close(table.sum(1), 1, rtol=1e-5)
    off = table - np.diag(np.diag(table))
    assert (off.argmax(1) == [1, 2, 0]).all() and result.best.fitness.mean > 0.95


def test_tables_change_in_their_steps_alone_and_are_inherited():
    """At rate 0 all that moves a table is its start, after the first generation."""
    task = make_task(rate=lambda h: 0.0 * h.meta_rate)
    first = jepbt.train_population(task, **SMALL | {"num_generations": 1})
    tables = first.population.state.loss.parameters
    same(tables, np.float32([4 * np.eye(3)] * 4))
    assert (first.population.state.loss.adam.count == 2).all()  # steps 0 and 10 of 12
    second = jepbt.train_population(task, **SMALL | {"num_generations": 2})
    third = jepbt.train_population(task, **SMALL)
    started, kept = (run.population.state.loss.parameters for run in (second, third))
    assert np.abs(started - tables).max() > 1
    same(kept, started[third.history.parents[2]])


def test_a_stopped_run_goes_on_with_the_same_tables(tmp_path):
    whole = jepbt.train_population(make_task(), **SMALL)
    settings = SMALL | {"run_dir": tmp_path / "run"}
    jepbt.train_population(make_task(), max_seconds=1e-9, **settings)
    again = jepbt.train_population(make_task(), resume=True, **settings)
    assert len(again.history) == 3
    same(again.population.state, whole.population.state)
    other = jepbt.replay(make_task(), again, progress=False)
    assert other.final_best.state.loss.is_started


def test_chunks_and_devices_do_not_change_the_tables():
    runs = [
        jepbt.train_population(make_task(), **SMALL, chunk_size=size, devices=devices)
        for size, devices in (
            (1, jax.devices()[:1]),
            (4, jax.devices()[:1]),
            (1, jax.devices()[:2]),
        )
    ]
    first, *others = (run.population.state.loss.parameters for run in runs)
    for other in others:
        close(other, first, atol=1e-3)


def test_any_loss_with_parameters_can_adapt():
    """GCE whose `q` follows the validation gradient; it has neither start nor table."""
    loss = jepbt.losses.AdaptiveLoss(
        init=lambda num_classes: jnp.float32(0.0),
        loss=lambda u, logits, labels: jepbt.losses.generalized_cross_entropy(
            jax.nn.sigmoid(u)
        )(logits, labels),
        limit=4.0,
    )
    task = jepbt.classification(
        DATA,
        hparams=Hyper,
        model=jepbt.models.MLP(num_classes=3, hidden=()),
        loss=jepbt.adapt(loss, rate=lambda h: h.meta_rate),
        optimizer=lambda h: optax.sgd(h.rate),
    )
    result = jepbt.train_population(task, **SMALL)
    assert task.confusions is None
    assert (np.abs(result.population.state.loss.parameters) > 0.1).all()


def test_the_winners_table_is_kept_and_drawn(tmp_path):
    folder = tmp_path / "run"
    result = jepbt.train_population(make_task(), **SMALL, run_dir=folder)
    expected = softmax(np.asarray(result.best.state.loss.parameters))
    close(result.best.confusions, expected, rtol=1e-5)
    kept = json.loads((folder / "confusions.json").read_text())
    same(np.float32(kept["table"]), result.best.confusions)
    assert (kept["rows"], kept["columns"]) == ("true class", "label")
    same(jepbt.load(folder, make_task()).best.confusions, result.best.confusions)
    same(pickle.loads(pickle.dumps(result)).best.confusions, result.best.confusions)
    names = ["cat", "dog", "owl"]
    for run, given in ((result, names), (folder, np.array(names))):
        axes = jepbt.plots.confusions(run, class_names=given)
        close(axes.images[0].get_array(), expected, rtol=1e-5)
        assert [label.get_text() for label in axes.get_xticklabels()] == names
        assert (axes.get_ylabel(), axes.get_xlabel()) == ("true class", "label")
    words = "what the winner's loss has learned of the labels"
    assert words in result._repr_html_()
    assert "learned of the labels" in write_report(folder).read_text()
    with pytest.raises(ValueError, match="must be 3 names"):
        jepbt.plots.confusions(result, class_names=["cat", "dog"])


def test_a_run_without_a_table_says_so():
    task = dataclasses.replace(make_task(), confusions=lambda state: 1 / 0)
    with pytest.warns(RuntimeWarning, match="confusions are missing"):
        result = jepbt.train_population(task, **SMALL | {"num_generations": 1})
    assert result.best.confusions is None
    with pytest.raises(ValueError, match="learned no table of confusions"):
        jepbt.plots.confusions(result)
