"""The schedule and the loss that a run found, in plain optax: jepbt is not imported.

    jepbt train --model mlp --run-dir runs/mlp
    python examples/replay_with_optax.py runs/mlp

Reads `schedule.json` and `loss.py` and trains one small network along them on the
embedded Fashion-MNIST. 2 CPU cores, about 5 seconds of computing; expect a
test accuracy of about 0.86.
"""

import json
import pathlib
import runpy
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax


def make_optimizer(run):
    """The optimizer of `jepbt train`, its settings following the winner's schedule."""
    found = json.loads((run / "schedule.json").read_text())

    def schedule(name):
        values, length = jnp.array(found["values"][name]), found["steps_per_generation"]
        return lambda step: values[jnp.minimum(step // length, len(values) - 1)]

    return optax.chain(
        optax.inject_hyperparams(optax.add_decayed_weights)(schedule("weight_decay")),
        optax.inject_hyperparams(optax.sgd)(
            schedule("learning_rate"), momentum=schedule("momentum"), nesterov=True
        ),
    ), found


def make_loss(run, found):
    """The loss of each step: a found loss is another one in every generation.

    `loss.py` is the last of them; its functions are arithmetic on its numbers, so the
    earlier ones are the same formula with the schedule's numbers.
    """
    thetas = jnp.array(found["values"]["loss"])

    def loss(step, logits, labels):
        number = jnp.minimum(step // found["steps_per_generation"], len(thetas) - 1)
        a_y, a_yy, a_yyy, a_xy, a_xyy, a_xxy, x0, y0 = thetas[number]
        x, y = labels - x0, jax.nn.softmax(logits) - y0
        of_xy = a_xy + y * a_xyy + x * a_xxy
        return -(y * (a_y + y * (a_yy + y * a_yyy) + x * of_xy)).sum(-1)

    last = runpy.run_path(str(run / "loss.py"))["loss"]
    example = jnp.array([[2.0, -1.0]]), jnp.array([[1.0, 0.0]])
    assert jnp.allclose(loss(found["num_steps"], *example), last(*example), atol=1e-5)
    return loss


def train(run, apply, params, batches):
    """Trains `apply(params, images) -> logits` along a run's schedule and losses."""
    optimizer, found = make_optimizer(run)
    loss = make_loss(run, found)

    @jax.jit
    def update(step, params, state, images, labels):
        def objective(params):
            return loss(step, apply(params, images), labels).mean()

        updates, state = optimizer.update(jax.grad(objective)(params), state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for step, (images, labels) in zip(range(found["num_steps"]), batches, strict=False):
        params, state = update(step, params, state, images, labels)
    return params


def apply(params, images):
    hidden = jax.nn.relu(images.reshape(len(images), -1) @ params["w1"] + params["b1"])
    return hidden @ params["w2"] + params["b2"]


def main(folder):
    run = pathlib.Path(folder)
    data = np.load(
        pathlib.Path(__file__).parents[1] / "jepbt/datasets/fashion_mnist.npz"
    )
    arrays = {name: data[name] for name in data.files}
    mean, deviation = arrays["train_image"].mean(), arrays["train_image"].std()
    rng = np.random.default_rng(0)
    batch_size = json.loads((run / "schedule.json").read_text())["batch_size"]

    def batches():
        while True:
            rows = rng.integers(len(arrays["train_image"]), size=batch_size)
            images = (arrays["train_image"][rows] - mean) / deviation
            yield (
                images.astype(np.float32),
                jax.nn.one_hot(arrays["train_label"][rows], 10),
            )

    params = {
        "w1": jnp.asarray(rng.normal(size=(784, 256)) * (2 / 784) ** 0.5, jnp.float32),
        "b1": jnp.zeros(256),
        "w2": jnp.asarray(rng.normal(size=(256, 10)) * (1 / 256) ** 0.5, jnp.float32),
        "b2": jnp.zeros(10),
    }
    params = train(run, apply, params, batches())
    logits = apply(
        params, ((arrays["test_image"] - mean) / deviation).astype(np.float32)
    )
    accuracy = float((logits.argmax(-1) == arrays["test_label"]).mean())
    print(f"test accuracy {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    main(sys.argv[1])
