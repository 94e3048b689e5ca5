"""Train a small stacked Conv-ReLU-Pool network from scratch to tell cats from dogs.

    python train.py              on the photos under tmp/, which it downloads if there are none
    python train.py --demo       on drawings, in about a minute

The loop is in `fit`. Before it, photos and settings are loaded; after it, the run is scored.
"""

from __future__ import annotations  # Keras is loaded when it is used

import argparse
import contextlib
import dataclasses
import datetime
import importlib.metadata
import platform
import re
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import data
import model
from catdog import cli
from catdog.backend import keras
from catdog.cli import say
from catdog.errors import UserError
from catdog.files import printable, some_names
from catdog.photos import download, drawings, index
from catdog.photos import labels as label_files
from catdog.runs import export, run
from catdog.runs.classifier import Classifier
from catdog.scores import metrics, plots, tables
from catdog.training import devices, recipe
from catdog.training.recipe import RECIPES, Settings

NO_PHOTOS = """\
Three ways to go on:
  1. kaggle competitions download -c dogs-vs-cats -p tmp, and unzip train.zip there
  2. put your own photos into one folder per class: tmp/cats/*.jpg, tmp/dogs/*.jpg
  3. python train.py --demo trains on drawings and needs no photos"""
LIKELY_CAUSES = """\
Likely causes: a learning rate that is too high (--lr, here {lr:g}); a batch of very few photos
(--batch-size, here {batch_size}). --resume would take the same steps again: start a new run."""
SAME_LABEL = """\
Careful: for 2 epochs the network has given every validation photo the same label.
         If that goes on, try a lower --lr or more --epochs, and look with python data.py
         whether the labels are right and one class has far fewer photos than another."""

