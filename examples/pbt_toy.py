"""PBT's toy problem: two members trained in five ways, 200 seeds each, in one program.

    python examples/pbt_toy.py

2 CPU cores, about 10 seconds. Both members start at (0.9, 0.9) and should climb
Q = 1.2 - t0^2 - t1^2, but each sees only one of its terms. As the paper's workers do
they run asynchronously, here taking turns of one step each, so that a copy may lose a
step or gain one. Every 10 steps of its own a member compares: if the other is better,
or in half of the ties, it copies t, and explores h += 0.1 N(0, 1).

Expect, as means over the seeds of the best Q after 200 steps each: grid search 0.390,
explore only 0.3 (give or take 0.2: some seeds run away), PBT 1.163, exploit only
1.167, and PBT that copies h too 1.07. The paths of one seed are drawn to pbt_toy.png:
Jaderberg et al., 2017, figure 2.
"""

import dataclasses

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import jepbt
from jepbt.strategies import Plan, Strategy, take

ARMS = {  # whether to exploit, to explore, and to copy h with t
    "PBT": (True, True, False),
    "explore only": (False, True, False),
    "exploit only": (True, False, False),
    "grid search": (False, False, False),
    "PBT, copying h too": (True, True, True),
}


@dataclasses.dataclass
class Hyper(jepbt.HyperParameters):
    h0: float = jepbt.hparam(1.0, min=-9.0, max=9.0)
    h1: float = jepbt.hparam(0.0, min=-9.0, max=9.0)
    turn: float = jepbt.hparam(1.0, min=0.0, max=1.0)  # 1 trains, 0 waits


def train_step(key, t, h, batch, shared):
    t = t - 0.01 * h.turn * jnp.stack([2 * h.h0 * t[0], 2 * h.h1 * t[1]])
    return t, {"loss": jnp.sum(t**2), "t0": t[0], "t1": t[1]}


def evaluate(key, t, h, batch, shared):
    return 1.2 - jnp.sum(t**2, keepdims=True)


def asynchronous(exploit, explore, copy_h):
    def step(key, state, generation, hparams, evaluation):
        tie_key, noise_key = jax.random.split(key)
        slots = jnp.arange(2)
        is_last = slots != generation % 2  # who has just trained
        lead = evaluation.fitness[::-1] - evaluation.fitness
        is_behind = (lead > 0) | ((lead == 0) & jax.random.bernoulli(tie_key))
        is_ready = is_last & ((generation + 1) // 2 % 10 == 0)
        parents = jnp.where(is_ready & is_behind & exploit, 1 - slots, slots)
        h = take(hparams, jnp.where(copy_h, parents, slots))
        moves = explore & is_ready & (is_behind | ~exploit)
        noise = 0.1 * jax.random.normal(noise_key, (2, 2))
        h = Hyper(h.h0 + moves * noise[0], h.h1 + moves * noise[1], 1.0 - is_last)
        return state, Plan(parents, h, {})

    first = Hyper(*map(jnp.array, ([1.0, 0.0], [0.0, 1.0], [1.0, 0.0])))
    return Strategy(lambda *_: ((), first), step)


def main(num_seeds=200, picture="pbt_toy.png"):
    task = jepbt.Task(Hyper, lambda key, h: jnp.array([0.9, 0.9]), train_step, evaluate)
    config = jepbt.Config(2, num_generations=400, steps_per_generation=1)

    def run(arm, key):
        return jepbt.make_run(task, asynchronous(*arm), config)(key, None)[-1]

    keys = jax.random.split(jax.random.key(0), num_seeds)
    run_all = jax.vmap(jax.vmap(run, (None, 0)), (0, None))
    histories = jax.jit(run_all)(jnp.array(list(ARMS.values())), keys)
    figure, axes = plt.subplots(1, 5, figsize=(15, 3.2), sharey=True, layout="tight")
    means = {}
    for arm, (name, panel) in enumerate(zip(ARMS, axes, strict=True)):
        best = histories.fitness[arm, :, -1].max(-1)
        low, high = jnp.quantile(best, jnp.array([0.05, 0.95]))
        means[name] = float(best.mean())
        print(f"{name:18} {means[name]:6.3f}  (5-95 %: {low:.3f} to {high:.3f})")
        for slot, colour in enumerate(("black", "#d55e00")):
            path = (histories.metrics[t][arm, 0, slot::2, slot] for t in ("t0", "t1"))
            panel.plot(*path, ".", color=colour)
        panel.set(title=name, xlabel="t0", ylabel="t1")
        panel.axis((-0.05, 1.1, -0.05, 1.1))
    figure.savefig(picture, dpi=100)
    return means


if __name__ == "__main__":
    main()
