"""PBT's toy problem: five ways to train two members, 200 seeds of each as one program.

    python examples/pbt_toy.py

2 CPU cores, about 15 seconds. Both members start at (0.9, 0.9) and should climb
Q = 1.2 - t0^2 - t1^2, but each sees only one of its terms. Expect, as means of the best
Q after 200 steps: grid search 0.390, explore only about 0.2, PBT about 1.165, exploit
only 1.172, and PBT that copies hyperparameters too about 1.13. The paths of one seed
are drawn to pbt_toy.png: Jaderberg et al., 2017, figure 2.
"""

import dataclasses

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import jepbt
from jepbt.selection import truncation
from jepbt.strategies import Plan, pbt, random_search


@dataclasses.dataclass
class Hyper(jepbt.HyperParameters):
    h0: float = jepbt.hparam(1.0, min=-9.0, max=9.0)
    h1: float = jepbt.hparam(0.0, min=-9.0, max=9.0)


def train_step(key, t, h, batch, shared):
    t = t - 0.01 * jnp.stack([2 * h.h0 * t[0], 2 * h.h1 * t[1]])
    return t, {"loss": -quality(t), "t0": t[0], "t1": t[1]}


def quality(t):
    return 1.2 - jnp.sum(t**2)


def explore(key, hparams):
    noise = 0.1 * jax.random.normal(key, (2, 2))
    return Hyper(hparams.h0 + noise[0], hparams.h1 + noise[1])


def explore_only(key, state, generation, hparams, evaluation):
    return state, Plan(jnp.arange(2), explore(key, hparams), {})


def arms():
    better = truncation(0.5)  # of two members, the worse copies the better
    stay = lambda key, hparams: hparams  # noqa: E731
    return {
        "PBT": pbt(exploit=better, explore=explore, copy_hparams=False),
        "explore only": random_search()._replace(step=explore_only),
        "exploit only": pbt(exploit=better, explore=stay, copy_hparams=False),
        "grid search": random_search(),
        "PBT, copying h too": pbt(exploit=better, explore=explore),
    }


def main(num_seeds=200, picture="pbt_toy.png"):
    first = Hyper(jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0]))
    task = jepbt.Task(
        hparams=Hyper,
        init=lambda key, h: jnp.array([0.9, 0.9]),
        train_step=train_step,
        evaluate=lambda key, t, h, batch, shared: quality(t)[None],
    )
    config = jepbt.Config(
        population_size=2, num_generations=20, steps_per_generation=10
    )
    keys = jax.random.split(jax.random.key(0), num_seeds)
    figure, axes = plt.subplots(1, 5, figsize=(15, 3.2), sharey=True, layout="tight")
    means = {}
    for panel, (name, strategy) in zip(axes, arms().items(), strict=True):
        strategy = strategy._replace(init=lambda *_: ((), first))
        run = jax.jit(jax.vmap(jepbt.make_run(task, strategy, config), (0, None)))
        _, _, history = run(keys, None)
        best = history.fitness[:, -1].max(-1)
        means[name] = float(best.mean())
        low, high = jnp.quantile(best, jnp.array([0.05, 0.95]))
        print(f"{name:18} {means[name]:6.3f}  (5-95 %: {low:.3f} to {high:.3f})")
        for slot, colour in enumerate(("black", "#d55e00")):
            t0, t1 = (history.metrics[t][0, :, slot] for t in ("t0", "t1"))
            panel.plot(t0, t1, ".", color=colour)
        panel.set(title=name, xlabel="t0", xlim=(-0.05, 1.1), ylim=(-0.05, 1.1))
    axes[0].set_ylabel("t1")
    figure.savefig(picture, dpi=100)
    plt.close(figure)
    return means


if __name__ == "__main__":
    main()
