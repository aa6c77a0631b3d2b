"""The host loop: the compiled program's strategies around any evaluation function."""

import dataclasses
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from host_functions import Hyper, fail_first_slot, population

import jepbt
from jepbt import Candidate, strategies
from jepbt.host.candidate import decode_population, encode_population
from jepbt.population import FIRST_HPARAMS, STRATEGY, derive_key
from jepbt.strategies import Evaluation

NAN = float("nan")


@dataclasses.dataclass
class Rate(jepbt.HyperParameters):
    rate: float = jepbt.hparam(0.05, min=1e-4, max=1.0, log=True)


def rates(num_members):
    return [Candidate(None, Rate()) for _ in range(num_members)]


class Recorder:
    """An evaluation function that keeps what it was given, generation by generation."""

    def __init__(self, num_members, fitness=None):
        self.num_members = num_members
        self.given = []
        self.fitness = fitness or (lambda number, candidate: number % num_members)

    def __call__(self, candidate):
        number = len(self.given)
        self.given.append(candidate)
        score = self.fitness(number, candidate)
        return Candidate(f"model {number}", candidate.hparams, score)

    def generation(self, number):
        return self.given[number * self.num_members : (number + 1) * self.num_members]


@pytest.mark.parametrize("name", ["epbt", "pbt", "random_search"])
def test_every_generation_is_the_strategys_own_step(name):
    """Models and hyperparameters are those of `init` and `step` called alone."""
    fitness = [[0.3, 0.9, NAN, 0.1], [0.8, 0.2, 0.4, 0.9]]
    recorder = Recorder(4, lambda n, _: fitness[n // 4][n % 4] if n < 8 else 0.0)
    strategy = getattr(strategies, name)()
    for _ in jepbt.epbt(3, population(4), recorder, strategy=strategy, seed=5):
        pass

    key = jax.random.key(5)
    state, hparams = strategy.init(derive_key(key, FIRST_HPARAMS), Hyper, 4, 3)
    models = [None] * 4
    for generation in range(3):
        given = recorder.generation(generation)
        assert [c.hparams for c in given] == decode_population(hparams)
        assert [c.model for c in given] == models
        if generation < 2:
            step_key = derive_key(key, STRATEGY, generation + 1)
            evaluation = Evaluation(jnp.array(fitness[generation]), jnp.zeros(4))
            state, plan = jax.jit(strategy.step)(
                step_key, state, jnp.int32(generation + 1), hparams, evaluation
            )
            hparams = plan.hparams
            models = [f"model {4 * generation + parent}" for parent in plan.parents]


def test_yields_the_best_so_far_after_every_generation():
    fitness = [[0.1, 0.7, 0.3, 0.7], [0.2, 0.6, 0.1, 0.7], [0.5, 0.9, 0.9, 0.0]]
    recorder = Recorder(4, lambda n, _: fitness[n // 4][n % 4])
    bests = list(jepbt.epbt(3, population(4), recorder))
    assert [best.fitness for best in bests] == [0.7, 0.7, 0.9]
    assert [best.model for best in bests] == ["model 1", "model 1", "model 9"]


def test_the_loop_works_where_jax_has_no_cpu(monkeypatch):
    """As with JAX_PLATFORMS=cuda."""

    def refuse(*args, backend=None, **settings):
        raise RuntimeError("Unknown backend cpu. Available backends are ['cuda']")

    expected = [best.fitness for best in jepbt.epbt(3, population(4), climb)]
    monkeypatch.setattr(jax, "local_devices", refuse)
    assert [best.fitness for best in jepbt.epbt(3, population(4), climb)] == expected


def test_elites_are_trained_again_with_their_model():
    """The fitter half goes on in its slots with unchanged hyperparameters."""
    recorder = Recorder(4)
    for _ in jepbt.epbt(2, population(4), recorder):
        pass
    before, after = recorder.generation(0), recorder.generation(1)
    assert len(recorder.given) == 8
    for slot in (2, 3):
        assert after[slot].model == f"model {slot}"
        assert after[slot].hparams == before[slot].hparams
    for slot in (0, 1):
        assert after[slot].model in ("model 1", "model 2", "model 3")


def test_values_keep_their_python_types_and_bounds():
    seen = Recorder(4)
    for _ in jepbt.epbt(24, population(4), seen):
        pass
    for candidate in seen.given:
        h = candidate.hparams
        assert type(h.rate) is float and 1e-4 <= h.rate <= 1.0
        assert type(h.dropout) is float and 0.0 <= h.dropout <= 0.6
        assert type(h.width) is int and 1 <= h.width <= 100
        assert type(h.nesterov) is bool
        assert h.optimizer in ("sgd", "adam", "lion")
        assert h.layers in ((64,), (64, 64), (32, 32, 32))
        assert type(h.batch_size) is int and h.batch_size in (16, 32, 64)
    for field in dataclasses.fields(Hyper):
        values = {getattr(c.hparams, field.name) for c in seen.given}
        assert len(values) > 1, field.name


def test_reals_come_back_with_the_digits_they_were_given():
    hparams = [Hyper(rate=rate, dropout=0.6) for rate in (0.05, 1e-4, 1 / 3, 1.0)]
    given = [Candidate(None, h) for h in hparams]
    back = decode_population(encode_population(given))
    assert [h.rate for h in back] == [0.05, 1e-4, 0.33333334, 1.0]
    assert all(h.dropout == 0.6 for h in back)


def test_a_population_with_different_hyperparameters_is_used_as_given():
    given = [Hyper(width=width) for width in (5, 6, 7)]
    recorder = Recorder(3)
    next(jepbt.epbt(1, [Candidate("old", h) for h in given], recorder))
    assert [c.hparams for c in recorder.given] == given
    assert {c.model for c in recorder.given} == {"old"}


def test_repeated_hyperparameters_are_drawn_from_the_prior():
    given = [Hyper(), Hyper(width=7), Hyper(), Hyper(width=7)]
    recorder = Recorder(4)
    next(jepbt.epbt(1, [Candidate(None, h) for h in given], recorder))
    used = [c.hparams for c in recorder.given]
    assert used[:2] == given[:2]
    assert len({str(h) for h in used}) == 4
    again = Recorder(4)
    next(jepbt.epbt(1, [Candidate(None, h) for h in given], again, seed=1))
    assert [c.hparams for c in again.given][2] != used[2]


def climb(candidate):
    model = [*(candidate.model or []), candidate.hparams.rate]
    return Candidate(model, candidate.hparams, sum(model))


def climb_in_place(candidate):
    model = candidate.model if isinstance(candidate.model, list) else []
    model.append(1.0)
    return Candidate(model, candidate.hparams, float(len(model)))


def test_a_model_trained_in_place_does_not_reach_its_siblings():
    """All descend from one winner; each adds one element to a list of its own."""
    for generation, best in enumerate(jepbt.epbt(4, population(4), climb_in_place)):
        assert best.fitness == generation + 1 == len(best.model)


def test_a_failed_evaluation_is_scored_nan_and_named():
    with pytest.warns(RuntimeWarning) as caught:
        bests = list(jepbt.epbt(2, population(4), fail_first_slot))
    message = str(caught[0].message)
    assert "slot 0 in generation 0 failed: ValueError: no luck" in message
    assert "host_functions.py:" in message and "Hyper(rate=0.05" in message
    assert caught[0].filename == __file__
    assert len(caught) == 1, "its slot was not replaced"
    assert bests[1].fitness > bests[0].fitness


def test_a_failed_evaluation_is_tried_again_if_asked():
    tried = []

    def fail_twice(candidate):
        tried.append(candidate.hparams)
        if candidate.hparams == Hyper() and tried.count(Hyper()) < 3:
            raise OSError("try again")
        return climb(candidate)

    next(jepbt.epbt(1, population(3), fail_twice, retries=2))
    assert len(tried) == 5 and tried.count(Hyper()) == 3
    tried.clear()
    with pytest.warns(RuntimeWarning, match="OSError: try again"):
        next(jepbt.epbt(1, population(3), fail_twice, retries=1))


def test_when_all_evaluations_fail_the_run_ends_with_the_first_error():
    def fail(candidate):
        raise ZeroDivisionError("the bug")

    run = jepbt.epbt(2, population(3), fail)
    with (
        pytest.warns(RuntimeWarning),
        pytest.raises(RuntimeError, match=r"all 3 eval.*\n(.*\n)*.*, in fail") as error,
    ):
        next(run)
    assert "ZeroDivisionError: the bug" in str(error.value)
    never = Recorder(3, lambda number, candidate: np.inf)
    with pytest.raises(RuntimeError, match="fitness that is not finite"):
        next(jepbt.epbt(2, population(3), never))


@pytest.mark.parametrize(
    "scalar", [0.5, np.float32(0.5), np.array(0.5), jnp.float32(0.5)]
)
def test_any_scalar_is_a_fitness(scalar):
    recorder = Recorder(2, lambda number, candidate: scalar)
    best = next(jepbt.epbt(1, population(2), recorder))
    assert type(best.fitness) is float and best.fitness == 0.5


def test_asynchronous_in_process_breeds_each_slot_from_the_last_known_fitness():
    """The plan after each result is `step`'s, of which one slot's row is adopted."""
    num_members, num_results = 4, 10
    scores = np.random.default_rng(0).permutation(num_results) / 10
    recorder = Recorder(num_members, lambda n, _: scores[n % num_results])
    run = jepbt.epbt(3, population(num_members), recorder, asynchronous=True, seed=2)
    for _ in run:
        pass
    assert len(recorder.given) == 12

    key, strategy = jax.random.key(2), strategies.epbt()
    step = jax.jit(strategy.step)
    last = [Candidate(None, c.hparams) for c in recorder.given[:num_members]]
    fitness = [NAN] * num_members
    ages = [0] * num_members
    for number in range(8):
        slot = number % num_members
        given = recorder.given[number]
        last[slot] = Candidate(f"model {number}", given.hparams)
        fitness[slot] = scores[number]
        ages[slot] += 1
        _, plan = step(
            derive_key(key, STRATEGY, ages[slot], slot),
            (),
            jnp.int32(1),
            encode_population(last),
            Evaluation(jnp.array(fitness), jnp.zeros(num_members)),
        )
        child = recorder.given[number + num_members]
        assert child.hparams == decode_population(plan.hparams)[slot]
        assert child.model == last[int(plan.parents[slot])].model
        assert child.model is not None, "bred from a slot without a result"


def test_asynchronous_a_slow_slot_does_not_hold_up_the_others():
    """One evaluation waits until the others have bred and been evaluated twice more."""
    release, done = threading.Event(), []

    def evaluate(candidate):
        if candidate.model is None and candidate.hparams == Hyper():
            assert release.wait(timeout=120)
        done.append(candidate.model)
        if len(done) == 9:
            release.set()
        return climb(candidate)

    with ThreadPoolExecutor(4) as executor:
        run = jepbt.epbt(
            3, population(4), evaluate, executor=executor, asynchronous=True
        )
        bests = list(run)
    assert len(bests) == 3 and len(done) == 12
    assert max(len(model or []) for model in done[:9]) >= 2


def counting_strategy(by_slot):
    """Counts the steps that it took, for each of 3 slots and, three times, in all."""

    def init(key, hparams_type, num_members, num_generations):
        _, hparams = strategies.random_search().init(
            key, hparams_type, num_members, num_generations
        )
        return (jnp.zeros(num_members), jnp.zeros(3)), hparams

    def step(key, state, generation, hparams, evaluation):
        mine, total = state
        jax.debug.callback(lambda *s: seen.append(jax.device_get(s)), mine, total)
        plan = strategies.Plan(jnp.arange(mine.size), hparams, {})
        return (mine + 1, total + 1), plan

    seen = []
    return strategies.Strategy(init, step, by_slot=by_slot), seen


def test_asynchronous_a_slot_adopts_its_own_rows_of_the_strategys_state():
    """An array that merely is as long as there are slots is adopted whole."""
    strategy, seen = counting_strategy(by_slot=(True, False))
    for _ in jepbt.epbt(3, rates(3), climb, strategy=strategy, asynchronous=True):
        pass
    jax.effects_barrier()
    np.testing.assert_array_equal(seen[-1][0], [2, 2, 1])
    np.testing.assert_array_equal(seen[-1][1], [5, 5, 5])


def test_asynchronous_a_state_without_rows_is_refused_unless_marked():
    strategy, _ = counting_strategy(by_slot=True)
    with pytest.raises(
        ValueError, match=r"shape \(3,\) has no row for each of 4.*by_sl"
    ):
        jepbt.epbt(2, rates(4), climb, strategy=strategy, asynchronous=True)
    next(jepbt.epbt(2, rates(4), climb, strategy=strategy))


def test_asynchronous_pb2_observes_what_each_slot_gained_and_nothing_else():
    """With as many slots as it remembers generations: axes of equal length."""
    num_members, seen = 4, []
    pb2 = strategies.pb2(num_candidates=2, num_observations=num_members**2)

    def step(key, state, *rest):
        state, plan = pb2.step(key, state, *rest)
        jax.debug.callback(lambda *s: seen.append(jax.device_get(s)), *state)
        return state, plan

    recorder = Recorder(num_members, lambda number, _: float(number**2))
    settings = {"strategy": pb2._replace(step=step), "asynchronous": True}
    for _ in jepbt.epbt(5, rates(num_members), recorder, **settings):
        pass
    jax.effects_barrier()
    for number, (*_, gain) in enumerate(seen):
        slot, age = number % num_members, number // num_members + 1
        own = [float(n**2) for n in range(slot, number + 1, num_members)]
        started = [
            0.0 if c.model is None else int(c.model[6:]) ** 2
            for c in recorder.given[slot : number + 1 : num_members]
        ]
        gains = np.subtract(own, started)[::-1]
        assert np.isnan(gain[slot, age - 1 :]).all(), "its first result gains nothing"
        np.testing.assert_array_equal(gain[slot, : age - 1], gains[:-1])


def test_the_best_of_the_toy_problem_improves_on_its_first_generation():
    """A rate that must meet an optimum: evolution comes closer than the first draws."""

    def evaluate(candidate):
        error = np.log(candidate.hparams.rate / 0.02) ** 2
        return Candidate(None, candidate.hparams, -float(error))

    for seed in range(3):
        bests = list(jepbt.epbt(15, rates(16), evaluate, seed=seed))
        assert bests[-1].fitness > bests[0].fitness
        assert bests[-1].fitness > -1e-3


def test_the_same_seed_gives_the_same_run():
    runs = [Recorder(4) for _ in range(3)]
    for recorder, seed in zip(runs, (1, 1, 2), strict=True):
        for _ in jepbt.epbt(3, population(4), recorder, seed=seed):
            pass
    hparams = [[c.hparams for c in recorder.given] for recorder in runs]
    assert hparams[0] == hparams[1]
    assert hparams[0] != hparams[2]


def test_a_fresh_slot_starts_without_a_model():
    def step(key, state, generation, hparams, evaluation):
        slots = jnp.arange(3)
        return state, strategies.Plan(slots, hparams, {}, fresh=slots == 1)

    strategy = strategies.Strategy(strategies.random_search().init, step)
    recorder = Recorder(3)
    for _ in jepbt.epbt(2, population(3), recorder, strategy=strategy):
        pass
    assert [c.model for c in recorder.generation(1)] == ["model 0", None, "model 2"]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_strategy_is_told_the_generation_that_it_breeds(asynchronous):
    """One that writes it into the children's hyperparameters."""

    def step(key, state, generation, hparams, evaluation):
        rate = jnp.full(2, generation / 100, jnp.float32)
        return state, strategies.Plan(jnp.arange(2), Rate(rate), {})

    strategy = strategies.Strategy(strategies.random_search().init, step)
    recorder = Recorder(2)
    settings = {"strategy": strategy, "asynchronous": asynchronous}
    for _ in jepbt.epbt(3, rates(2), recorder, **settings):
        pass
    assert [c.hparams.rate for c in recorder.given[2:]] == [0.01, 0.01, 0.02, 0.02]


def test_a_second_loop_compiles_nothing():
    """Breeding is one program a search space and size, whatever the loop."""
    compiled = []

    def instant(candidate):
        return Candidate(None, candidate.hparams, candidate.hparams.rate)

    def listen(name, *args, **kwargs):
        if "backend_compile" in name:
            compiled.append(name)

    for _ in jepbt.epbt(2, rates(100), instant):
        pass
    jax.monitoring.register_event_duration_secs_listener(listen)
    for _ in jepbt.epbt(20, rates(100), instant):
        pass
    assert compiled == []


def test_a_population_of_one_goes_on():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        best = list(jepbt.epbt(3, rates(1), climb))[-1]
    assert len(best.model) == 3
