"""Trains a small stacked Conv-ReLU-Pool network to tell cats from dogs, from scratch.

    python train.py              on the photos under tmp/, which it downloads if there are none
    python train.py --demo       on drawings, in about a minute and a half
"""

from catdog import cli as terminal
import argparse
import dataclasses
import datetime
import importlib.metadata
import platform
import shlex
from pathlib import Path

import numpy as np

from catdog.photos import drawings as demo
from catdog.photos import download
from catdog.photos import exclusion
from catdog.runs import export
from catdog import files
from catdog.training import hosts
from catdog.photos import index as layouts
from catdog.scores import plots
from catdog.scores import metrics as report
from catdog.runs import run as runs
from catdog.training.recipe import (
    ANY_SIZE,
    ARCHITECTURES,
    FIXED_SIZE,
    RECIPES,
    SMALLEST_SIZE,
    Settings,
    fit_to_size,
)
from catdog.cli import number, say, whole_number
from catdog.errors import UserError
from catdog.files import printable, some_names

NO_PHOTOS = """\
Three ways on:
  1. kaggle competitions download -c dogs-vs-cats -p tmp, and unzip train.zip there
  2. put photos of your own into one folder a class: tmp/cats/*.jpg, tmp/dogs/*.jpg
  3. python train.py --demo trains on drawings and needs no photos"""


def parse_arguments(argv=None):
    full, fast = RECIPES["full"], RECIPES["fast"]
    parser = argparse.ArgumentParser(
        description="Trains a small convolutional network from scratch and writes a run directory."
    )
    add = parser.add_argument
    add("--data-dir", metavar="DIR", help="the labelled photos (default: tmp)")
    add("--cache-dir", metavar="DIR", help="where decoded photos are kept (default: tmp/cache)")
    add("--exclude", metavar="FILE", help=exclusion.HELP)
    add("--recipe", choices=("full", "fast"),
        help="full: the best accuracy (default); fast: 94%% and more in the least time")
    add("--arch", choices=ARCHITECTURES, help=f"the network in model.py (default: {full.arch})")
    add("--epochs", type=whole_number(1, 10_000), metavar="N",
        help=f"passes over the training photos (default: {full.epochs}; fast: {fast.epochs})")
    add("--batch-size", type=whole_number(2, 65_536), metavar="N",
        help=f"photos in a step (default: {full.batch_size}, or fewer where there are few photos)")
    add("--lr", type=number(0, 10), metavar="RATE",
        help=f"peak learning rate (default: {full.lr:g}; fast: {fast.lr:g})")
    add("--image-size", type=whole_number(8, 1024), metavar="PX",
        help="height and width of the photos in the last epochs, in pixels "
        f"(default: {full.image_size}; fast: {fast.image_size}; classic and dnn: {FIXED_SIZE})")
    add("--init", metavar="RUN",
        help="start from the convolutions of this run, such as weights, instead of from scratch: "
        "for few photos")
    add("--class-weight", choices=("balanced",),
        help="let each photo count the more, the fewer its class has")
    add("--seed", type=whole_number(0, 2**31 - 1), metavar="N",
        help=f"of the first weights, the order and the random crops (default: {full.seed})")
    add("--output", metavar="DIR", help="the run directory to make (default: runs/<date-time>)")
    add("--demo", action="store_const", const=True, help="draw cats and dogs, and train on them")
    add("--resume", metavar="RUN", help="go on with an interrupted run, with all its settings")
    add("--hosts", type=hosts.addresses, metavar="HOST:PORT,...",
        help="train on several machines (with KERAS_BACKEND=jax): the address of each, the same "
        "list on all of them")
    add("--rank", type=whole_number(0, 1023), metavar="N",
        help="which of --hosts this machine is, from 0; 0 alone writes the run directory")
    args = parser.parse_args(argv)

    if (args.hosts is None) != (args.rank is None):
        given, missing = ("rank", "hosts") if args.hosts is None else ("hosts", "rank")
        parser.error(f"argument --{given}: expected together with --{missing}")
    if args.hosts and args.rank >= len(args.hosts):
        parser.error(f"argument --rank: expected a whole number from 0 to {len(args.hosts) - 1}, "
                     f"as there are {len(args.hosts)} hosts, got {args.rank}")
    given = [name for name, value in vars(args).items()
             if value is not None and name not in ("resume", "hosts", "rank")]
    if args.resume and given:
        parser.error(f"argument --resume: expected alone, got --{given[0].replace('_', '-')} too")
    if args.demo and (args.data_dir or args.recipe):
        other = "--data-dir" if args.data_dir else "--recipe"
        parser.error(f"argument --demo: brings photos and recipe of its own, got {other} too")
    settings = make_settings(args)
    if settings.arch in ANY_SIZE and settings.image_size < SMALLEST_SIZE:
        parser.error(f"argument --image-size: expected {SMALLEST_SIZE} or more for --arch "
                     f"{settings.arch}, got {settings.image_size}")
    return args, settings


