"""PBT on one small convolutional network, in the ways that `beside_ray.py` compares.

Each way is a function of the `Work`, and returns for every generation and member its
validation accuracy with two marks, of its weights before and after. A member that
starts from another's mark has copied it.
"""

import dataclasses
import functools
import importlib.util
import multiprocessing
import os
import pathlib
import tempfile
import zlib

import numpy as np

LOW, HIGH, MOMENTUM, BATCH_SIZE = 0.01, 0.1, 0.9, 64
FACTORS, RESAMPLE, FRACTION = (0.8, 1.2), 0.25, 0.25


@dataclasses.dataclass(frozen=True)
class Work:
    """What every way does."""

    num_members: int
    num_generations: int
    num_steps: int  # of a member in a generation


def load_data():
    """The standardised images `[N, 1, 28, 28]` and labels, without importing jepbt."""
    package = importlib.util.find_spec("jepbt").submodule_search_locations[0]
    with np.load(pathlib.Path(package) / "datasets" / "fashion_mnist.npz") as file:
        images, labels = file["train_image"], file["train_label"].astype(np.int64)
    ranks = np.zeros(len(labels), int)  # of each image within its class
    for label in range(10):
        ranks[labels == label] = np.arange(np.sum(labels == label))
    is_train = ranks < 900
    mean, deviation = images[is_train].mean(), images[is_train].std()
    images = ((images - mean) / deviation).astype(np.float32).reshape(-1, 1, 28, 28)
    train, validation = ((images[rows], labels[rows]) for rows in (is_train, ~is_train))
    return train, validation


def batch_rows(work, generation):
    """The images of each step of a generation `[S, B]`, the same for all members."""
    start, stop = (work.num_steps * (generation + i) for i in (0, 1))
    per_epoch = 9_000 // BATCH_SIZE
    epochs = [
        np.random.default_rng(epoch).permutation(9_000)[: per_epoch * BATCH_SIZE]
        for epoch in range(start // per_epoch, (stop - 1) // per_epoch + 1)
    ]
    rows = np.concatenate(epochs).reshape(-1, BATCH_SIZE)
    first = start - start // per_epoch * per_epoch
    return rows[first : first + work.num_steps]


def draw_rates(rng, number):
    return np.exp(rng.uniform(np.log(LOW), np.log(HIGH), number))


def evolve(rng, accuracies, rates):
    """PBT: returns the member that each slot copies, and the new learning rates."""
    slots, order = np.arange(len(rates)), np.argsort(accuracies)
    number = max(1, int(FRACTION * len(rates)))
    parents = slots.copy()
    parents[order[:number]] = rng.choice(order[-number:], number)
    explored = np.clip(rates[parents] * rng.choice(FACTORS, len(rates)), LOW, HIGH)
    is_drawn = rng.random(len(rates)) < RESAMPLE
    explored = np.where(is_drawn, draw_rates(rng, len(rates)), explored)
    return parents, np.where(parents == slots, rates, explored)


def make_network():
    import torch
    from torch import nn

    torch.seed()  # every process of PyTorch starts from the same one
    network = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(1568, 64), nn.ReLU(), nn.Linear(64, 10)),
    )
    for layer in network:
        if hasattr(layer, "weight"):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return network.to(memory_format=torch.channels_last)


class Member:
    """A network in PyTorch with its optimizer; its state is a list of arrays."""

    def __init__(self, data, state=None):
        import torch

        torch.set_num_threads(1)  # every core has a process of its own
        self.network = make_network()
        weights = list(self.network.parameters())
        self.optimizer = torch.optim.SGD(weights, lr=LOW, momentum=MOMENTUM, fused=True)
        velocities = [torch.zeros_like(weight) for weight in weights]
        for weight, velocity in zip(weights, velocities, strict=True):
            self.optimizer.state[weight]["momentum_buffer"] = velocity
        self.tensors = [weight.detach() for weight in weights] + velocities
        self.splits = [[torch.from_numpy(x) for x in split] for split in data]
        if state is not None:
            self.load(state)

    def state(self):
        return [tensor.numpy().copy() for tensor in self.tensors]

    def load(self, state):
        import torch

        for tensor, array in zip(self.tensors, state, strict=True):
            tensor.copy_(torch.from_numpy(array))

    def train(self, work, rate, generation):
        """Trains for a generation; returns the accuracy and marks of the weights."""
        import torch

        (images, labels), (validation_images, validation_labels) = self.splits
        self.optimizer.param_groups[0]["lr"] = float(rate)
        before = fingerprint(self.tensors)
        for rows in torch.from_numpy(batch_rows(work, generation)):
            self.optimizer.zero_grad()
            logits = self.network(images[rows])
            torch.nn.functional.cross_entropy(logits, labels[rows]).backward()
            self.optimizer.step()
        with torch.no_grad():
            predictions = self.network(validation_images).argmax(1)
        accuracy = (predictions == validation_labels).double().mean().item()
        after = fingerprint(self.tensors)
        return {"accuracy": accuracy, "before": before, "after": after}


