"""Train a small convolutional network from scratch to tell cats from dogs.

    python train.py              on the photos under tmp/, which it downloads if there are none
    python train.py --demo       on drawings, in a few minutes

The loop is in `train`. Before it, arguments, photos and settings are read; after it, the run is
scored.
"""

from __future__ import annotations

if __name__ == "__main__":
    from catdog import early

    early.end_quietly()  # at Ctrl-C, while the modules below are loaded

import argparse
import contextlib
import dataclasses
import functools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import data
import model
from catdog import cli, files
from catdog.backend import keras
from catdog.cli import say
from catdog.errors import UserError
from catdog.photos import download
from catdog.runs import export, safe_load
from catdog.runs.classifier import Classifier
from catdog.runs.run import PLACES, TO_RESUME, Run, new_folder
from catdog.scores import inspect, metrics, plots
from catdog.training import budget, devices, finite, pixels, progress, recipe
from catdog.training.recipe import RECIPES
from catdog.training.settings import Settings

# --- Arguments ------------------------------------------------------------------------------------


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train a small convolutional network from scratch and write a run directory.",
        parents=[cli.data_arguments(default=None), recipe.flags(), devices.flags()],
    )
    add = parser.add_argument
    # fmt: off
    add("--arch", choices=model.ARCHITECTURES,
        help="the network in model.py (default: plain); one of a fixed image size takes photos of "
        f"{model.FIXED_SIZE} px, unless --image-size is given")
    add("--minutes", type=cli.number(0, 100_000), metavar="N",
        help="choose image size and epochs so that the whole command takes N minutes")
    add("--folds", type=int, choices=(5, 10),
        help="cross-validation: train this many networks in turn, so that every photo is held out "
        "by at least one; repeat the command to continue after an interruption")
    add("--output", metavar="DIR", help="the run directory to make (default: runs/<date-time>)")
    add("--demo", action="store_const", const=True, help="draw cats and dogs, and train on them")
    add("--resume", metavar="RUN", help="continue an interrupted run, with all its settings")
    # fmt: on
    args = parser.parse_args(argv)
    if args.recipe == "demo":  # the same as --demo
        args.recipe, args.demo = None, True
    given = [name for name, value in vars(args).items() if value is not None]
    # --epochs is for a finished run: `say_finished` prints the next command with it.
    with_resume = ("resume", "hosts", "rank", "cluster", "data_dir", "cache_dir", "epochs")
    excluded = {
        "cluster": ["hosts"],
        "resume": [name for name in given if name not in with_resume],
        "folds": ["fold", "hosts", "cluster"],
        "minutes": ["recipe", "epochs", "image_size", "demo", "folds", "hosts", "cluster"],
        "demo": ["data_dir", "recipe"],
    }
    if args.arch and not model.takes_any_size(args.arch):
        excluded["minutes"].append("arch")
    cli.check_combinations(parser, given, excluded, required={"hosts": "rank", "rank": "hosts"})
    if not args.resume:  # a resumed run knows its own folders
        args.data_dir = args.data_dir or ("tmp/demo" if args.demo else "tmp")
        args.cache_dir = args.cache_dir or "tmp/cache"
    return args


def make_settings(args: argparse.Namespace) -> Settings:
    """Return the settings of the recipe, overridden by the arguments that are given."""
    default = "demo" if args.demo else "tune" if args.init else "full"
    base = RECIPES[args.recipe or default]
    if args.minutes:  # `fit_to_photos` chooses the size, with photos loaded at that of fast
        base = dataclasses.replace(base, recipe="minutes", image_size=RECIPES["fast"].image_size)
    names = {field.name for field in dataclasses.fields(Settings)} - {"recipe"}
    given = {key: value for key, value in vars(args).items() if key in names and value is not None}
    if not model.takes_any_size(given.get("arch", base.arch)):  # one size from start to end
        given = {"image_size": model.FIXED_SIZE, "stages": (1.0,), "score_scale": 1.0} | given
    settings = dataclasses.replace(base, **given)
    model.check_size(settings.arch, settings.image_size)
    return settings


