"""Train a small convolutional network from scratch to tell cats from dogs.

    python train.py              on the photos under tmp/, which it downloads if there are none
    python train.py --demo       on drawings, in a few minutes

The loop is in `train`. Before it, arguments, photos and settings are read; after it, the run is
scored.
"""

# Annotations such as keras.Model must not load Keras at import time.
from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import functools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import data
import model
from catdog import cli
from catdog.backend import keras
from catdog.cli import say
from catdog.errors import UserError
from catdog.files import printable, quoted
from catdog.photos import download
from catdog.runs import export, run, safe_load
from catdog.runs.classifier import Classifier
from catdog.scores import inspect, metrics, plots
from catdog.training import budget, devices, finite, progress, recipe
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
    if args.recipe == "demo":
        args.recipe, args.demo = None, True
    given = [name for name, value in vars(args).items() if value is not None]
    with_resume = ("resume", "hosts", "rank", "cluster", "data_dir", "cache_dir", "epochs")
    excluded = {
        "cluster": ["hosts"],
        "resume": [name for name in given if name not in with_resume],
        "folds": ["fold", "hosts", "cluster"],
        "minutes": ["recipe", "epochs", "image_size", "demo", "folds", "hosts", "cluster"],
        "demo": ["data_dir", "recipe"],
    }
    if args.arch not in model.SMALLEST:  # its image size is fixed
        excluded["minutes"].append("arch")
    cli.check_combinations(parser, given, excluded, {"hosts": "rank", "rank": "hosts"})
    return args


def photo_folder(args: argparse.Namespace) -> str:
    return args.data_dir or ("tmp/demo" if args.demo else "tmp")


def make_settings(args: argparse.Namespace) -> Settings:
    """Return the settings of the recipe, overridden by the arguments that are given."""
    default = "demo" if args.demo else "tune" if args.init else "full"
    base = RECIPES[args.recipe or default]
    if args.minutes:  # the image size is chosen later; photos are first loaded at that of fast
        base = dataclasses.replace(base, recipe="minutes", image_size=RECIPES["fast"].image_size)
    names = {field.name for field in dataclasses.fields(Settings)} - {"recipe"}
    given = {key: value for key, value in vars(args).items() if key in names and value is not None}
    if given.get("arch", base.arch) not in model.SMALLEST:
        given = {"image_size": model.FIXED_SIZE, "stages": (1.0,), "score_scale": 1.0} | given
    settings = dataclasses.replace(base, **given)
    model.fixed_size(settings.arch, settings.image_size)  # raises UserError if it is too small
    return settings


# --- A run, new or resumed ------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    started = time.perf_counter()
    args = parse_arguments(argv)
    with cli.blame("--image-size"):
        settings = make_settings(args)
    with devices.join(args.hosts, args.rank, bool(args.cluster)):
        if args.folds:
            train_folds(args, settings)
        else:
            with open_run(args, settings, started) as opened:
                if opened:
                    train_and_finish(*opened)
    return 0


def open_run(args: argparse.Namespace, settings: Settings, started: float):
    """Return a context manager of (run directory, settings, dataset), or None of a finished run.

    No other process can train into the run directory meanwhile.
    """
    if args.resume:
        return resumed_run(Path(args.resume), args)
    return new_run(args, settings, started)


@contextlib.contextmanager
def new_run(args: argparse.Namespace, settings: Settings, started: float) -> Iterator[tuple]:
    """Make a run directory, but only after the photos have been loaded successfully."""
    dated = f"runs/{datetime.datetime.now():%Y-%m-%d-%H%M%S}"
    folder = Path(args.output or run.free_folder(dated))
    places = {"data_dir": photo_folder(args), "cache_dir": args.cache_dir or "tmp/cache"}
    first = devices.index() == 0
    # A run that stopped before its first checkpoint may be overwritten, unless it is running.
    if first and run.is_unstarted(folder):
        with cli.blame("--output"), run.claimed(folder):
            pass
    elif first:
        cli.check_output(folder, places["data_dir"])
    if settings.init:
        with cli.blame("--init"):
            run.read_config(settings.init)
    lists = data.read_lists(args)
    download.ensure_photos(**places, demo=settings.recipe == "demo")
    load = functools.partial(data.load, **places, **lists, fold=settings.fold)
    dataset = load(image_size=settings.score_size)
    with cli.blame("--data-dir"):
        inspect.check(dataset)
    if dataset.given and (args.folds or settings.fold):
        raise UserError(
            f"expected photos without a split of their own, got {dataset.summary}",
            "--folds" if args.folds else "--fold",
        )
    settings = recipe.fit(settings, len(dataset.splits["train"]), args.batch_size)
    if args.minutes:
        network = build(settings, dataset.classes, steps=1000, fresh=True)
        settings = budget.within(
            args.minutes,
            started,
            settings,
            dataset.split_sizes(),
            lambda sized: network.train_on_batch(*data.training_batches(dataset, sized, 0)[0]),
        )
        dataset = load(image_size=settings.score_size)  # which may have changed
    if not first:
        yield folder, settings, dataset
        return
    if not args.output:
        folder = run.free_folder(dated)  # another run may have begun in the same second
    config = run.new_config(folder, settings, dataset, places, **lists)
    with contextlib.ExitStack() as claim:
        with cli.blame("--output"):
            claim.enter_context(run.claimed(folder, config))
        yield folder, settings, dataset