def fingerprint(tensors):
    """A number that two members share only if one has copied the other."""
    return zlib.crc32(b"".join(tensor.numpy().tobytes() for tensor in tensors))


def with_jepbt(work):
    import optax

    import jepbt

    @dataclasses.dataclass
    class Hyper(jepbt.HyperParameters):
        learning_rate: float = jepbt.hparam(0.03, min=LOW, max=HIGH, log=True)

    jepbt.use_all_cpu_cores()
    task = jepbt.classification(
        "fashion_mnist",
        hparams=Hyper,
        model=jepbt.models.CNN(num_classes=10),
        loss=lambda h: jepbt.losses.cross_entropy,
        optimizer=lambda h: optax.sgd(h.learning_rate, momentum=MOMENTUM),
        batch_size=BATCH_SIZE,
    )
    result = jepbt.train_population(
        task,
        strategy=jepbt.strategies.pbt(
            exploit=jepbt.operators.truncation(FRACTION),
            explore=jepbt.operators.perturb(factors=FACTORS, resample=RESAMPLE),
        ),
        population_size=work.num_members,
        num_generations=work.num_generations,
        steps_per_generation=work.num_steps,
    )
    return [
        [
            {
                "accuracy": float(each.fitness[slot]),
                "before": (each.number - 1, int(each.parents[slot])),
                "after": (each.number, slot),
            }
            for slot in range(work.num_members)
        ]
        for each in result.history.generations
    ]


def with_torch_func(work):
    """All members in one process: `vmap` of `grad` over stacked weights."""
    import torch
    from torch.func import functional_call, grad, stack_module_state, vmap

    torch.set_num_threads(count_cores())
    train, validation = ([torch.from_numpy(x) for x in split] for split in load_data())
    networks = [make_network() for _ in range(work.num_members)]
    params = {k: v.detach() for k, v in stack_module_state(networks)[0].items()}
    velocities = {name: torch.zeros_like(value) for name, value in params.items()}

    def logits_of(params, images):
        return functional_call(networks[0], params, (images,))

    def loss_of(params, images, labels):
        return torch.nn.functional.cross_entropy(logits_of(params, images), labels)

    gradients_of = vmap(grad(loss_of), (0, None, None))
    rng = np.random.default_rng()
    rates, parents = draw_rates(rng, work.num_members), np.arange(work.num_members)
    records = []
    for generation in range(work.num_generations):
        if records:
            accuracies = [each["accuracy"] for each in records[-1]]
            parents, rates = evolve(rng, accuracies, rates)
            copied = torch.from_numpy(parents)
            params = {name: value[copied] for name, value in params.items()}
            velocities = {name: value[copied] for name, value in velocities.items()}
        tensors = [*params.values(), *velocities.values()]
        before = [fingerprint(t[i] for t in tensors) for i in range(work.num_members)]
        weights, momenta = list(params.values()), list(velocities.values())
        steps = [
            torch.from_numpy(-rates.astype(np.float32)).view(-1, *[1] * (w.ndim - 1))
            for w in weights
        ]
        for rows in torch.from_numpy(batch_rows(work, generation)):
            gradients = gradients_of(params, train[0][rows], train[1][rows])
            torch._foreach_mul_(momenta, MOMENTUM)
            torch._foreach_add_(momenta, [gradients[name] for name in params])
            torch._foreach_addcmul_(weights, momenta, steps)
        with torch.no_grad():
            logits = vmap(logits_of, (0, None))(params, validation[0])
        accuracies = (logits.argmax(-1) == validation[1]).double().mean(1).tolist()
        after = [fingerprint(t[i] for t in tensors) for i in range(work.num_members)]
        members = zip(accuracies, before, after, strict=True)
        names = ("accuracy", "before", "after")
        records.append([dict(zip(names, member, strict=True)) for member in members])
    return records


