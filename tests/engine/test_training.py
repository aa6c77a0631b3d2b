"""A generation and a run, against loops that do not use them."""

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jepbt
from jepbt import population as keys
from jepbt.engine import Best, make_inputs, make_mesh, make_phases
from jepbt.engine.batches import batch_indices
from jepbt.engine.evaluation import keep_best, mean_score
from jepbt.nn import lowering
from jepbt.population import Member, derive_key
from jepbt.strategies import Evaluation, Plan, Strategy

NAN = float("nan")
rng = np.random.default_rng(0)
IMAGES = rng.normal(size=(90, 6)).astype(np.float32)
LABELS = (IMAGES[:, 0] + IMAGES[:, 1] > 0).astype(np.int32)
SETTINGS = {"num_generations": 4, "steps_per_generation": 5, "batch_size": 7}


@dataclass
class Hyper(jepbt.HyperParameters):
    rate: float = jepbt.hparam(0.1, min=1e-3, max=1.0, log=True)
    momentum: float = jepbt.hparam(0.5, min=0.0, max=0.95)


def make_task(**changes):
    arguments = {
        "hparams": Hyper,
        "model": jepbt.models.MLP(num_classes=2, hidden=(8,)),
        "loss": lambda h: jepbt.losses.cross_entropy,
        "optimizer": lambda h: optax.sgd(h.rate, momentum=h.momentum),
    }
    return jepbt.classification((IMAGES, LABELS), **(arguments | changes))


def run_whole(strategy, num_members=4, chunk_size=1, seed=0, task=None, **settings):
    task = make_task() if task is None else task
    config = jepbt.Config(
        population_size=num_members, chunk_size=chunk_size, **(SETTINGS | settings)
    )
    run = jax.jit(jepbt.make_run(task, strategy, config))
    return run(jax.random.key(seed), task.data)


def test_a_member_equals_a_plain_optax_loop():
    """Python floats, one network, optax by hand: the same weights and loss."""
    task = make_task()
    population, _, history = run_whole(jepbt.strategies.random_search())
    slot = 2
    rate, momentum = (
        float(getattr(history.hparams, name)[0, slot]) for name in ("rate", "momentum")
    )
    run_key = jax.random.key(0)
    params = task.init(
        derive_key(run_key, keys.FIRST_STATES, slot), Hyper(rate, momentum)
    ).params
    optimizer = optax.sgd(rate, momentum=momentum)
    opt_state = optimizer.init(params)

    @jax.jit
    def step(params, opt_state, images, labels):
        def objective(params):
            hidden = images @ params["dense1"]["kernel"]
            hidden = jax.nn.relu(hidden + params["dense1"]["bias"][None])
            logits = hidden @ params["dense2"]["kernel"]
            logits = logits + params["dense2"]["bias"][None]
            return optax.softmax_cross_entropy_with_integer_labels(
                logits, labels
            ).mean()

        loss, gradients = jax.value_and_grad(objective)(params)
        updates, opt_state = optimizer.update(gradients, opt_state)
        return optax.apply_updates(params, updates), opt_state, loss

    train = task.data.train
    for generation in range(4):
        rows = batch_indices(
            derive_key(run_key, keys.BATCHES),
            generation,
            num_examples=len(train["label"]),
            batch_size=7,
            num_steps=5,
        )
        losses = []
        for batch in np.asarray(rows):
            params, opt_state, loss = step(
                params, opt_state, train["image"][batch], train["label"][batch]
            )
            losses.append(float(loss))
        np.testing.assert_allclose(
            history.metrics["loss"][generation, slot], np.mean(losses), rtol=1e-4
        )
    jax.tree.map(
        lambda leaf, expected: np.testing.assert_allclose(
            leaf[slot], expected, rtol=1e-3, atol=1e-5
        ),
        population.state.params,
        params,
    )