def make_settings(args):
    """The table of the recipe, overridden by the flags that are given."""
    default = "demo" if args.demo else "tune" if args.init else "full"
    base = RECIPES[args.recipe or default]
    names = {field.name for field in dataclasses.fields(Settings)} - {"recipe"}
    given = {key: value for key, value in vars(args).items() if key in names and value is not None}
    settings = dataclasses.replace(base, **given)
    if settings.arch not in ANY_SIZE and args.image_size is None:
        settings = dataclasses.replace(settings, image_size=FIXED_SIZE)
    return settings


def main(argv=None):
    args, settings = parse_arguments(argv)
    if args.hosts:
        from catdog.training import devices as distribution

        distribution.check_backend()
    with hosts.join(args.hosts, args.rank or 0) as team:
        return resume(Path(args.resume), team) if args.resume else start(args, settings, team)


def start(args, settings, team):
    """Begins a run. Its directory is made at once, so that it can be resumed from any moment."""
    run = Path(args.output or f"runs/{datetime.datetime.now():%Y-%m-%d-%H%M%S}")
    if settings.init:
        runs.read_config(settings.init, "--init")
    config = {
        "settings": dataclasses.asdict(settings),
        "batch_size": args.batch_size,  # None where it is fitted to the photos
        "data_dir": args.data_dir or ("tmp/demo" if args.demo else "tmp"),
        "cache_dir": args.cache_dir or "tmp/cache",
        "started_in": runs.started_in(run),  # what relative paths are relative to
        "exclude": exclusion.read(args.exclude),
    }
    team.advice = advice(run, team)
    if not team.leads:
        return prepare_and_train(team.own_copy(run), config, team)
    files.check_new(run)
    files.check_outside(run, config["data_dir"])
    made = runs.create(run, config)
    try:
        return prepare_and_train(team.own_copy(run), config, team)
    except UserError:
        runs.discard_unprepared(run, made)
        raise


def resume(run, team):
    """Goes on with a run, of which rank 0 alone need have the directory."""
    team.advice = advice(run, team)
    if team.leads:
        runs.read_json(run / "config.json", "--resume")
        runs.check_resumable(run)
    copy = team.own_copy(run)
    config = runs.read_json(copy / "config.json", "--resume")
    if runs.is_finished(copy):
        runs.clean(copy)
        photos = quoted(runs.from_here(run, config, "data_dir"))
        say(f"{printable(run)} is finished. Next:  "
            f"python evaluate.py --model {quoted(run)} --data-dir {photos}")
        return 0
    return prepare_and_train(copy, config, team)


def advice(run, team):
    """How to go on with a run that is stopped."""
    more = f" --hosts {','.join(team.hosts)} --rank {team.rank}" if len(team.hosts) > 1 else ""
    return f"Go on with:  python train.py --resume {quoted(run)}{more}"


def prepare_and_train(run, config, team):
    """Loads the photos, completes `config.json` if they are loaded for the first time, trains."""
    try:
        settings, dataset = prepare(run, config, team)
        return train(run, config, settings, dataset, team)
    except KeyboardInterrupt:
        say(f"\nStopped. {team.advice}")
        raise