# --- A run, new or resumed ------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    started = time.perf_counter()
    args = parse_arguments(argv)
    with cli.blame("--image-size"):  # a UserError in this block names that flag
        settings = make_settings(args)
    with devices.join(args.hosts, args.rank, bool(args.cluster)):
        if args.folds:
            train_folds(args, settings)
        else:
            with open_run(args, settings, started) as opened:
                if opened:
                    train_and_finish(*opened)
    return 0


@contextlib.contextmanager
def open_run(args: argparse.Namespace, settings: Settings, started: float) -> Iterator:
    """Yield (run, settings, dataset). If the run is finished, say what is next and yield None.

    No other process can train into the run directory meanwhile. If the photos of a new run cannot
    be loaded, no run directory is left behind.

    Args:
        settings: the settings of a new run. A resumed run has its own.
        started: when the program started, by `time.perf_counter()`.
    """
    folder = args.resume or args.output or new_folder()
    # Process 0 uses the folder itself; the others of --hosts read a copy, which it sends.
    with devices.own_copy(Path(folder), TO_RESUME if args.resume else ()) as path:
        run = Run(path, name=folder)
        if args.resume and run.is_finished():
            run.clean()  # what a killed process left
            progress.say_finished(run, args.epochs)
            yield None
            return
        with contextlib.ExitStack() as stack:
            with cli.blame("--resume" if args.resume else "--output"):  # not the rest
                if not args.resume:
                    files.check_outside(folder, args.data_dir)
                elif args.epochs:
                    raise UserError("cannot be combined with --epochs before the run is finished")
                else:
                    settings = recipe.fit_to_machine(Settings.to_resume(run.config))
                stack.enter_context(run.held(new=not args.resume))
            if args.resume:
                yield run, settings, resume(args, run, settings)
            else:
                yield run, *begin(args, run, settings, started)


def begin(
    args: argparse.Namespace, run: Run, settings: Settings, started: float
) -> tuple[Settings, data.Dataset]:
    """Load the photos of a new run, fit its settings to them and describe the run on disk."""
    if settings.init:
        with cli.blame("--init"):
            Run(settings.init).check_trained()  # before photos are decoded, maybe for minutes
    places = {name: getattr(args, name) for name in PLACES}  # data_dir and cache_dir
    lists = data.read_lists(args)  # exclude and relabel
    # Downloads if data_dir is tmp and holds no photos; any other folder stays as it is.
    download.ensure_photos(**places, demo=settings.recipe == "demo")
    load = functools.partial(data.load, **places, **lists, fold=settings.fold)
    dataset = load(size=settings.score_size)
    settings = fit_to_photos(args, settings, dataset, started)
    if args.minutes:
        dataset = load(size=settings.score_size)  # --minutes chose the size
    with cli.blame("--data-dir"):
        run.describe(settings, dataset, places, lists)
    return settings, dataset


def resume(args: argparse.Namespace, run: Run, settings: Settings) -> data.Dataset:
    """Return the photos of an interrupted run, which must be the same."""
    # They may be elsewhere by now.
    places = {name: getattr(args, name) or run.place(name) for name in PLACES}
    download.ensure_photos(**places, demo=settings.recipe == "demo")
    size, fold = settings.score_size, settings.fold
    dataset = data.load(**places, **run.lists, size=size, fold=fold)
    with cli.blame("--resume"):
        if dataset.digest() != run.config.get("digest"):
            raise UserError(
                f"the photos in {places['data_dir']} are not those that this run was started with; "
                "restore them, name their folder (--data-dir), or start a new run"
            )
        run.describe(settings, dataset, places, run.lists)  # with new places and precision
    return dataset