def test_a_population_equals_its_members_trained_alone():
    """Chunks of 1, 2 and 4: the same fitness, parents and weights."""
    alone = run_whole(jepbt.strategies.epbt(), chunk_size=1)
    for chunk_size in (2, 4):
        together = run_whole(jepbt.strategies.epbt(), chunk_size=chunk_size)
        np.testing.assert_array_equal(together[2].parents, alone[2].parents)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
            together[0].state,
            alone[0].state,
        )


def test_runs_batch_over_keys():
    task, strategy = make_task(), jepbt.strategies.epbt()
    config = jepbt.Config(population_size=4, **SETTINGS)
    run = jepbt.make_run(task, strategy, config)
    seeds = jnp.stack([jax.random.key(seed) for seed in range(2)])
    _, best, history = jax.jit(jax.vmap(run, (0, None)))(seeds, task.data)
    _, best_alone, history_alone = run_whole(strategy, seed=1)
    np.testing.assert_allclose(history.fitness[1], history_alone.fitness, atol=1e-6)
    np.testing.assert_allclose(best.member.fitness[1], best_alone.member.fitness)


def phases_of(strategy, num_members=4, task=None, mesh=None, chunk=1, **settings):
    task = make_task() if task is None else task
    config = jepbt.Config(population_size=num_members, **(SETTINGS | settings))
    phases = make_phases(task, strategy, config, mesh=mesh, chunk_size=chunk)
    inputs = make_inputs(jax.random.key(0), task.data, task.shared)
    return jax.tree.map(jax.jit, phases), inputs


def test_children_get_their_parents_weights_and_optimizer_state():
    """Elites stay bit for bit; a child equals its parent in every leaf."""
    phases, inputs = phases_of(jepbt.strategies.epbt(), num_members=6)
    state = phases.init(inputs)
    state, metrics = phases.train(inputs, 0, state)
    state = phases.evaluate(inputs, 0, metrics, state)
    after, plan = phases.evolve(inputs, 1, state)
    parents = np.asarray(plan.parents)
    assert (parents != np.arange(6)).any()
    momenta = jax.tree.leaves(state.population.state.opt_state)
    assert any(np.abs(leaf).max() > 0 for leaf in momenta)
    for old, new in zip(
        jax.tree.leaves(state.population.state),
        jax.tree.leaves(after.population.state),
        strict=True,
    ):
        np.testing.assert_array_equal(new, np.asarray(old)[parents])
    stays = parents == np.arange(6)
    expected = np.where(stays, state.evaluation.fitness, np.nan)
    np.testing.assert_array_equal(after.population.fitness, expected)


def test_twins_part_as_they_train():
    """Two members that are equal in everything draw different dropout masks."""
    same = Strategy(
        init=lambda key, kind, num, generations: (
            (),
            Hyper(jnp.full(num, 0.1), jnp.full(num, 0.5)),
        ),
        step=lambda key, state, generation, h, evaluation: (
            state,
            Plan(jnp.zeros(h.rate.size, jnp.int32), h, {}),
        ),
    )
    task = make_task(model=jepbt.models.MLP(num_classes=2, hidden=(8,), dropout=0.5))
    phases, inputs = phases_of(same, num_members=2, task=task)
    state, _ = phases.evolve(inputs, 1, phases.init(inputs))
    kernel = state.population.state.params["dense1"]["kernel"]
    np.testing.assert_array_equal(kernel[0], kernel[1])
    state, _ = phases.train(inputs, 1, state)
    kernel = state.population.state.params["dense1"]["kernel"]
    assert not np.allclose(kernel[0], kernel[1])


@dataclass
class Decay(jepbt.HyperParameters):
    decay: float = jepbt.hparam(0.25, choices=(0.25, 0.5))


def draw(key):
    return jax.random.uniform(key)


