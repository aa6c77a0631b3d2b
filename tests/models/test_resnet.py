"""ResNet is the paper's network; layers of half precision keep their weights whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from numerics import jit

from jepbt.models import ResNet

IMAGES = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("depth", "in_millions", "exact"),
    [(20, 0.27, 269_722), (32, 0.46, 464_154), (56, 0.85, 853_018)],
)
def test_numbers_of_weights_are_the_papers(depth, in_millions, exact):
    """Table 6 of the paper; exactly, convolutions, batch norms and the dense layer."""
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    made = jax.eval_shape(ResNet(depth=depth).init, key, images)
    params, variables = made["params"], made["batch_stats"]
    count = sum(weight.size for weight in jax.tree.leaves(params))
    assert (round(count / 1e6, 2), count) == (in_millions, exact)
    kernels = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim > 1]
    assert len(kernels) == depth
    assert len(jax.tree.leaves(variables)) == 2 * (depth - 1)


class Reference(linen.Module):
    """Section 4.2 of the paper in flax's words, one block a stage."""

    @linen.compact
    def __call__(self, x, train):
        def convolve(x, features, stride=1):
            pads = ((1, 1), (1, 1))
            conv = linen.Conv(features, (3, 3), stride, padding=pads, use_bias=False)
            return linen.BatchNorm(not train, momentum=0.9)(conv(x))

        x = linen.relu(convolve(x, 4))
        for features, stride in ((4, 1), (8, 2), (16, 2)):
            y = linen.relu(convolve(x, features, stride))
            y = convolve(y, features)
            if stride == 2:
                zeros = jnp.zeros((*y.shape[:3], features // 4))
                x = jnp.concatenate([zeros, x[:, ::2, ::2], zeros], -1)
            x = linen.relu(y + x)
        return linen.Dense(5)(x.mean((1, 2)))


def renamed(tree):
    """The weights or statistics of a ResNet-8 with the reference's names."""
    blocks = [f"Block_{i}" for i in range(3)]
    groups = [tree, *(tree[name] for name in blocks if name in tree)]
    layers = [tree["ConvNorm_0"]]
    layers += [group[f"ConvNorm_{i}"] for group in groups[1:] for i in (0, 1)]
    named = {"Dense_0": tree["Dense_0"]} if "Dense_0" in tree else {}
    for i, layer in enumerate(layers):
        named |= {f"{key.removesuffix('_0')}_{i}": layer[key] for key in layer}
    return named


@pytest.mark.parametrize("size", [8, 7])
def test_resnet_is_the_documented_network(size, key):
    """Logits, gradients and statistics of a training step, and logits without."""
    images = jnp.asarray(IMAGES[:, :size, :size])
    model, reference = ResNet(depth=8, width=4, num_classes=5), Reference()

    def value(module, names, params, statistics, train):
        logits, after = module.apply(
            {"params": names(params), "batch_stats": names(statistics)},
            images,
            train=train,
            mutable=["batch_stats"],
        )
        return jnp.sum(logits**2), (logits, after["batch_stats"])

    def ours(params, statistics, train):
        total, (logits, after) = value(model, lambda t: t, params, statistics, train)
        return total, (logits, renamed(after))

    def theirs(params, statistics, train):
        return value(reference, renamed, params, statistics, train)

    @jit
    def both(key):
        made = model.init(key, images)
        moved = jax.tree.map(lambda leaf: leaf + 0.3, made["batch_stats"])
        return [
            (
                jax.value_and_grad(function, has_aux=True)(made["params"], moved, True),
                function(made["params"], moved, False),
            )
            for function in (ours, theirs)
        ]

    with jax.numpy_rank_promotion("allow"):
        got, expected = both(key)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3),
        got,
        expected,
    )


def test_vectors_are_refused():
    with pytest.raises(ValueError, match=r"ResNet takes images .*got shape \(2, 784\)"):
        ResNet().init(jax.random.key(0), jnp.zeros((2, 784)))