@contextlib.contextmanager
def resumed_run(folder: Path, args: argparse.Namespace) -> Iterator[tuple | None]:
    """Open a run to continue from its checkpoint; of a finished one, say what is next.

    The photos and the cache may be elsewhere by now: --data-dir and --cache-dir.
    """
    with contextlib.ExitStack() as claim, devices.own_copy(folder, run.TO_RESUME) as local_folder:
        with cli.blame("--resume"):
            config = run.read_config(local_folder)
            if devices.index() == 0:
                run.check_resumable(local_folder)
            places = {
                name: getattr(args, name) or run.from_run(folder, config.get(name, default))
                for name, default in (("data_dir", "../tmp"), ("cache_dir", "../tmp/cache"))
            }
            if run.is_finished(local_folder):
                run.clean(local_folder)
                progress.say_finished(folder, places["data_dir"], args.epochs)
                yield None
                return
            if args.epochs:
                raise UserError("cannot be combined with --epochs before the run is finished")
            settings = recipe.fit_to_machine(Settings.to_resume(config))
            claim.enter_context(run.claimed(local_folder))
        lists = {"exclude": config.get("exclude", []), "relabel": config.get("relabel", {})}
        download.ensure_photos(**places, demo=settings.recipe == "demo")
        dataset = data.load(**places, **lists, image_size=settings.score_size, fold=settings.fold)
        with cli.blame("--resume"):
            run.check_same(config, settings, dataset, places["data_dir"])
        kept = {name: run.relative_to_run(folder, path) for name, path in places.items()}
        if {**config, **kept} != config:
            run.update_config(local_folder, **kept)
        yield local_folder, settings, dataset


def train_and_finish(folder: Path, settings: Settings, dataset: data.Dataset) -> None:
    """Train, then score the network and complete the run directory."""
    devices.check_run(settings, dataset)
    parameters = model.from_settings(settings, len(dataset.classes)).count_params()
    progress.describe(folder, settings, dataset, parameters)
    try:
        with devices.explained(settings), devices.scope():
            network, history = train(settings, dataset, folder)
        if devices.index() == 0:
            finish_run(folder, settings, dataset, network, history)
    except KeyboardInterrupt:
        progress.say_stopped(folder)
        raise


def train_folds(args: argparse.Namespace, settings: Settings) -> None:
    """Train one run per fold in DIR/fold-I; continue where an earlier call was interrupted."""
    output = Path(args.output or "runs/folds")
    step = 10 // args.folds  # tenths of the photos
    folders = {step * number: output / f"fold-{number}" for number in range(args.folds)}
    begun = [each for each in folders.values() if run.is_finished(each) or run.has_checkpoint(each)]
    with cli.blame("--folds"):
        for folder in begun:
            run.check_recipe(folder, settings)
    for number, (fold, folder) in enumerate(folders.items(), 1):
        say(f"\nFold {number} of {args.folds}: {printable(folder)}")
        if run.is_finished(folder):
            say("is finished")
            continue
        which = {"resume": folder} if folder in begun else {"output": folder}
        of_fold = argparse.Namespace(**{**vars(args), "epochs": None, **which})
        try:
            fold_settings = dataclasses.replace(settings, fold=fold)
            with open_run(of_fold, fold_settings, time.perf_counter()) as opened:
                train_and_finish(*opened)
        except KeyboardInterrupt:
            say("To continue with all folds, run the same command again.")
            raise
    runs = " ".join(quoted(path) for path in sorted(output.glob("fold-*")))
    say(
        "\nAll photos, each scored by a network that did not see it:\n"
        f"       python evaluate.py --data-dir {quoted(photo_folder(args))} --pool --model {runs}"
    )


# --- The loop -------------------------------------------------------------------------------------


