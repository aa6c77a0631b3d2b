"""A population of PPO agents on gymnax's environments, all as one program.

    python examples/ppo_gymnax.py
    python examples/ppo_gymnax.py --env Acrobot-v1

Needs `pip install -e ".[rl]"`, in an environment of its own where JAX is newer than
0.11: gymnax 1.0.1 would replace it. 2 CPU cores, shared, about 30 seconds each, most of
it compiling. Expect a return of about 500, the most there is, in 200 other episodes of
CartPole-v1, from 191 in the first generation's; and about -87 in Acrobot-v1, which
counts as solved above -100, from -147.

Learning rate, entropy bonus, clipping range and GAE's lambda evolve. A training step is
one update of PPO: each agent plays on in environments of its own, which are a part of
its state, and learns from what it saw. The fitness is the mean return of 16 episodes.
The data of this task are the numbers of episodes: the test split holds 200 others,
which the winner plays once.

    python examples/ppo_gymnax.py --env Breakout-MinAtar --num-generations 12 \\
        --steps-per-generation 10 --seeds 10

asks whether evolution beats random search at equal cost. Half an hour; 10 seeds cannot
tell: 8.84 against 8.28, a difference of 0.56 with a 95 % interval from -0.68 to 1.81,
after 61,440 steps of the environment for each of 32 agents.

Reference:
    Schulman et al., "Proximal Policy Optimization Algorithms", 2017,
    https://arxiv.org/abs/1707.06347
"""

import argparse
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jepbt

NUM_ENVS, NUM_STEPS = 8, 64  # 512 steps of the environment in each update
NUM_EPOCHS, NUM_MINIBATCHES = 4, 4
DISCOUNT = 0.99
EPISODES = jepbt.Splits(*(np.arange(216)[rows] for rows in np.s_[:1, :16, 16:]))


@dataclasses.dataclass
class Hyper(jepbt.HyperParameters):
    learning_rate: float = jepbt.hparam(3e-4, min=1e-5, max=3e-2, log=True)
    entropy: float = jepbt.hparam(0.01, min=1e-4, max=0.3, log=True)
    clip: float = jepbt.hparam(0.2, min=0.05, max=0.5)
    gae_lambda: float = jepbt.hparam(0.95, min=0.8, max=1.0)


def advantages(rewards, values, next_values, ended, done, gae_lambda):
    """Generalised advantage estimates `f32[T, N]` of what was seen in `T` steps.

    An episode that `ended` has no value after it; one that was only cut off has. Both
    are `done`: what comes after belongs to another episode.
    """
    errors = rewards + DISCOUNT * next_values * (1 - ended) - values

    def add(later, row):
        error, is_done = row
        total = error + DISCOUNT * gae_lambda * (1 - is_done) * later
        return total, total

    start = jnp.zeros_like(errors[0])
    return jax.lax.scan(add, start, (errors, done), reverse=True)[1]


def ppo_loss(h, logits, values, batch):
    """PPO's loss: clipped policy gradient, error of the critic, bonus for entropy."""
    log_probs = jax.nn.log_softmax(logits)
    ratio = jnp.exp(pick(log_probs, batch["action"]) - batch["log_prob"])
    gain = batch["advantage"] - batch["advantage"].mean()
    gain /= batch["advantage"].std() + 1e-8
    clipped = jnp.clip(ratio, 1 - h.clip, 1 + h.clip)
    policy = -jnp.minimum(ratio * gain, clipped * gain).mean()
    critic = jnp.square(values - batch["target"]).mean()
    entropy = -(jnp.exp(log_probs) * log_probs).sum(-1).mean()
    return policy + 0.25 * critic - h.entropy * entropy


def pick(log_probs, actions):
    return jnp.take_along_axis(log_probs, actions[:, None], -1)[:, 0]


def optimizer(h):
    adam = optax.adam(h.learning_rate, eps=1e-5)
    return optax.chain(optax.clip_by_global_norm(0.5), adam)


