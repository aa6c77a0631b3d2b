"""A data set in the format of Hugging Face's library, read from disk.

    python examples/hugging_face.py FOLDER --image image --label label

Needs `pip install -e ".[data]"`. FOLDER is what `save_to_disk` of a `DatasetDict` has
written, on a machine with a network, say:

    datasets.load_dataset("ylecun/mnist").save_to_disk("mnist")

2 CPU cores, about 30 seconds; with the embedded part of Fashion-MNIST written to disk
in this format, expect a best validation accuracy of about 0.85.
"""

import argparse

import jepbt


def load(folder, image="image", label="label"):
    """Reads the splits "train", "validation" and "test", as far as there are any.

    The columns are read into memory: images of one size, or rows of numbers, and the
    numbers of their classes. Where there is no validation split, a tenth of the
    training examples becomes one.
    """
    from datasets import load_from_disk

    def arrays(split):
        rows = split.select_columns([image, label]).with_format("numpy")[:]
        return rows[image], rows[label]

    splits = {name: arrays(split) for name, split in load_from_disk(folder).items()}
    return jepbt.datasets.from_arrays(
        splits["train"], splits.get("validation", 0.1), splits.get("test")
    )


def main(folder, image="image", label="label", **settings):
    dataset = load(folder, image, label)
    print(dataset)
    task = jepbt.classification(dataset)
    result = jepbt.train_population(task, **settings)
    print(f"best validation accuracy {result.best.fitness}")
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--image", default="image", help="the column of the images")
    parser.add_argument("--label", default="label", help="the column of the classes")
    jepbt.use_all_cpu_cores()
    main(
        **vars(parser.parse_args()),
        population_size=8,
        num_generations=5,
        steps_per_generation=60,
    )
