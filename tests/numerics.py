"""What comparisons of numbers need: float64, a softmax in NumPy, a quick compiler."""

import functools

import jax
import numpy as np
from jax import experimental

# Newer versions of JAX have it at the top, older ones under experimental.
enable_x64 = (jax if hasattr(jax, "enable_x64") else experimental).enable_x64

# Compiling takes most of a test's time, and unoptimised code compiles much faster.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)