def fit_to_photos(
    args: argparse.Namespace, settings: Settings, dataset: data.Dataset, started: float
) -> Settings:
    """Return the settings of a new run, fitted to its photos and to --minutes."""
    with cli.blame("--data-dir"):
        inspect.check(dataset)  # no split is empty, and every class has training photos
    if dataset.has_given_split and (args.folds or settings.fold):
        raise UserError(
            f"expected photos without a split of their own, got {dataset.summary}",
            "--folds" if args.folds else "--fold",
        )
    settings = recipe.fit(settings, len(dataset.splits["train"]), args.batch_size)
    if not args.minutes:
        return settings
    network = build(settings, dataset.classes, steps=1000, fresh=True)  # any number of steps

    def step(settings):
        network.train_on_batch(*data.training_batches(dataset, settings, epoch=0)[0])

    return budget.within(args.minutes, started, settings, dataset.split_sizes(), step)


def train_and_finish(run: Run, settings: Settings, dataset: data.Dataset) -> None:
    """Train, then score the network and complete the run directory."""
    try:
        devices.check_run(settings, dataset)
        parameters = model.from_settings(settings, len(dataset.classes)).count_params()
        progress.describe(run, settings, dataset, parameters)
        with devices.memory_errors_explained(settings), devices.scope():
            network, history = train(run, settings, dataset)
        if run.writes:  # process 0
            finish_run(run, settings, dataset, network, history)
    except KeyboardInterrupt:
        progress.say_stopped(run)
        raise


def train_folds(args: argparse.Namespace, settings: Settings) -> None:
    """Train one run per fold in DIR/fold-I; continue where an earlier call was interrupted."""
    # Five runs (--fold 0, 2, 4 ...) hold out each photo once; ten once in validation, once in test.
    shift = 10 // args.folds
    output = args.output or "runs/folds"
    folds = range(args.folds)
    runs = {Run(f"{output}/fold-{i}"): dataclasses.replace(settings, fold=shift * i) for i in folds}
    with cli.blame("--folds"):
        for run, settings in runs.items():
            recipe.check_same(run, settings)
    for number, (run, settings) in enumerate(runs.items(), 1):
        say("", f"Fold {number} of {args.folds}: {run}")
        which = "resume" if run.has_begun() else "output"
        # --epochs is in the settings already; `open_run` refuses it for a run that was begun.
        of_fold = argparse.Namespace(**{**vars(args), "epochs": None, which: run.folder})
        try:
            with open_run(of_fold, settings, time.perf_counter()) as opened:
                if opened:
                    train_and_finish(*opened)
        except KeyboardInterrupt:
            say("To continue with all folds, run the same command again.")
            raise
    progress.say_folds(runs, args)


# --- The loop -------------------------------------------------------------------------------------


def train(run: Run, settings: Settings, dataset: data.Dataset) -> tuple[keras.Model, list[dict]]:
    """Train a network, or continue from the checkpoint of the run.

    Each epoch trains on augmented photos, validates the averaged weights and writes a checkpoint.
    `AveragedNetwork.call` (catdog/training/average.py) does the first two: in `fit` it calls
    `data.augment` and updates the average; in `evaluate` it runs the average on photos as they are.

    Args:
        run: receives `checkpoint.npz` and `history.csv`.
        settings: fitted to the photos and the devices.
        dataset: photos decoded at `settings.score_size`.
    Returns:
        The network with the averaged weights, in float32, and the rows of `history.csv`.
    Raises:
        UserError: the loss or the weights are no longer finite.
    """
    keras.utils.set_random_seed(settings.seed)
    steps = len(dataset.splits["train"]) // settings.batch_size  # per epoch
    network = build(settings, dataset.classes, steps, fresh=not run.has_checkpoint())
    with cli.blame("--resume"):
        history = run.restore(network.set_state)  # [] without a checkpoint
    if history:
        say(progress.resuming(len(history), settings))
    bar = progress.bar(steps, settings, len(history))
    # One call of Keras's fit per epoch, as the image size changes between epochs.
    for epoch in range(len(history), settings.epochs):
        started = time.perf_counter()
        logs = network.fit(
            data.training_batches(dataset, settings, epoch),
            initial_epoch=epoch,
            epochs=epoch + 1,
            class_weight=dataset.class_weights() if settings.class_weight else None,
            callbacks=[bar],
            shuffle=False,  # the batches are shuffled
            verbose=0,
        ).history
        # Validated at a size that suits this epoch: small images do not teach large ones.
        size = settings.score_size_after(settings.image_sizes()[epoch])
        validation = data.evaluation_batches(
            dataset, dataset.splits["validation"], settings.batch_size, size
        )
        scores = network.evaluate(validation, verbose=0, return_dict=True)
        history.append(progress.history_row(epoch, logs, scores, network, settings, started))
        state = network.get_state()
        finite.check(history[-1]["loss"], state, len(history), settings)
        run.save(history, state)
        progress.report_epoch(run, settings, history)
    # Standard float32 layers. Training may use bfloat16 and fused batch normalization.
    final = model.from_settings(settings, len(dataset.classes))
    final.set_weights(network.averaged_weights())
    return final, history