# --- Arguments ------------------------------------------------------------------------------------


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    full, fast = RECIPES["full"], RECIPES["fast"]
    parser = argparse.ArgumentParser(
        description="Train a small convolutional network from scratch and write a run directory.",
        parents=[cli.data_arguments(default=None)],
    )
    add = parser.add_argument
    # fmt: off
    add("--recipe", choices=("full", "fast", "long"),
        help="full: the best accuracy in one run (default); fast: 94%% in the least time; long: on "
        "from the weights of full, with --init")
    add("--arch", choices=recipe.ARCHITECTURES,
        help=f"the network in model.py (default: {full.arch})")
    add("--epochs", type=cli.whole_number(1, 10_000), metavar="N",
        help=f"passes over the training photos (default: {full.epochs}; fast: {fast.epochs})")
    add("--batch-size", type=cli.whole_number(2, 65_536), metavar="N",
        help=f"photos per step (default: {full.batch_size}, or fewer if there are few photos)")
    add("--lr", type=cli.number(0, 10), metavar="RATE",
        help=f"peak learning rate (default: {full.lr:g}; fast: {fast.lr:g})")
    add("--image-size", type=cli.whole_number(8, 1024), metavar="PX",
        help="height and width of the photos in the last epochs, in pixels (default: "
        f"{full.image_size}; fast: {fast.image_size}; classic and dnn: {recipe.FIXED_SIZE})")
    add("--minutes", type=cli.number(0, 100_000), metavar="N",
        help="choose image size and epochs so that the whole command takes so many minutes")
    add("--init", metavar="RUN",
        help="start from the convolutions of this run, such as weights, instead of from scratch: "
        "for few photos")
    add("--class-weight", choices=("balanced",),
        help="give all classes the same weight in the loss, however many photos they have")
    add("--seed", type=cli.whole_number(0, 2**31 - 1), metavar="N",
        help=f"of the first weights, the order and the random crops (default: {full.seed})")
    add("--fold", type=cli.whole_number(0, 9), metavar="I",
        help="hold out other photos: turn the split by so many tenths (default: 0)")
    add("--folds", type=int, choices=(5, 10),
        help="train so many networks, one after another, so that every photo is held out once; the "
        "same command goes on after an interruption")
    add("--output", metavar="DIR", help="the run directory to make (default: runs/<date-time>)")
    add("--demo", action="store_const", const=True, help="draw cats and dogs, and train on them")
    add("--resume", metavar="RUN", help="go on with an interrupted run, with all its settings")
    add("--hosts", type=cli.addresses, metavar="HOST:PORT,...",
        help="train on several machines (with KERAS_BACKEND=jax): the address of each, the same "
        "list on all of them")
    add("--rank", type=cli.whole_number(0, 1023), metavar="N",
        help="which of --hosts this machine is, from 0; only machine 0 writes the run directory")
    add("--cluster", action="store_const", const=True,
        help="train on several machines that Slurm, Open MPI, Kubernetes or a TPU pod started")
    # fmt: on
    args = parser.parse_args(argv)
    check_arguments(parser, args)
    return args


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End with one line if arguments do not go together."""
    if (args.hosts is None) != (args.rank is None):
        given, missing = ("rank", "hosts") if args.hosts is None else ("hosts", "rank")
        parser.error(f"argument --{given}: expected together with --{missing}")
    if args.hosts and args.cluster:
        parser.error("argument --cluster: expected without --hosts")
    if args.hosts and args.rank >= len(args.hosts):
        parser.error(
            f"argument --rank: expected a whole number from 0 to {len(args.hosts) - 1}, "
            f"as there are {len(args.hosts)} hosts, got {args.rank}"
        )
    given = [
        name
        for name, value in vars(args).items()
        if value is not None and name not in ("resume", "hosts", "rank", "cluster")
    ]
    if args.resume and given:
        parser.error(f"argument --resume: expected alone, got --{given[0].replace('_', '-')} too")
    if args.folds and args.fold is not None:
        parser.error("argument --folds: expected without --fold")
    chosen = ("recipe", "arch", "epochs", "image_size", "demo", "hosts", "cluster")
    for name in chosen if args.minutes else ():
        if getattr(args, name) and getattr(args, name) != "plain":
            parser.error(f"argument --minutes: expected without --{name.replace('_', '-')}")
    if args.demo and (args.data_dir or args.recipe):
        other = "--data-dir" if args.data_dir else "--recipe"
        parser.error(f"argument --demo: brings photos and recipe of its own, got {other} too")


def make_settings(args: argparse.Namespace) -> Settings:
    """Return the settings of the recipe, overridden by the arguments that are given."""
    base = RECIPES[args.recipe or ("demo" if args.demo else "tune" if args.init else "full")]
    if args.minutes:  # the image size is chosen later; photos are first loaded at that of fast
        base = dataclasses.replace(base, recipe="minutes", image_size=RECIPES["fast"].image_size)
    names = {field.name for field in dataclasses.fields(Settings)} - {"recipe"}
    given = {key: value for key, value in vars(args).items() if key in names and value is not None}
    if given.get("arch", base.arch) not in recipe.ANY_SIZE:
        given = {"image_size": recipe.FIXED_SIZE} | given
    return dataclasses.replace(base, **given)


# --- A run, from its beginning or from a checkpoint -----------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    started = time.perf_counter()
    args = parse_arguments(argv)
    with cli.blame("--image-size"):
        settings = make_settings(args)
    hosts = args.hosts or []
    with contextlib.ExitStack() as stack:
        with cli.blame("--cluster" if args.cluster else "--hosts"):
            coordinator = hosts[0] if hosts else None
            stack.enter_context(
                devices.join(coordinator, len(hosts), args.rank, cluster=bool(args.cluster))
            )
        if args.folds:
            return train_folds(args, settings)
        return resume(Path(args.resume)) if args.resume else start(args, settings, started)


def train_folds(args: argparse.Namespace, settings: Settings) -> int:
    """Train a run per fold in DIR/fold-I; go on where an earlier call of the same command ended."""
    args.output = args.output or "runs/folds"
    for fold in range(0, 10, 10 // args.folds):
        folder = Path(args.output, f"fold-{fold}")
        say(f"\nFold {fold}, in {printable(folder)}")
        if run.is_finished(folder) or run.has_checkpoint(folder):
            resume(folder)
        else:
            fold_args = argparse.Namespace(**{**vars(args), "output": str(folder)})
            start(fold_args, dataclasses.replace(settings, fold=fold), time.perf_counter())
    runs = " ".join(quoted(path) for path in sorted(Path(args.output).glob("fold-*")))
    say(
        "\nAll photos, each scored by a network that did not see it:\n"
        f"       python evaluate.py --data-dir {quoted(args.data_dir or 'tmp')} --model {runs}"
    )
    return 0


def start(args: argparse.Namespace, settings: Settings, started: float) -> int:
    """Begin a run; its directory is made when the photos are known to be usable."""
    folder = Path(args.output or f"runs/{datetime.datetime.now():%Y-%m-%d-%H%M%S}")
    data_dir = args.data_dir or ("tmp/demo" if args.demo else "tmp")
    cache_dir = args.cache_dir or "tmp/cache"
    leads = devices.index() == 0
    if leads and not run.is_unstarted(folder):
        cli.check_output(folder, data_dir)
    if settings.init:
        with cli.blame("--init"):
            run.read_config(settings.init)
    with cli.blame("--exclude"):
        exclude = index.read_names(args.exclude)
    with cli.blame("--relabel"):
        relabel = label_files.read_relabels(args.relabel)
    dataset = load_photos(data_dir, cache_dir, settings, exclude, relabel)
    with cli.blame("--batch-size"):
        settings = complete(settings, dataset, args.batch_size)
    if args.minutes:
        settings = within_minutes(args.minutes, settings, dataset, started)
        dataset = load_photos(
            data_dir, cache_dir, settings, exclude, relabel
        )  # at the size of that choice
    config = {
        "settings": dataclasses.asdict(settings),
        "data_dir": run.relative_to_run(folder, data_dir),
        "cache_dir": run.relative_to_run(folder, cache_dir),
        "exclude": exclude,
        "relabel": relabel,
        "classes": dataset.classes,
        "score_size": settings.score_size,
        "splits": dataset.split_sizes(),
        "digest": dataset.digest(),
        "skipped": len(dataset.skipped),
        "versions": versions(),
    }
    if leads:
        with cli.blame("--output"):
            run.create(folder, config)
    return train(folder, config, settings, dataset)


def resume(folder: Path) -> int:
    """Go on with a run from its checkpoint."""
    with devices.own_copy(folder, run.TO_RESUME) as copy:
        with cli.blame("--resume"):
            config = run.read_config(copy)
            settings = Settings.from_dict(config["settings"])
            run.check_resumable(copy)
        data_dir = run.from_run(folder, config["data_dir"])
        cache_dir = run.from_run(folder, config["cache_dir"])
        if run.is_finished(copy):
            run.clean(copy)
            say(f"{printable(folder)} is finished. Next:  {evaluate(folder, data_dir)}")
            return 0
        named = config.get("exclude", []), config.get("relabel", {})
        dataset = load_photos(data_dir, cache_dir, settings, *named)
        if dataset.digest() != config.get("digest"):
            raise UserError(
                f"expected the photos that the run began with, got others in {printable(data_dir)}",
                "--resume",
            )
        return train(copy, config, settings, dataset)


def load_photos(
    data_dir: str, cache_dir: str, settings: Settings, exclude: list, relabel: dict
) -> data.Dataset:
    """Load the photos; draw those of --demo, download the public copy if tmp/ holds none."""
    if settings.recipe == "demo":
        draw_demo(data_dir)
    elif data_dir == "tmp":
        download_if_empty(data_dir, cache_dir)
    dataset = data.load(data_dir, settings.score_size, cache_dir, exclude, settings.fold, relabel)
    for path, reason in dataset.skipped[:10]:
        say(f"skipped {printable(path)}: {reason}")
    if len(dataset.skipped) > 10:
        say(f"skipped {len(dataset.skipped) - 10} more")
    return dataset


def draw_demo(folder: str) -> None:
    """Draw the data set of --demo."""
    say("Drawing cats and dogs. What follows says nothing about photos.")
    try:
        drawings.make_demo(folder, progress=cli.progress("drawing", " pictures"))
    except ValueError as error:
        raise UserError(str(error), "--demo") from None


def download_if_empty(folder: str, cache_dir: str) -> None:
    """Download the public copy of the photos if the folder holds no labelled photos."""
    Path(folder).mkdir(exist_ok=True)
    if index.find(folder, cache_dir) is not None:
        return
    say("No labelled photos under tmp/. Downloading the public copy of Dogs vs. Cats, 825 MB.")
    try:
        download.download_photos(folder, progress=cli.progress("downloading", "B"))
    except download.DownloadError as error:
        raise UserError(f"cannot download the photos: {error}\n{NO_PHOTOS}") from None


def complete(settings: Settings, dataset: data.Dataset, batch_size: int | None) -> Settings:
    """Return the settings with what depends on the number of photos and on the devices."""
    from catdog.training import optimizer  # which loads Keras

    settings = recipe.fit_to_size(settings, len(dataset.splits["train"]), batch_size)
    if batch_size is None:
        settings = dataclasses.replace(settings, batch_size=devices.divisible(settings.batch_size))
    precision = devices.broadcast(optimizer.best_precision(devices.devices()[0]).encode())
    return dataclasses.replace(settings, precision=precision.decode())


def within_minutes(
    minutes: float, settings: Settings, dataset: data.Dataset, started: float
) -> Settings:
    """Return the settings of the best run that ends so many minutes after `started`."""
    from catdog.training import budget  # which loads Keras

    say("Measuring how fast this machine trains")
    classes = len(dataset.classes)
    rate = budget.measure(
        lambda: model.build(settings.arch, classes, settings.fixed_size), settings, classes
    )
    seconds = 60 * minutes - (time.perf_counter() - started)
    return budget.choose(settings, rate, dataset.split_sizes(), seconds)


def train(folder: Path, config: dict, settings: Settings, dataset: data.Dataset) -> int:
    """Train, then complete the run directory and print what the network reaches."""
    with cli.blame("--batch-size"):
        devices.check_batch_size(settings.batch_size)
    with cli.blame("--hosts"):
        devices.agree(
            {
                **{name: version for name, version in versions().items() if name != "python"},
                **dataclasses.asdict(settings),
                **dataset.split_sizes(),
                "digest of the photos": dataset.digest(),
                "device": devices.devices()[0],
            }
        )
    if devices.index() == 0:
        describe(folder, settings, dataset)
    else:
        say(f"Process {devices.index()} of {devices.processes()}; see the output of process 0")
    if devices.processes() > 1:
        say("If one process fails, all end within a minute. Go on with --resume on each machine.")
    try:
        with devices.scope():
            network, rows = fit(settings, dataset, folder)
        if devices.index() == 0:
            finish(folder, config, settings, dataset, network, rows)
    except KeyboardInterrupt:
        say(f"\nStopped. {advice(folder)}")
        raise
    return 0


def advice(folder: Path) -> str:
    """Return how to go on with a run that is stopped."""
    if (folder / "checkpoint.npz").exists():
        return f"Go on with:  python train.py --resume {quoted(folder)}"
    return "No epoch was finished: the same command starts again."


# --- The loop -------------------------------------------------------------------------------------


def fit(
    settings: Settings, dataset: data.Dataset, folder: Path, callbacks: Sequence = ()
) -> tuple[keras.Model, list[dict]]:
    """Train a network, on from the checkpoint in `folder` if there is one.

    Args:
        dataset: photos decoded at `settings.score_size`.
        folder: the run directory, which receives `checkpoint.npz` and `history.csv`.
        callbacks: further Keras callbacks.
    Returns:
        The network with the averaged weights, in float32, and the rows of `history.csv`.
    Raises:
        UserError: the loss or the weights are no longer finite.
    """
    from catdog.training.average import WeightAverage  # these two load Keras
    from catdog.training.progress import Progress, epoch_line, estimate, going_on

    keras.utils.set_random_seed(settings.seed)
    steps = len(dataset.splits["train"]) // settings.batch_size
    network = build(settings, dataset.classes, steps, fresh=not run.has_checkpoint(folder))
    average = WeightAverage(network, steps)
    rows = restore(folder, network, average, settings)
    if rows and devices.index() == 0:
        say(going_on(len(rows), settings))
    progress = Progress(lambda seconds: say(estimate(seconds * steps, len(rows), settings)))
    callbacks = [average, progress, keras.callbacks.TerminateOnNaN(raise_error=True), *callbacks]
    same_label = 0
    for epoch in range(len(rows), settings.epochs):
        started = time.perf_counter()
        try:
            logs = network.fit(
                data.training_batches(dataset, settings, epoch),
                initial_epoch=epoch,
                epochs=epoch + 1,
                class_weight=class_weights(dataset) if settings.class_weight else None,
                callbacks=callbacks,
                shuffle=False,  # the batches are shuffled
                verbose=0,
            ).history
        except RuntimeError as error:
            raise not_finite(error, epoch, steps, settings) from error
        with average.in_place():
            scores = validate(network, dataset, settings, epoch)
        rows.append({
            "epoch": epoch + 1,
            "loss": logs["loss"][0],
            "accuracy": logs["accuracy"][0],
            "val_loss": scores["loss"],
            "val_accuracy": scores["accuracy"],
            "learning_rate": float(network.optimizer.learning_rate),
            "image_size": settings.image_sizes()[epoch],
            "seconds": round(time.perf_counter() - started, 2),
        })  # fmt: skip
        write_checkpoint(folder, network, average, rows, settings)
        one_label = scores["largest_share"] == 1 and scores["accuracy"] < 1
        same_label = same_label + 1 if one_label else 0
        if devices.index() == 0:
            say(epoch_line(rows[-1], settings))
            if same_label == 2:
                say(SAME_LABEL)
    final = model.build(settings.arch, len(dataset.classes), settings.fixed_size, settings.dropout)
    final.set_weights(average.weights)
    return final, rows


def validate(
    network: keras.Model, dataset: data.Dataset, settings: Settings, epoch: int
) -> dict[str, float]:
    """Score the validation photos at the size that fits the epoch's own.

    A network that has only seen small images does badly on large ones.
    """
    size = settings.score_size_after(settings.image_sizes()[epoch])
    members = dataset.splits["validation"]
    batches = data.evaluation_batches(dataset, members, settings.batch_size, size)
    return network.evaluate(batches, verbose=0, return_dict=True)


def build(settings: Settings, classes: list[str], steps: int, fresh: bool) -> keras.Model:
    """Build and compile a network to train; if `fresh`, with the weights of `settings.init`."""
    from catdog.training import normalization, optimizer

    keras.config.set_dtype_policy(settings.precision)
    try:
        network = model.build(settings.arch, len(classes), settings.fixed_size, settings.dropout)
        if settings.init and fresh:
            with cli.blame("--init"):
                take_weights(network, settings, classes)
        network = normalization.fuse(network)
    finally:
        keras.config.set_dtype_policy("float32")
    devices.synchronize(network)
    optimizer.compile(network, settings, len(classes), steps)
    return network


def take_weights(network: keras.Model, settings: Settings, classes: list[str]) -> None:
    """Give a network the weights of the run `settings.init`, but an output of other classes.

    Raises:
        UserError: that run has no network of this kind.
    """
    config = run.read_config(settings.init)
    other = Settings.from_dict(config["settings"])
    if (other.arch, other.fixed_size) != (settings.arch, settings.fixed_size):
        size = f" at {settings.image_size} px" if settings.fixed_size else ""
        raise UserError(
            f"expected a run of the network {settings.arch}{size}, got {other.arch} at "
            f"{other.image_size} px in {printable(settings.init)}"
        )
    donor = model.load(settings.init)
    kept = len(network.layers) if config["classes"] == classes else -1
    for layer, trained in zip(network.layers[:kept], donor.layers, strict=False):
        layer.set_weights(trained.get_weights())


def class_weights(dataset: data.Dataset) -> dict[int, float]:
    """Return what a photo of each class counts in the loss: less, the more photos it has."""
    from sklearn.utils.class_weight import compute_class_weight

    labels = dataset.labels[dataset.splits["train"]]
    weights = compute_class_weight("balanced", classes=np.arange(len(dataset.classes)), y=labels)
    return dict(enumerate(weights.tolist()))


# --- Checkpoints ----------------------------------------------------------------------------------


def restore(folder: Path, network: keras.Model, average, settings: Settings) -> list[dict]:
    """Put the checkpoint of a run into place; return the rows of its history, none without one."""
    with cli.blame("--resume"):
        checkpoint = run.read_checkpoint(folder)
        if checkpoint is None:
            return []
        state, arrays = checkpoint
        variables = [*network.variables, *network.optimizer.variables]
        run.check_arrays(arrays, [tuple(each.shape) for each in [*variables, *average.weights]])
    for variable, array in zip(variables, arrays, strict=False):
        variable.assign(array)
    average.weights = [np.array(array) for array in arrays[len(variables) :]]
    average.updates = state["updates"]
    return state["history"]


def write_checkpoint(folder: Path, network, average, rows: list[dict], settings: Settings) -> None:
    """Write all that a resumed run needs; raise UserError if it is not finite."""
    variables = [*network.variables, *network.optimizer.variables]
    arrays = [np.asarray(keras.ops.convert_to_numpy(variable)) for variable in variables]
    arrays += average.weights
    if not all(np.isfinite(array).all() for array in arrays):
        raise UserError(
            f"expected finite weights after epoch {len(rows)}, got nan or inf\n{causes(settings)}"
        )
    if devices.index() == 0:
        run.write_checkpoint(folder, {"updates": average.updates, "history": rows}, arrays)
        run.write_history(folder, rows)


def not_finite(error: RuntimeError, epoch: int, steps: int, settings: Settings) -> Exception:
    """Return the error of `TerminateOnNaN` with its place and likely causes, others as they are."""
    found = re.search(r"NaN or Inf loss .* at batch (\d+)\. Loss value: (\S+)\.", str(error))
    if not found:
        return error
    return UserError(
        f"expected a finite loss, got {found[2]} in epoch {epoch + 1} at step {int(found[1]) + 1} "
        f"of {steps}\n{causes(settings)}"
    )


def causes(settings: Settings) -> str:
    return LIKELY_CAUSES.format(lr=settings.lr, batch_size=settings.batch_size)


# --- Before and after -----------------------------------------------------------------------------


def describe(folder: Path, settings: Settings, dataset: data.Dataset) -> None:
    """Print what is about to be trained, on what, and where."""
    device, *more = devices.devices()
    network = model.build(settings.arch, len(dataset.classes), settings.fixed_size)
    sizes = " > ".join(f"{size}" for size in dict.fromkeys(settings.image_sizes()))
    say(
        f"Device   {device}, {settings.precision}"
        + (f", and {len(more)} more like it" if more else "")
        + (f", on {devices.processes()} machines" if devices.processes() > 1 else "")
    )
    if device.startswith("cpu"):
        say(f"         {slow_because()}")
    say("Photos   " + ", ".join(f"{name} {n:,}" for name, n in dataset.split_sizes().items()))
    say(
        f"         skipped {len(dataset.skipped)}, left out {len(dataset.excluded)}; "
        f"classes {some_names(dataset.classes)}"
    )
    counts = dataset.class_counts("train")
    if counts.max() > 2 * counts.min():
        order = counts.argsort(kind="stable")
        shown = some_names([f"{dataset.classes[i]} {counts[i]:,}" for i in order])
        remedy = "weighted" if settings.class_weight else "--class-weight balanced makes up for it"
        say(f"Uneven   {shown} training photos: {remedy}")
    start = f", starting from {printable(settings.init)}" if settings.init else ""
    say(f"Network  {settings.arch}, {network.count_params():,} parameters{start}")
    say(
        f"Recipe   {settings.recipe}, {settings.epochs} epochs at {sizes} px, "
        f"scored at {settings.score_size} px"
    )
    say(f"Run      {printable(folder)}")
    if settings.init:
        say_if_seen(dataset, settings.init)


def slow_because() -> str:
    """Return what is faster than training on the CPU."""
    if other := devices.backend_with_a_gpu():
        return f"There is a GPU: KERAS_BACKEND={other} python train.py uses it."
    if keras.backend.backend() == "jax":
        return "On a CPU, JAX is about ten times slower than TensorFlow."
    return "A GPU is many times faster: see docs/devices.md."


def say_if_seen(dataset: data.Dataset, init: str) -> None:
    """Print how many of the photos to be scored the run `init` was trained on, if any."""
    held_out = np.concatenate([dataset.splits["validation"], dataset.splits["test"]])
    seen = run.trained_on(init, data.identities(dataset, held_out))
    if seen is not None and seen.any():
        say(
            f"Careful: {printable(init)} was trained on {seen.sum():,} of the validation and test "
            "photos: their scores will be too good."
        )


def finish(folder, config, settings: Settings, dataset: data.Dataset, network, rows) -> None:
    """Save, export, calibrate and score the trained network; print what it reaches."""
    seconds = sum(row["seconds"] for row in rows)
    plots.plot_history(rows, folder / "curves.png")
    run.save_network(folder, network)
    run.write_trained_on(folder, data.identities(dataset, dataset.splits["train"]), settings.init)
    labels = {split: dataset.labels[dataset.splits[split]] for split in ("validation", "test")}
    try:
        export.export(
            folder,
            model.for_prediction(network, settings.score_size),
            dataset.images[dataset.splits["validation"]],
            labels["validation"],
        )
    except UserError as error:
        say(f"No model.tflite, so that predict.py will start slowly: {error}")
    classifier = Classifier(folder, model.load)
    show = cli.progress("scoring", " photos")
    outputs = {
        split: classifier.outputs_of(dataset, dataset.splits[split], show) for split in labels
    }
    logits = {split: outputs[split]["logits"] for split in labels}
    classifier.calibrate(logits["validation"], labels["validation"])
    classifier.fit_novelty(dataset, outputs["validation"].get("features"), show)
    scores = {
        split: metrics.score(
            labels[split], classifier.probabilities(logits[split]), dataset.classes
        )
        for split in labels
    }
    about = {"training_seconds": round(seconds, 1), "device": devices.devices()[0]}
    run.finish(folder, {**about, "runtime": classifier.runtime, **scores})

    say(
        f"\nTrained for {datetime.timedelta(seconds=round(seconds))}. "
        "On the test split, which training never saw:\n"
    )
    print(tables.format_score(scores["test"]), flush=True)
    if settings.recipe == "demo":
        say(
            "\nThese are drawings: the figure says nothing about photos, and this network knows\n"
            "drawings only."
        )
    data_dir = run.from_run(folder, config["data_dir"])
    say(
        f"\nNext:  {evaluate(folder, data_dir)}\n"
        f"       python predict.py --model {quoted(folder)} photo.jpg"
    )


def evaluate(folder: Path, data_dir: str) -> str:
    return f"python evaluate.py --model {quoted(folder)} --data-dir {quoted(data_dir)}"


def quoted(path: str | Path) -> str:
    """Return a path as it is typed at a shell."""
    return shlex.quote(printable(path))


def versions() -> dict[str, str]:
    packages = dict.fromkeys(("keras", "tensorflow", "numpy", "pillow", keras.backend.backend()))
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
        "backend": keras.backend.backend(),
    }


if __name__ == "__main__":
    cli.run(main, closed_pipe=141)  # as where SIGPIPE ends it: the run is not finished
