"""Makes labels wrong on purpose, for studies of robust losses."""

import dataclasses

import numpy as np

from jepbt.arguments import check_choice, check_real, check_transition, check_whole
from jepbt.datasets.dataset import Dataset, classes_of


def with_label_noise(
    dataset: Dataset,
    label_noise: float,
    *,
    validation_label_noise: float = 0.0,
    pattern: str | np.ndarray = "uniform",
    seed: int = 0,
) -> Dataset:
    """Makes a share of the labels wrong, for studies of robust losses.

    That share of the examples is drawn without regard to class. The pattern says which
    labels they get:

    - "uniform": one of the other classes, with equal probability;
    - "pairs": one other class for each class, as annotators confuse particular classes:
      see `label_pairs`;
    - a matrix `[C, C]`: a label drawn from the probabilities in the row of their class,
      which may be right. A share of 1 applies the matrix to all examples.

    With the first two exactly 40 % of the labels are wrong at 0.4. With the same seed a
    higher share only adds wrong labels. Of probabilities `[N, C]` the likeliest class
    swaps with the wrong one. Test labels stay as they are.

    Args:
        dataset: the data set, which is not changed.
        label_noise: the share of training labels to make wrong, from 0 to 1.
        validation_label_noise: the share of validation labels to make wrong.
        pattern: "uniform", "pairs", or a matrix whose rows sum to one.
        seed: the seed of the draws, which depend on nothing else.

    Returns:
        A `Dataset` with the same images.

    Raises:
        ValueError: if a share is not from 0 to 1, the pattern is none of these, or does
            nothing.

    Example:
        >>> from jepbt import datasets
        >>> clean = datasets.load("fashion_mnist")
        >>> noisy = with_label_noise(clean, 0.4, pattern="pairs")
        >>> float((noisy.train["label"] != clean.train["label"]).mean())
        0.4
    """
    pattern = check_noise(label_noise, validation_label_noise, pattern)
    check_whole("", "seed", seed, 0)
    rates = {"train": label_noise, "validation": validation_label_noise}
    if not any(rates.values()):
        return dataset
    matrix, name = _read_pattern(pattern, dataset, seed)
    changed, notes = {}, [dataset.note] if dataset.note else []
    # Streams start at 1, because NumPy takes the seeds (seed, 0) and seed for the same,
    # and the carving uses seed.
    for stream, (field, rate) in enumerate(rates.items(), start=1):
        if rate:
            split = getattr(dataset, field)
            noisy = noisy_labels(
                split["label"], rate, dataset.num_classes, (seed, stream), matrix
            )
            changed[field] = {**split, "label": noisy}
            notes.append(f"{rate:.0%} of {field} labels {name}")
    return dataclasses.replace(dataset, note=", ".join(notes), **changed)


def label_pairs(num_classes: int, seed: int = 0) -> np.ndarray:
    """Draws a cycle of the classes, in which each is mistaken for the next.

    Args:
        num_classes: the number of classes, `C`, at least 2.
        seed: the seed of the draw.

    Returns:
        `f64[C, C]`, with a 1 in row `a` at the class that `a` is mistaken for. Noise of
        the share `r` has the transition matrix `(1 - r) I + r pairs`.

    Raises:
        ValueError: if there are fewer than 2 classes.

    Example:
        >>> pairs = label_pairs(10)
        >>> bool((pairs.sum(0) == 1).all()), float(np.trace(pairs))
        (True, 0.0)
    """
    check_whole("label_pairs", "num_classes", num_classes, 2)
    # The splits' own draws are the streams 1 and 2 of the seed.
    cycle = np.random.default_rng((seed, 3)).permutation(num_classes)
    pairs = np.zeros((num_classes, num_classes))
    pairs[cycle, np.roll(cycle, -1)] = 1.0
    return pairs


def noisy_labels(
    labels: np.ndarray,
    rate: float,
    num_classes: int,
    seed: int | tuple[int, ...],
    matrix: np.ndarray | None = None,
) -> np.ndarray:
    """Gives `round(rate * N)` of `N` examples another label: see `with_label_noise`.

    Args:
        labels: `int[N]`, from 0 to `num_classes - 1`, or probabilities `f32[N, C]`.
        rate: the share of examples, from 0 to 1.
        num_classes: the number of classes.
        seed: the seed of the draw.
        matrix: `f64[C, C]` the probabilities of the labels for each class; `None` for
            all other classes alike.

    Returns:
        A changed copy of the labels.

    Raises:
        ValueError: if `rate` is not from 0 to 1.

    Example:
        >>> labels = np.arange(10) % 2
        >>> noisy = noisy_labels(labels, 0.4, num_classes=2, seed=0)
        >>> int((noisy != labels).sum())
        4
    """
    _check_rate("rate", rate)
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(labels))
    wrong = order[: round(rate * len(labels))]
    old = classes_of(labels)[wrong]
    if matrix is None:
        shifts = generator.integers(1, num_classes, len(labels))
        new = (old + shifts[wrong]) % num_classes
    else:
        draws = generator.random((len(labels), 1))
        upto = np.cumsum(matrix, axis=1)[:, :-1]  # the last class is what remains
        new = (draws[wrong] >= upto[old]).sum(1)
    noisy = labels.copy()
    if labels.ndim == 2:
        noisy[wrong, new], noisy[wrong, old] = labels[wrong, old], labels[wrong, new]
    else:
        noisy[wrong] = new
    return noisy


def check_noise(
    train_rate: float, validation_rate: float, pattern: str | np.ndarray
) -> str | np.ndarray:
    """Returns the pattern of noise, a name or a matrix `f64[C, C]`, or raises."""
    _check_rate("label_noise", train_rate)
    _check_rate("validation_label_noise", validation_rate)
    if isinstance(pattern, str):
        check_choice("", "label_noise_pattern", pattern, ("uniform", "pairs"))
        if pattern == "uniform":
            return pattern
    else:
        pattern = check_transition("", "label_noise_pattern", pattern)
    if not train_rate and not validation_rate:
        raise ValueError(
            "label_noise_pattern does nothing where no label is noisy: say also which "
            "share of them, label_noise=0.4 for 40 %, or 1 to apply a matrix to all."
        )
    return pattern


def _read_pattern(
    pattern: str | np.ndarray, dataset: Dataset, seed: int
) -> tuple[np.ndarray | None, str]:
    """Returns the matrix of a pattern, `None` for uniform noise, and words for it."""
    count = dataset.num_classes
    if isinstance(pattern, str):
        if pattern == "uniform":
            return None, "wrong"
        return label_pairs(count, seed), "wrong by pairs of classes"
    if len(pattern) != count:
        raise ValueError(
            f"label_noise_pattern is of {len(pattern)} classes, {dataset.name} has "
            f"{count}."
        )
    return pattern, "drawn from a matrix"


def _check_rate(field: str, rate: float) -> None:
    note = ", the share of labels to make wrong: 0.4 for 40 %"
    check_real("", field, rate, 0, 1, note=note)