def prepare(run, config, team):
    """The settings and photos of a run; completes its `config.json` where it lacks them."""
    try:
        settings = Settings(**config["settings"])
        data_dir, cache_dir = (
            runs.from_here(run, config, key) for key in ("data_dir", "cache_dir"))
    except (TypeError, KeyError) as error:
        raise UserError(f"--resume: expected settings of this version in {printable(run)}, "
                        f"got {error}") from None
    if settings.recipe == "demo":
        draw_demo(data_dir)
    dataset = load_photos(data_dir, cache_dir, settings, config.get("exclude", []))
    from catdog.training import devices as distribution
    from catdog.training import optimizer as training

    distribution.initialize(team)
    if "splits" in config:
        if dataset.split_sizes() != config["splits"]:
            raise UserError(f"--resume: expected the photos that the run began with, "
                            f"{config['splits']}, got {dataset.split_sizes()}")
        check_all_alike(team, settings, dataset, "--resume")
        return settings, dataset

    batch_size = config.pop("batch_size", None)
    settings = fit_to_size(settings, len(dataset.splits["train"]), batch_size)
    if not batch_size:
        batch_size = distribution.divisible(settings.batch_size)
        settings = dataclasses.replace(settings, batch_size=batch_size)
    precision = training.best_precision(distribution.devices()[0])
    precision = team.share(precision.encode()).decode()  # one for all machines
    settings = dataclasses.replace(settings, precision=precision)
    check_all_alike(team, settings, dataset, "--batch-size")
    if settings.init:
        training.start(settings, dataset.classes)  # which may refuse
    config |= {
        "settings": dataclasses.asdict(settings),
        "classes": dataset.classes,
        "score_size": settings.score_size,
        "splits": dataset.split_sizes(),
        "skipped": len(dataset.skipped),
        "versions": versions(),
    }
    if team.leads:
        runs.write_json(run / "config.json", config)
    return settings, dataset


def check_all_alike(team, settings, dataset, flag):
    """Raises `UserError` unless all processes have the same, and all devices an equal share."""
    from catdog.training import devices as distribution

    distribution.check_batch_size(settings.batch_size, flag)
    libraries = {name: version for name, version in versions().items() if name != "python"}
    team.agree({**libraries, **dataclasses.asdict(settings), **dataset.split_sizes(),
                "digest of the photos": dataset.digest(),
                "devices": distribution.of_this_machine()})


def draw_demo(folder):
    """Draws the data set of --demo."""
    say("Drawing cats and dogs. What follows says nothing about photos.")
    try:
        demo.make_demo(folder, progress=terminal.progress("drawing", " pictures"))
    except ValueError as error:
        raise UserError(f"--demo: {error}") from None


def load_photos(data_dir, cache_dir, settings, exclude):
    """Decodes the photos under `data_dir`; downloads the public copy where tmp/ holds none."""
    import data  # TensorFlow, and Keras below, only when needed: --help and mistakes answer at once

    if data_dir == "tmp":
        Path("tmp").mkdir(exist_ok=True)
        if layouts.find("tmp", cache_dir) is None:
            download_photos()
    dataset = data.load(data_dir, settings.score_size, cache_dir, exclude)
    for path, reason in dataset.skipped[:10]:
        say(f"skipped {printable(path)}: {reason}")
    if len(dataset.skipped) > 10:
        say(f"skipped {len(dataset.skipped) - 10} more")
    return dataset


def download_photos():
    say("No labelled photos under tmp/. Downloading the public copy of Dogs vs. Cats, 825 MB.")
    try:
        download.download_photos("tmp", progress=terminal.progress("downloading", "B"))
    except download.DownloadError as error:
        raise UserError(f"cannot download the photos: {error}\n{NO_PHOTOS}") from None


def train(run, config, settings, dataset, team):
    """Trains, scores, and completes the run directory; returns the exit code."""
    from catdog.training import devices as distribution
    from catdog.training import optimizer as training

    if not team.leads:
        say(f"Rank {team.rank} of {len(team.hosts)}; rank 0 at {team.hosts[0]} tells more")
        with distribution.scope(team):
            training.fit(settings, dataset, run)
        return 0
    describe(run, settings, dataset, team)
    with distribution.scope(team):
        network, rows = training.fit(
            settings,
            dataset,
            run,
            callbacks=[training.ProgressBar()],
            on_epoch=lambda row: say(epoch_line(row, settings)),
            on_resume=lambda done: say(going_on(done, settings)),
        )
    complete(run, config, settings, dataset, network, rows)
    return 0


def describe(run, settings, dataset, team):
    """Says what is about to be trained, on what, and where."""
    from catdog.training import devices as distribution
    from catdog.training import optimizer as training

    device, *more = distribution.devices()
    parameters = training.build(settings, len(dataset.classes)).count_params()
    sizes = " > ".join(f"{size}" for size in dict.fromkeys(settings.image_sizes()))
    say(f"Device   {device}, {settings.precision}"
        + (f", and {len(more)} more like it" if more else "")
        + (f", on {len(team.hosts)} machines" if len(team.hosts) > 1 else ""))
    if device.startswith("cpu"):
        say("         A GPU is many times faster: see “On a GPU” in README.md.")
    say(f"Photos   {', '.join(f'{name} {n:,}' for name, n in dataset.split_sizes().items())}"
        f", skipped {len(dataset.skipped)}, left out {len(dataset.excluded)}; "
        f"classes {some_names(dataset.classes)}")
    say_if_uneven(training.training_counts(dataset), dataset.classes, settings)
    start = f", starting from {printable(settings.init)}" if settings.init else ""
    say(f"Network  {settings.arch}, {parameters:,} parameters{start}")
    say(f"Recipe   {settings.recipe}, {settings.epochs} epochs at {sizes} px, "
        f"scored at {settings.score_size} px")
    say(f"Run      {printable(run)}")
    if settings.init:
        say_if_seen(dataset, settings.init)