DIARY = jepbt.Task(  # writes down a draw from every key that it is given
    hparams=Decay,
    init=lambda key, h: {"born": draw(key), "draws": jnp.zeros(9), "step": 0},
    train_step=lambda key, state, h, batch, shared: (
        {
            "born": state["born"],
            "draws": state["draws"].at[state["step"]].set(draw(key)),
            "step": state["step"] + 1,
        },
        {"loss": jnp.zeros(()), "born": state["born"]},
    ),
    evaluate=lambda key, state, h, batch, shared: draw(key)[None],
)


def diary(fresh):
    """Three generations of three steps; slots take their right neighbour's state."""

    def step(key, state, generation, h, evaluation):
        parents = jnp.roll(jnp.arange(4), -1)
        return state, Plan(parents, h, {"draw": draw(key)}, fresh)

    strategy = Strategy(jepbt.strategies.random_search().init, step)
    settings = {"num_generations": 3, "steps_per_generation": 3, "batch_size": None}
    return run_whole(strategy, task=DIARY, **settings)


def test_no_key_is_used_twice():
    """By slot, step and generation; one evaluation key serves all members."""
    population, _, history = diary(fresh=None)
    draws = np.concatenate(
        [
            np.ravel(population.state["draws"]),
            population.state["born"],
            history.info["draw"][1:],
            np.unique(history.fitness),
        ]
    )
    assert len(np.unique(draws)) == len(draws) == 4 * 9 + 4 + 2 + 3
    assert (history.fitness == history.fitness[:, :1]).all()
    restarts = diary(fresh=jnp.ones(4, bool))[2].metrics["born"]
    assert len(np.unique(restarts)) == 3 * 4


def test_a_run_of_three_generations_evolves_twice():
    _, _, history = diary(fresh=None)
    np.testing.assert_array_equal(history.parents[0], np.arange(4))
    born = np.asarray(history.metrics["born"])
    for generation in range(3):
        np.testing.assert_array_equal(born[generation], np.roll(born[0], -generation))


def test_slots_that_start_over_are_initialised_anew():
    fresh = jnp.array([False, True, False])
    restart = Strategy(
        init=jepbt.strategies.random_search().init,
        step=lambda key, state, generation, h, evaluation: (
            state,
            Plan(jnp.arange(3), h, {}, fresh),
        ),
    )
    phases, inputs = phases_of(restart, num_members=3)
    state, _ = phases.train(inputs, 0, phases.init(inputs))
    after, _ = phases.evolve(inputs, 1, state)
    old, new = (s.population.state.params["dense1"]["kernel"] for s in (state, after))
    np.testing.assert_array_equal(new[jnp.array([0, 2])], old[jnp.array([0, 2])])
    assert not np.allclose(new[1], old[1])
    momenta = jax.tree.leaves(after.population.state.opt_state)
    assert all(np.abs(leaf[1]).max() == 0 for leaf in momenta)


@pytest.mark.parametrize("num_devices", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_sharded_equals_unsharded(num_devices):
    mesh = make_mesh(jax.devices()[:num_devices])
    strategy = jepbt.strategies.epbt()
    finals = []
    for used in (None, mesh):
        phases, inputs = phases_of(strategy, num_members=8, mesh=used)
        state = phases.init(inputs)
        for generation in range(3):
            if generation:
                state, _ = phases.evolve(inputs, generation, state)
            state, metrics = phases.train(inputs, generation, state)
            state = phases.evaluate(inputs, generation, metrics, state)
        finals.append(state)
    leaf = jax.tree.leaves(finals[1].population.state)[0]
    assert len(leaf.sharding.device_set) == num_devices
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *finals
    )


@dataclass
class Explosive(jepbt.HyperParameters):
    fuse: float = jepbt.hparam(1.0, min=0.0, max=1.0)


EXPLOSIVE = jepbt.Task(  # fails from a threshold on, and scores high before
    hparams=Explosive,
    init=lambda key, h: jnp.float32(0.0),
    train_step=lambda key, x, h, batch, shared: (
        x + jnp.where(h.fuse > 0.5, jnp.nan, 1.0),
        {"loss": x},
    ),
    evaluate=lambda key, x, h, batch, shared: (x + h.fuse)[None],
)


