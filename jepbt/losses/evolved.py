"""Gives the loss that a run discovered in every form in which one can use it."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from jepbt.arguments import check_choice, check_whole
from jepbt.losses import taylorglo
from jepbt.losses.classification import taylor

_SOURCE = '''"""A classification loss found by jepbt.

    {formula}

with x the label, y the predicted probability of a class, summed over the classes.
"""

import {module} as {alias}


def loss_of_probabilities(probs, labels):
    """Loss of each example, for arrays [..., C] of any library."""
    x = labels - {x0}
    y = probs - {y0}
    of_y = {a_y} + y * ({a_yy} + y * {a_yyy})
    of_xy = {a_xy} + y * {a_xyy} + x * {a_xxy}
    return -(y * (of_y + x * of_xy)).sum(-1)


def loss(logits, labels):
    """Loss of each example, for logits [..., C]; the shapes of optax's losses."""
    powers = {alias}.exp(logits - logits.max(-1, keepdims=True))
    return loss_of_probabilities(powers / powers.sum(-1, keepdims=True), labels)
'''


@dataclasses.dataclass(frozen=True, eq=False)
class EvolvedLoss:
    """A TaylorGLO loss that evolved, and how it came to be.

    Call it with `(logits [..., C], labels [..., C])` for one loss per example.

    Attributes:
        name: the hyperparameter's name.
        theta: `f32[8]`, its genome, `[y, y2, y3, xy, xy2, x2y, x0, y0]`.
        thetas: `f32[G', 8]`, the genomes of its ancestors, one for each generation,
            itself last.

    Example:
        >>> theta = taylorglo.CROSS_ENTROPY_EXPANSION
        >>> loss = EvolvedLoss("loss", theta, theta[None])
        >>> loss.formula
        '-sum[ (y-.5) - (y-.5)^2 + 1.33 (y-.5)^3 + 2 (x-.5)(y-.5) - 2 (x-.5)(y-.5)^2 ]'
        >>> loss.attraction
        0.0
    """

    name: str
    theta: np.ndarray
    thetas: np.ndarray

    def __call__(self, logits: jax.Array, labels: jax.Array) -> jax.Array:
        """Measures one loss per example: see `jepbt.losses.taylor`."""
        return taylor(self.theta)(logits, labels)

    def __len__(self) -> int:
        return len(self.thetas)

    def at_generation(self, generation: int) -> EvolvedLoss:
        """Returns the loss that the winner's ancestor trained with, and what led to it.

        Args:
            generation: a number from 0 to the winner's generation.
        """
        note = ", the generation of the winner"
        check_whole("", "generation", generation, 0, len(self) - 1, note=note)
        thetas = self.thetas[: generation + 1]
        return EvolvedLoss(self.name, thetas[-1], thetas)

    @property
    def formula(self) -> str:
        """The loss as one line of plain text, to three digits."""
        return taylorglo.describe(self.theta)

    @property
    def effective(self) -> taylorglo.Effective:
        """The five numbers that its gradient depends on: see `taylorglo.effective`."""
        return taylorglo.Effective(*map(float, taylorglo.effective(self.theta)))

    @property
    def attraction(self) -> float:
        """Its effect on a confident, correct output: see `taylorglo.attraction`."""
        return float(taylorglo.attraction(self.theta))

    def latex(self) -> str:
        r"""Writes the loss as LaTeX, to three digits, without dollar signs.

        Example:
            >>> theta = np.zeros(8, np.float32)
            >>> theta[[1, 3, 6]] = -2.0, 1.0, 0.5
            >>> print(EvolvedLoss("loss", theta, theta[None]).latex())
            \mathcal{L} = -\sum_{i=1}^{C} \left[ -2\,y_i^{2} + (x_i - 0.5)\,y_i \right]
        """
        body = ""
        for sign, size, powers in taylorglo.terms(self.theta):
            body += f" {sign} " if body else sign.replace("+", "")
            factors = [] if size == "1" else [_latex_number(size)]
            for name, centre, power in zip("xy", self.theta[6:], powers, strict=True):
                if power:
                    factors.append(_latex_factor(name, float(centre), power))
            body += "\\,".join(factors)
        return rf"\mathcal{{L}} = -\sum_{{i=1}}^{{C}} \left[ {body or '0'} \right]"

    def source(self, library: str = "jax") -> str:
        """Writes the loss as Python source that needs only JAX, or only NumPy.

        It holds numbers and arithmetic, nothing else: `loss(logits, labels)` and
        `loss_of_probabilities(probs, labels)`. The numbers are the genome's, exactly.

        Args:
            library: "jax" or "numpy".

        Returns:
            The text of a module.

        Raises:
            ValueError: if the library is neither, or the genome is not finite.

        Example:
            >>> theta = taylorglo.CROSS_ENTROPY_EXPANSION
            >>> namespace = {}
            >>> exec(EvolvedLoss("loss", theta, theta[None]).source("numpy"), namespace)
            >>> float(namespace["loss"](np.zeros(2), np.array([1.0, 0.0])))
            -0.0
        """
        aliases = {"jax": ("jax.numpy", "jnp"), "numpy": ("numpy", "np")}
        check_choice("", "library", library, tuple(aliases))
        if not np.isfinite(self.theta).all():
            raise ValueError(f"{self.name}={self.theta} is no loss: it is not finite.")
        module, alias = aliases[library]
        names = ("a_y", "a_yy", "a_yyy", "a_xy", "a_xyy", "a_xxy", "x0", "y0")
        # The shortest digits that give the same float32 back.
        digits = [repr(float(str(np.float32(value)))) for value in self.theta]
        numbers = {
            name: f"({text})" if text.startswith("-") else text
            for name, text in zip(names, digits, strict=True)
        }
        return _SOURCE.format(
            formula=self.formula, module=module, alias=alias, **numbers
        )

    def __repr__(self) -> str:
        return f"EvolvedLoss({self.formula})"


def _latex_number(text: str) -> str:
    mantissa, _, exponent = text.partition("e")
    return rf"{mantissa}\times 10^{{{int(exponent)}}}" if exponent else mantissa


def _latex_factor(name: str, centre: float, power: int) -> str:
    size = f"{abs(centre):.3g}"
    base = f"{name}_i"
    if size != "0":
        base = f"({base} {'+' if centre < 0 else '-'} {_latex_number(size)})"
    return f"{base}^{{{power}}}" if power > 1 else base