def build(settings: Settings, classes: list[str], steps: int, fresh: bool) -> keras.Model:
    """Build and compile a network with its average. It takes the batches that data.py makes.

    If `fresh` (no checkpoint), copy the weights of `settings.init` into it.
    """
    from catdog.training import average, normalization, optimizer  # which load Keras

    devices.keep_freed_memory()  # or a step on the CPU takes up to a tenth longer
    keras.config.set_dtype_policy(settings.precision)
    try:
        network = model.from_settings(settings, len(classes))
        if settings.init and fresh:
            with cli.blame("--init"):
                donor = model.load(settings.init).network
                same_classes = Run(settings.init).config["classes"] == classes
                safe_load.copy_weights(donor, network, same_classes)
        network = normalization.fuse(network)  # computes the same, faster
    finally:
        keras.config.set_dtype_policy("float32")
    devices.synchronize(network)  # batch normalization over the photos of all devices
    dtype = keras.dtype_policies.get(settings.precision).compute_dtype
    averaged = average.AveragedNetwork(
        network,
        sample=functools.partial(pixels.sample, dtype=dtype),
        augment=functools.partial(data.augment, settings=settings, dtype=dtype),
        steps_per_epoch=steps,
    )
    # Cross-entropy with smoothed labels; Muon for convolutions, AdamW for the rest; the learning
    # rate rises, then falls to 0 along a half cosine.
    optimizer.compile(averaged, settings, len(classes), steps)
    return averaged


# --- After the loop -------------------------------------------------------------------------------


def finish_run(
    run: Run, settings: Settings, dataset: data.Dataset, network: keras.Model, history: list
) -> None:
    """Save, calibrate, export and score the trained network; print its scores."""
    run.save_network(network)
    run.write_trained_on(dataset.identities(dataset.splits["train"]), settings.init)
    # Also fits temperature and novelty to the validation photos.
    export.export(run, network, dataset, cli.progress("fitting", " photos"))
    plots.plot_history(history, run.folder / "curves.png")
    classifier = Classifier(run.folder, model.load)  # `model.load` is used if LiteRT is missing
    show = cli.progress("scoring", " photos")
    scores = {
        "training_seconds": round(sum(row["seconds"] for row in history), 1),
        "device": devices.devices()[0],
        "runtime": classifier.runtime,
    }
    for split in ("validation", "test"):
        members = dataset.splits[split]
        probabilities = classifier.outputs_of(dataset, members, show)["probabilities"]
        scores[split] = metrics.score(dataset.labels[members], probabilities, dataset.classes)
    run.finish(scores)
    progress.say_scores(run, settings, scores)


if __name__ == "__main__":
    # If the reader of stdout leaves, exit as after SIGPIPE: folds may be left to train.
    cli.run(main, closed_pipe=141)