@pytest.mark.parametrize(
    "strategy", [jepbt.strategies.epbt(), jepbt.strategies.pbt()], ids=["epbt", "pbt"]
)
def test_a_failed_member_never_becomes_parent_or_elite(strategy):
    _, best, history = run_whole(
        strategy, num_members=8, task=EXPLOSIVE, num_generations=6, batch_size=None
    )
    failed = np.isnan(history.fitness)
    np.testing.assert_array_equal(failed, np.asarray(history.hparams.fuse) > 0.5)
    assert failed[0].any() and not failed.all(1).any()
    for generation in range(1, 6):
        moved = history.parents[generation] != np.arange(8)
        assert not failed[generation - 1][history.parents[generation][moved]].any()
        if "elites" in history.info:
            elites = np.asarray(history.info["elites"][generation])
            assert not failed[generation - 1][elites].any()
    assert np.isfinite(best.member.fitness)
    assert float(best.member.fitness) == np.nanmax(history.fitness)


def test_an_infinite_loss_fails_a_member_whose_scores_are_fine():
    task = dataclasses.replace(
        EXPLOSIVE,
        train_step=lambda key, x, h, batch, shared: (x, {"loss": 1 / x}),
    )
    _, _, history = run_whole(
        jepbt.strategies.random_search(), task=task, batch_size=None
    )
    assert np.isnan(history.fitness).all()


def test_an_infinite_score_fails_a_member():
    task = dataclasses.replace(
        EXPLOSIVE, evaluate=lambda key, x, h, batch, shared: (1 / (0 * x))[None]
    )
    search = jepbt.strategies.random_search()
    _, best, history = run_whole(search, task=task, batch_size=None, num_generations=1)
    assert np.isnan(history.fitness).all() and best.slot == -1


def test_repair_is_the_last_word_on_every_new_hyperparameter():
    task = dataclasses.replace(
        EXPLOSIVE, repair=lambda h: Explosive(jnp.minimum(h.fuse, 0.25))
    )
    _, _, history = run_whole(
        jepbt.strategies.epbt(), num_members=8, task=task, batch_size=None
    )
    assert float(history.hparams.fuse.max()) == 0.25


def test_an_untrainable_loss_is_repaired_before_steps_are_spent():
    """All members start from a loss that pushes the true class down: m = -4."""
    backwards = (0.0, 0.0, 0.0, -4.0, 0.0, 0.0, 0.5, 0.5)

    @dataclass
    class WithLoss(jepbt.HyperParameters):
        loss: jepbt.Loss = jepbt.taylor_hparam(backwards)

    task = make_task(
        hparams=WithLoss,
        loss=lambda h: jepbt.losses.taylor(h.loss),
        optimizer=lambda h: optax.sgd(1.0),
    )
    search = jepbt.strategies.random_search()
    _, _, repaired = run_whole(search, task=task, steps_per_generation=100)
    np.testing.assert_allclose(repaired.hparams.loss[..., 3], 0.1, rtol=1e-5)
    assert float(repaired.fitness[-1].mean()) > 0.8
    broken = dataclasses.replace(task, repair=None)
    _, _, unrepaired = run_whole(search, task=broken, steps_per_generation=100)
    assert float(unrepaired.fitness[-1].mean()) < 0.3