def train(
    settings: Settings, dataset: data.Dataset, folder: Path, callbacks: Sequence = ()
) -> tuple[keras.Model, list[dict]]:
    """Train a network, or continue from the checkpoint in `folder`.

    Each epoch trains on augmented photos, validates the averaged weights and writes a checkpoint.

    Args:
        settings: fitted to the photos and the devices.
        dataset: photos decoded at `settings.score_size`.
        folder: the run directory, which receives `checkpoint.npz` and `history.csv`.
        callbacks: further Keras callbacks.
    Returns:
        The network with the averaged weights, in float32, and the rows of `history.csv`.
    Raises:
        UserError: the loss or the weights are no longer finite.
    """
    keras.utils.set_random_seed(settings.seed)
    steps = len(dataset.splits["train"]) // settings.batch_size  # per epoch
    network = build(settings, dataset.classes, steps, fresh=not run.has_checkpoint(folder))
    with cli.blame("--resume"):
        history = run.restore_training(folder, network)
    if history:
        say(progress.resuming(len(history), settings))
    callbacks = [progress.bar(steps, settings, len(history)), *callbacks]
    one_label = []  # for each epoch, whether a single class was predicted
    # One call of Keras's fit per epoch, as the image size changes between epochs.
    for epoch in range(len(history), settings.epochs):
        started = time.perf_counter()
        logs = network.fit(
            data.training_batches(dataset, settings, epoch),
            initial_epoch=epoch,
            epochs=epoch + 1,
            class_weight=dataset.class_weights() if settings.class_weight else None,
            callbacks=callbacks,
            shuffle=False,  # the batches are shuffled
            verbose=0,
        ).history
        # A network that has only seen small images does badly on large ones.
        size = settings.score_size_after(settings.image_sizes()[epoch])
        validation = data.evaluation_batches(
            dataset, dataset.splits["validation"], settings.batch_size, size
        )
        scores = network.evaluate(validation, verbose=0, return_dict=True)
        history.append(progress.history_row(epoch, logs, scores, network, settings, started))
        arrays = run.training_arrays(network)
        finite.check(history[-1]["loss"], arrays, len(history), settings)
        run.write_checkpoint(folder, history, arrays)
        progress.report_epoch(history[-1], scores, settings, one_label)
        if devices.index() == 0:
            progress.draw_curves(folder, history)
    # Of standard float32 layers, which training may not have used.
    averaged = model.from_settings(settings, len(dataset.classes))
    averaged.set_weights(network.averaged_weights())
    return averaged, history


def build(settings: Settings, classes: list[str], steps: int, fresh: bool) -> keras.Model:
    """Build and compile a network and its average, which take photos as the stream yields them.

    If `fresh` (no checkpoint), copy the weights of `settings.init` into it.
    """
    from catdog.training import average, normalization, optimizer

    keras.config.set_dtype_policy(settings.precision)
    try:
        network = model.from_settings(settings, len(classes))
        if settings.init and fresh:
            with cli.blame("--init"):
                donor = model.load(settings.init).network
                same_classes = run.read_config(settings.init)["classes"] == classes
                safe_load.copy_weights(donor, network, same_classes)
        network = normalization.fuse(network)
    finally:
        keras.config.set_dtype_policy("float32")
    devices.synchronize(network)
    dtype = keras.dtype_policies.get(settings.precision).compute_dtype
    network = average.AveragedNetwork(
        network,
        sample=functools.partial(data.sample, dtype=dtype),
        augment=functools.partial(data.augment, settings=settings, dtype=dtype),
        steps_per_epoch=steps,
    )
    optimizer.compile(network, settings, len(classes), steps)
    return network


# --- After the loop -------------------------------------------------------------------------------


def finish_run(
    folder: Path, settings: Settings, dataset: data.Dataset, network: keras.Model, history: list
) -> None:
    """Save, export, calibrate and score the trained network; print its scores."""
    run.save_network(folder, network)
    run.write_trained_on(folder, dataset.identities(dataset.splits["train"]), settings.init)
    export.export(folder, network, dataset, cli.progress("fitting", " photos"))
    plots.plot_history(history, folder / "curves.png")
    seconds = round(sum(row["seconds"] for row in history), 1)
    about = {"training_seconds": seconds, "device": devices.devices()[0]}
    scores = about | score_held_out(folder, dataset)
    run.finish(folder, scores)
    progress.say_scores(folder, settings, scores)


def score_held_out(folder: Path, dataset: data.Dataset) -> dict:
    """Score the network of a run on validation and test.

    Returns:
        `validation` and `test`, as `metrics.score` returns them, and `runtime`, which ran it.
    """
    classifier = Classifier(folder, model.load)
    show, scores = cli.progress("scoring", " photos"), {"runtime": classifier.runtime}
    for split in ("validation", "test"):
        members = dataset.splits[split]
        probabilities = classifier.outputs_of(dataset, members, show)["probabilities"]
        scores[split] = metrics.score(dataset.labels[members], probabilities, dataset.classes)
    return scores


if __name__ == "__main__":
    # The exit code of a process ended by SIGPIPE, since the run is unfinished.
    cli.run(main, closed_pipe=141)
