"""A population of agents learns to balance a pole by policy gradients, without data.

    python examples/rl_cartpole.py

2 CPU cores, about 30 seconds. The environment is the classic cart and pole, written in
JAX below; an episode ends after 200 steps. Learning rate and entropy bonus evolve.
Expect the best agent to stay up for more than 180 steps on average; the first
generation's best manages fewer. `ppo_gymnax.py` has PPO on environments of a library.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

import jepbt

NUM_EPISODES, LENGTH = 16, 200
POLICY = jepbt.models.MLP(num_classes=2, hidden=(32,))


@dataclasses.dataclass
class Hyper(jepbt.HyperParameters):
    learning_rate: float = jepbt.hparam(0.01, min=1e-4, max=0.1, log=True)
    entropy: float = jepbt.hparam(0.01, min=1e-4, max=0.1, log=True)


def move(state, action):
    """One step of 0.02 s of [position, speed, angle, turning speed], each `[B]`."""
    _, speed, angle, turning = state
    sine, cosine = jnp.sin(angle), jnp.cos(angle)
    pull = (jnp.where(action == 1, 10.0, -10.0) + 0.05 * turning**2 * sine) / 1.1
    turned = (9.8 * sine - cosine * pull) / (2 / 3 - 0.05 / 1.1 * cosine**2)
    pushed = pull - 0.05 / 1.1 * turned * cosine
    return state + 0.02 * jnp.stack([speed, pushed, turning, turned])


def logits_of(params, seen):
    return POLICY.apply({"params": params}, seen)


def play(key, params):
    """Returns what was seen, done and still up, `[T, B, ...]`, of all episodes."""

    def step(carry, key):
        state, is_up = carry
        action = jax.random.categorical(key, logits_of(params, state.T))
        after = move(state, action)
        stays = is_up & (jnp.abs(after[0]) < 2.4) & (jnp.abs(after[2]) < 0.2095)
        return (after, stays), (state.T, action, is_up)

    keys = jax.random.split(key, LENGTH + 1)
    start = jax.random.uniform(keys[0], (4, NUM_EPISODES), minval=-0.05, maxval=0.05)
    return jax.lax.scan(step, (start, jnp.ones(NUM_EPISODES, bool)), keys[1:])[1]


def train_step(key, state, h, batch, shared):
    params, opt_state = state
    seen, action, is_up = play(key, params)
    to_go = jnp.cumsum(is_up[::-1], 0)[::-1]  # steps that each episode still stays up
    alive = jnp.maximum(is_up.sum(1, keepdims=True), 1)
    advantage = (to_go - to_go.sum(1, keepdims=True) / alive) * is_up / is_up.sum()

    def objective(params):
        log_probs = jax.nn.log_softmax(jax.vmap(logits_of, (None, 0))(params, seen))
        taken = jnp.take_along_axis(log_probs, action[..., None], -1)[..., 0]
        entropy = -jnp.sum(jnp.exp(log_probs) * log_probs, -1)
        return -jnp.sum(taken * advantage) - h.entropy * jnp.mean(entropy, where=is_up)

    loss, gradient = jax.value_and_grad(objective)(params)
    updates, opt_state = optax.adam(h.learning_rate).update(gradient, opt_state)
    return (optax.apply_updates(params, updates), opt_state), {"loss": loss}


def init(key, h):
    params = POLICY.init(key, jnp.zeros((1, 4)))["params"]
    return params, optax.adam(h.learning_rate).init(params)


def evaluate(key, state, h, batch, shared):
    return play(key, state[0])[2].sum(0)


def main(population_size=8, **settings):
    task = jepbt.Task(Hyper, init, train_step, evaluate)
    result = jepbt.train_population(task, population_size=population_size, **settings)
    first, best = result.first_best.fitness.mean, result.best.fitness.mean
    print(f"steps up: first {first:.0f}, best {best:.0f}; {result.best.hparams}")
    return result


if __name__ == "__main__":
    jepbt.use_all_cpu_cores()
    main(num_generations=8, steps_per_generation=5)