def with_pool(work):
    """A pool of processes, a member a task, weights pickled there and back.

    The way of the first EPBT code, https://github.com/lebrice/pop-based-training.
    """
    rng = np.random.default_rng()
    rates, records = draw_rates(rng, work.num_members), []
    states = [None] * work.num_members
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(count_cores(), start_worker) as pool:
        for generation in range(work.num_generations):
            if records:
                accuracies = [each["accuracy"] for each in records[-1]]
                parents, rates = evolve(rng, accuracies, rates)
                states = [states[parent] for parent in parents]
            members = zip(rates, states, strict=True)
            tasks = [(work, *member, generation) for member in members]
            states, trained = zip(*pool.imap(train_task, tasks), strict=True)
            records.append(trained)
    return records


def start_worker():
    global DATA
    DATA = load_data()


def train_task(task):
    work, rate, state, generation = task
    member = Member(DATA, state)
    record = member.train(work, rate, generation)
    return member.state(), record


def with_ray(work, reuse_actors=False):
    import ray
    from ray import tune

    class Trial(tune.Trainable):
        def setup(self, config, data, work):
            self.data, self.work, self.member = data, work, Member(data)

        def step(self):
            rate = self.config["learning_rate"]
            return self.member.train(self.work, rate, self.iteration)

        def save_checkpoint(self, folder):
            return {"state": self.member.state()}

        def load_checkpoint(self, checkpoint):
            self.member.load(checkpoint["state"])

        def reset_config(self, config):
            self.member = Member(self.data)  # a trial without a checkpoint is new
            return True

    class Recorder(tune.Callback):
        def __init__(self):
            self.results = {}

        def on_trial_result(self, iteration, trials, trial, result, **info):
            self.results.setdefault(trial.trial_id, []).append(result)

    def stay_in_bounds(config):
        rate = min(max(config["learning_rate"], LOW), HIGH)
        return config | {"learning_rate": rate}

    prior, recorder = tune.loguniform(LOW, HIGH), Recorder()
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    shared = "/dev/shm" if os.path.isdir("/dev/shm") else None
    ray.init(num_cpus=count_cores(), include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        trainable = tune.with_parameters(Trial, data=load_data(), work=work)
        tune.Tuner(
            tune.with_resources(trainable, {"cpu": 1}),
            param_space={"learning_rate": prior},
            tune_config=tune.TuneConfig(
                metric="accuracy",
                mode="max",
                num_samples=work.num_members,
                reuse_actors=reuse_actors,
                scheduler=tune.schedulers.PopulationBasedTraining(
                    time_attr="training_iteration",
                    perturbation_interval=1,
                    hyperparam_mutations={"learning_rate": prior},
                    quantile_fraction=FRACTION,
                    resample_probability=RESAMPLE,
                    perturbation_factors=FACTORS,
                    custom_explore_fn=stay_in_bounds,
                    synch=True,  # generations, as the others have them
                    log_config=False,
                ),
            ),
            run_config=tune.RunConfig(
                storage_path=folder,
                stop={"training_iteration": work.num_generations},
                callbacks=[recorder],
                verbose=0,
            ),
        ).fit()
    return list(zip(*recorder.results.values(), strict=True))


def count_cores():
    return len(os.sched_getaffinity(0))


WAYS = {
    "jepbt": (with_jepbt, ()),
    "torch_func": (with_torch_func, ("torch",)),
    "pool": (with_pool, ("torch",)),
    "ray": (with_ray, ("torch", "ray")),
    "ray_reused": (functools.partial(with_ray, reuse_actors=True), ("torch", "ray")),
}
"""Each way by its name, with the packages that it needs beside jepbt."""
