"""One member of a finished run, and what its user does with it."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import jax
import numpy as np

from jepbt.engine import Best
from jepbt.hyperparameters import HyperParameters, encode, to_python
from jepbt.optional import optional
from jepbt.population import outline
from jepbt.results import Score
from jepbt.results.pickled import AbsentTask, to_host
from jepbt.results.predictions import inference_of, predict
from jepbt.tasks import Task


@dataclasses.dataclass(frozen=True)
class Winner:
    """One member taken out of the population, on the host.

    It predicts, and it comes back as the user's own model; with tasks of
    `jepbt.classification` and `jepbt.regression`, that is. Any other task says by
    `Task.inference` how.

    Attributes:
        state: the member's state, as the task's `init` made it, in NumPy arrays.
        hparams: the user's class with Python values.
        fitness: its validation score, and the standard error.
        generation: the generation that it was evaluated in.
        slot: the slot that it stood in.
        task: the task that it was trained on.
        confusions: `f32[C, C]`, the table of a loss that learned from validation
            labels, `losses.confusion`; `None` with any other loss.

    Example:
        >>> import numpy as np
        >>> import jepbt
        >>> inputs = np.random.default_rng(0).normal(size=(40, 5))
        >>> result = jepbt.train_population(
        ...     jepbt.regression((inputs, inputs[:, 0])), population_size=2,
        ...     num_generations=1, steps_per_generation=2, progress=False,
        ... )
        >>> winner = result.best
        >>> winner.predict(inputs[:3]).shape
        (3,)
        >>> type(winner.model).__name__, winner.model(winner.preprocess(inputs)).shape
        ('MLP', (40, 1))
    """

    state: Any
    hparams: HyperParameters
    fitness: Score
    generation: int
    slot: int
    task: Task = dataclasses.field(repr=False, compare=False)
    confusions: np.ndarray | None = dataclasses.field(
        default=None, repr=False, compare=False
    )

    @property
    def params(self) -> Any:
        """The weights of a `Learner`; other states are read from `state`."""
        try:
            return self.state.params
        except AttributeError:
            raise AttributeError(
                f"this task's state is a {type(self.state).__name__} without `params`: "
                "read `state`."
            ) from None

    @property
    def model(self) -> Any:
        """The user's own model with this member's weights, made anew at each reading.

        An nnx module, set to evaluation, with its weights and statistics; a bound linen
        module; or, if the model was given as two functions, a function of inputs. It
        takes what the network saw in training, `preprocess(inputs)`, and returns what
        the network does: logits, for a classification. A module whose `__call__` reads
        `hparams` is given `hparams=winner.hparams`.

        Raises:
            ValueError: if the task has no `inference`.
        """
        return inference_of(self.task).bind(self.state, self.hparams)

    def preprocess(self, inputs: Any) -> jax.Array:
        """Brings raw inputs to the form in which the network saw the data.

        Args:
            inputs: examples `[N, ...]`, given as the data were.

        Returns:
            Pixels of `uint8` as `f32[N, ...]`, standardised by the training split; all
            others as they are.

        Raises:
            ValueError: if the inputs are unlike the data, or the task has no
                `inference`.
        """
        use = inference_of(self.task)
        return use.preprocess(use.check(inputs))

    def predict(self, inputs: Any) -> np.ndarray:
        """Predicts, for raw inputs in the form in which the task's data were given.

        They are converted, checked and standardised as in an evaluation. A call takes
        any number of rows; they are computed in batches of up to 256.

        Args:
            inputs: examples `[N, ...]`, of the data's shape and dtype.

        Returns:
            For a classification, each class's probability, `f32[N, C]`; the classes
            are `.argmax(-1)`. For a regression, `f32[N, D]` in the targets' units, or
            `f32[N]` if the targets were given as `[N]`.

        Raises:
            ValueError: if the inputs are unlike the data, or the task has no
                `inference`; before anything compiles.
        """
        return predict(self.task, self.state, self.hparams, inputs)

    def __repr__(self) -> str:
        shown = {"hparams": self.hparams, "fitness": self.fitness}
        shown |= {"generation": self.generation, "slot": self.slot}
        fields = ", ".join(f"{name}={value!r}" for name, value in shown.items())
        return f"Winner({fields}, state={outline(self.state)})"

    def __getstate__(self) -> dict[str, Any]:
        # A choice may be a function, which does not pickle; its number does.
        return vars(self) | {
            "state": to_host(self.state),
            "hparams": encode(self.hparams),
            "task": AbsentTask(self.task),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state | {"hparams": to_python(state["hparams"])})

    def __copy__(self) -> Winner:
        return dataclasses.replace(self)

    def __deepcopy__(self, memo: Any) -> Winner:
        copied = copy.deepcopy((self.state, self.hparams), memo)
        return dataclasses.replace(self, state=copied[0], hparams=copied[1])


def as_winner(best: Best, task: Task) -> Winner | None:
    """Fetches a member and what is known of it to the host; `None` if it is nobody."""
    best = jax.device_get(best)
    if best.slot < 0:
        return None
    table = None
    if task.confusions is not None:
        with optional("the winner's confusions are missing"):
            table = np.asarray(task.confusions(best.member.state))
    return Winner(
        state=best.member.state,
        hparams=to_python(best.member.hparams),
        fitness=Score(float(best.member.fitness), float(best.standard_error)),
        generation=int(best.generation),
        slot=int(best.slot),
        task=task,
        confusions=table,
    )