def complete(run, config, settings, dataset, network, rows):
    """Saves, calibrates, exports and scores the trained network; says what it reaches."""
    from catdog.training import devices as distribution

    seconds = sum(row["seconds"] for row in rows)
    plots.plot_history(rows, run / "curves.png")
    runs.save_network(run, network)
    runs.write_trained_on(run, dataset, settings.init)
    classifier = runs.Classifier(run)
    labels = {split: dataset.labels[dataset.splits[split]] for split in ("validation", "test")}
    logits = {split: classifier.logits_of(dataset, dataset.splits[split]) for split in labels}
    classifier.calibrate(logits["validation"], labels["validation"])
    try:
        export.export(run, next(dataset.batches(dataset.members_of("validation"))))
    except UserError as error:
        say(f"No model.tflite, so that predict.py will start slowly: {error}")
    metrics = {
        split: report.score(labels[split], classifier.probabilities(logits[split]), dataset.classes)
        for split in labels
    }
    device = distribution.devices()[0]
    runs.finish(run, {"training_seconds": round(seconds, 1), "device": device, **metrics})

    say(f"\nTrained for {clock(seconds)}. On the test split, which training never saw:\n")
    print(report.format_score(metrics["test"]), flush=True)
    if settings.recipe == "demo":
        say("\nThese are drawings: the figure says nothing about photos.")
    model, photos = quoted(run), quoted(runs.from_here(run, config, "data_dir"))
    say(f"\nNext:  python evaluate.py --model {model} --data-dir {photos}\n"
        f"       python predict.py --model {model} photo.jpg")


def say_if_uneven(counts, classes, settings):
    """Says how many training photos each class has where one has more than twice another's."""
    if counts.max() > 2 * counts.min():
        order = counts.argsort(kind="stable")
        shown = some_names([f"{classes[i]} {counts[i]:,}" for i in order])
        remedy = "weighted" if settings.class_weight else "--class-weight balanced makes up for it"
        say(f"Uneven   {shown} training photos: {remedy}")


def say_if_seen(dataset, init):
    """Says how many of the photos to be scored the run `init` was trained on, if any."""
    held_out = np.concatenate([dataset.splits["validation"], dataset.splits["test"]])
    seen = runs.trained_on(init, dataset, held_out)
    if seen is not None and seen.any():
        say(f"Careful: {printable(init)} was trained on {seen.sum():,} of the validation and test "
            "photos: their scores will be too good.")


def going_on(done, settings):
    """What a resumed run says first."""
    if done == settings.epochs:
        return f"All {done} epochs are done; going on with the scores"
    return f"Going on at epoch {done + 1} of {settings.epochs}"


def epoch_line(row, settings):
    """One line about an epoch and the time left; an epoch's time goes by its number of pixels."""
    ahead = settings.image_sizes()[row["epoch"] :]
    left = row["seconds"] * sum(size**2 for size in ahead) / row["image_size"] ** 2
    return (
        f"epoch {row['epoch']:3d}/{settings.epochs}  {row['image_size']:3d} px  "
        f"loss {row['loss']:.4f}  accuracy {row['accuracy']:.4f}  "
        f"val_loss {row['val_loss']:.4f}  val_accuracy {row['val_accuracy']:.4f}  "
        f"{row['seconds']:6.1f} s  left {clock(left)}"
    )


def quoted(path):
    """A path as it is typed at a shell."""
    return shlex.quote(printable(path))


def clock(seconds):
    return str(datetime.timedelta(seconds=round(seconds)))


def versions():
    import keras

    packages = dict.fromkeys(("keras", "tensorflow", "numpy", "pillow", keras.backend.backend()))
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
        "backend": keras.backend.backend(),
    }


if __name__ == "__main__":
    terminal.run(main, closed_pipe=141)  # as where SIGPIPE ends it: the run is not finished