def test_the_best_member_ever_is_kept_and_ties_go_to_the_earliest():
    def best_after(*rows):
        best = Best(Member(jnp.int32(-1), (), jnp.float32(-jnp.inf)), NAN, -1, -1)
        best = jax.tree.map(jnp.asarray, best)
        for generation, row in enumerate(rows):
            fitness = jnp.array(row)
            state = 10 * generation + jnp.arange(fitness.size)
            evaluation = Evaluation(fitness, state.astype(jnp.float32))
            population = Member(state, (), fitness)
            best = keep_best(best, population, evaluation, generation)
        assert best.generation < 0 or best.standard_error == best.member.state
        return int(best.generation), int(best.slot), int(best.member.state)

    assert best_after([0.1, 0.7, 0.2], [0.3, 0.4, 0.6]) == (0, 1, 1)
    assert best_after([0.1, 0.7, 0.2], [0.3, 0.4, 0.8]) == (1, 2, 12)
    assert best_after([0.5, 0.7, 0.7], [0.7, 0.1, 0.1]) == (0, 1, 1)
    assert best_after([NAN, 0.2, NAN], [NAN, NAN, NAN]) == (0, 1, 1)
    assert best_after([NAN, NAN, NAN]) == (-1, -1, -1)


@pytest.mark.parametrize("num_rows", [1, 3, 250, 251, 612])
def test_padding_of_the_last_batch_does_not_count(num_rows):
    rows = np.random.default_rng(1).normal(size=num_rows).astype(np.float32)
    task = dataclasses.replace(
        EXPLOSIVE, evaluate=lambda key, state, h, batch, shared: batch
    )
    mean, error = mean_score(task, jax.random.key(0), None, None, jnp.asarray(rows), ())
    np.testing.assert_allclose(mean, rows.mean(dtype=np.float64), atol=1e-6)
    expected = rows.std(dtype=np.float64) / np.sqrt(num_rows)
    np.testing.assert_allclose(error, expected, atol=1e-6)


@pytest.mark.parametrize("batches", ["shared", "per_member"])
def test_members_read_the_same_batches_or_their_own(batches):
    """Each member remembers the first row that it was given."""
    task = jepbt.Task(
        hparams=Explosive,
        init=lambda key, h: jnp.zeros(5, jnp.int32),
        train_step=lambda key, rows, h, batch, shared: (batch, {"loss": jnp.zeros(())}),
        evaluate=lambda key, rows, h, batch, shared: jnp.zeros(batch.size),
        data=jepbt.Splits(np.arange(1000, dtype=np.int32), np.zeros(3, np.float32)),
    )
    population, _, _ = run_whole(
        jepbt.strategies.random_search(), task=task, batch_size=5, batches=batches
    )
    rows = np.asarray(population.state)
    same = (rows == rows[0]).all()
    assert same == (batches == "shared")


@pytest.mark.parametrize("num_devices", [1, 2])
def test_reading_a_shared_batch_each_for_itself_changes_nothing(num_devices):
    """As members do on a GPU."""
    mesh, chunk = make_mesh(jax.devices()[:num_devices]), 4 // num_devices
    finals = []
    for form in (lowering.XLA, lowering.EACH_ITS_OWN):
        phases, inputs = phases_of(jepbt.strategies.epbt(), mesh=mesh, chunk=chunk)
        with lowering.trying(jax.default_backend(), {"batch": form}):
            state = phases.init(inputs)
            text = phases.train.lower(inputs, 0, state).as_text()
            state, metrics = phases.train(inputs, 0, state)
            finals.append(phases.evaluate(inputs, 0, metrics, state))
        rows_of_members = f"tensor<{chunk}x5x7xi32>"
        assert (rows_of_members in text) == (form == lowering.EACH_ITS_OWN)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *finals
    )


def test_keys_differ_by_purpose_generation_slot_and_step(key):
    purposes = (
        keys.FIRST_HPARAMS,
        keys.FIRST_STATES,
        keys.STRATEGY,
        keys.BATCHES,
        keys.TRAIN,
        keys.EVALUATE,
        keys.FRESH,
    )
    derived = [
        tuple(jax.random.key_data(derive_key(key, purpose, *indices)).tolist())
        for purpose in purposes
        for indices in [(), (0,), (1,), (0, 1), (1, 0)]
    ]
    assert len(set(derived)) == len(derived)