def make_task(name="CartPole-v1"):
    """Makes a task of one of gymnax's environments whose actions are discrete."""
    import gymnax  # it uses JAX, which `use_all_cpu_cores` must come before

    env, settings = gymnax.make(name)
    actor = jepbt.models.MLP(num_classes=env.num_actions, hidden=(64, 64))
    critic = jepbt.models.MLP(num_classes=1, hidden=(64, 64))

    def act(params, seen):
        return actor.apply({"params": params["actor"]}, seen)

    def value(params, seen):
        return critic.apply({"params": params["critic"]}, seen)[:, 0]

    def reset(keys):
        return jax.vmap(env.reset, (0, None))(keys, settings)

    def step(key, world, actions):
        keys = jax.random.split(key, len(actions))
        return jax.vmap(env.step, (0, 0, 0, None))(keys, world, actions, settings)

    def init(key, h):
        world_key, actor_key, critic_key = jax.random.split(key, 3)
        seen, world = reset(jax.random.split(world_key, NUM_ENVS))
        params = {
            "actor": actor.init(actor_key, seen)["params"],
            "critic": critic.init(critic_key, seen)["params"],
        }
        opt_state = optimizer(h).init(params)
        return {"params": params, "opt_state": opt_state, "seen": seen, "world": world}

    def play(key, state, h):
        """Plays on, and returns the steps `[T * N, ...]` to learn from."""

        def move(carry, key):
            seen, world = carry
            act_key, step_key = jax.random.split(key)
            logits = act(state["params"], seen)
            actions = jax.random.categorical(act_key, logits)
            new, world, reward, ended, cut, info = step(step_key, world, actions)
            log_prob = pick(jax.nn.log_softmax(logits), actions)
            kept = {"seen": seen, "action": actions, "log_prob": log_prob}
            last = info["final_observation"]
            return (new, world), (kept, last, reward, ended, ended | cut)

        carry = state["seen"], state["world"]
        (seen, world), (batch, last, rewards, ended, done) = jax.lax.scan(
            move, carry, jax.random.split(key, NUM_STEPS)
        )
        values_of = jax.vmap(functools.partial(value, state["params"]))
        values, next_values = values_of(batch["seen"]), values_of(last)
        batch["advantage"] = advantages(
            rewards, values, next_values, ended, done, h.gae_lambda
        )
        batch["target"] = batch["advantage"] + values
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)
        return {**state, "seen": seen, "world": world}, flat

    def train_step(key, state, h, batch, shared):
        play_key, learn_key = jax.random.split(key)
        state, steps = play(play_key, state, h)

        def loss_of(params, batch):
            return ppo_loss(
                h, act(params, batch["seen"]), value(params, batch["seen"]), batch
            )

        def learn(carry, rows):
            params, opt_state = carry
            batch = jax.tree.map(lambda x: x[rows], steps)
            loss, gradient = jax.value_and_grad(loss_of)(params, batch)
            updates, opt_state = optimizer(h).update(gradient, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), loss

        orders = jax.vmap(jax.random.permutation, (0, None))(
            jax.random.split(learn_key, NUM_EPOCHS), NUM_ENVS * NUM_STEPS
        )
        (params, opt_state), losses = jax.lax.scan(
            learn,
            (state["params"], state["opt_state"]),
            orders.reshape(NUM_EPOCHS * NUM_MINIBATCHES, -1),
        )
        state = {**state, "params": params, "opt_state": opt_state}
        return state, {"loss": losses.mean()}

    def evaluate(key, state, h, episodes, shared):
        """Plays the episodes of these numbers, and computes the return of each."""

        def move(carry, key):
            seen, world, is_on, total = carry
            act_key, step_key = jax.random.split(key)
            actions = jax.random.categorical(act_key, act(state["params"], seen))
            seen, world, reward, ended, cut, _ = step(step_key, world, actions)
            return (seen, world, is_on & ~(ended | cut), total + is_on * reward), None

        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, episodes)
        start = (*reset(keys), jnp.ones(len(episodes), bool), jnp.zeros(len(episodes)))
        keys = jax.random.split(key, settings.max_steps_in_episode)
        return jax.lax.scan(move, start, keys)[0][-1]

    return jepbt.Task(Hyper, init, train_step, evaluate, EPISODES, batch_size=1)


def main(env="CartPole-v1", seeds=1, **settings):
    task = make_task(env)
    if seeds > 1:
        comparison = jepbt.compare(
            {"random search": (task, "random_search"), "EPBT": (task, "epbt")},
            seeds=range(1, seeds + 1),  # seed 0 is the one that was looked at before
            **settings,
        )
        print(comparison)
        return comparison
    result = jepbt.train_population(task, **settings)
    first, best = result.first_best.fitness.mean, result.best.fitness.mean
    print(f"the best agent's return: {best:.1f}, in the first generation {first:.1f}")
    print(f"the best agent's return in 200 other episodes: {result.test().best}")
    print(result.best.hparams)
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--population-size", type=int, default=32)
    parser.add_argument("--num-generations", type=int, default=10)
    parser.add_argument("--steps-per-generation", type=int, default=8)
    jepbt.use_all_cpu_cores()
    main(**vars(parser.parse_args()))
