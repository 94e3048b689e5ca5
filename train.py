"""Trains a small stacked Conv-ReLU-Pool network to tell cats from dogs, from scratch.

    python train.py              on the photos under tmp/, which it downloads if there are none
    python train.py --demo       on drawings, in about a minute and a half
"""

import argparse
import dataclasses
import datetime
import importlib.metadata
import platform
import shlex
from pathlib import Path

import demo
import download
import exclusion
import export
import plots
import report
import runs
import terminal
from recipe import ANY_SIZE, ARCHITECTURES, RECIPES, SMALLEST_SIZE, Settings, fit_to_size
from terminal import UserError, number, printable, say, whole_number

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
        f"(default: {full.image_size}; fast: {fast.image_size})")
    add("--seed", type=whole_number(0, 2**31 - 1), metavar="N",
        help=f"of the first weights, the order and the random crops (default: {full.seed})")
    add("--output", metavar="DIR", help="the run directory to make (default: runs/<date-time>)")
    add("--demo", action="store_const", const=True, help="draw cats and dogs, and train on them")
    add("--resume", metavar="RUN", help="go on with an interrupted run, with all its settings")
    args = parser.parse_args(argv)

    given = [name for name, value in vars(args).items() if value is not None and name != "resume"]
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
    base = RECIPES["demo" if args.demo else args.recipe or "full"]
    names = {field.name for field in dataclasses.fields(Settings)} - {"recipe"}
    given = {key: value for key, value in vars(args).items() if key in names and value is not None}
    return dataclasses.replace(base, **given)


def main(argv=None):
    args, settings = parse_arguments(argv)
    if args.resume:
        return resume(Path(args.resume))
    run = Path(args.output or f"runs/{datetime.datetime.now():%Y-%m-%d-%H%M%S}")
    runs.check_new(run)
    data_dir = draw_demo() if args.demo else args.data_dir or "tmp"
    cache_dir = args.cache_dir or "tmp/cache"
    exclude = exclusion.read(args.exclude)
    dataset = load_photos(data_dir, cache_dir, settings, exclude)
    import training

    settings = fit_to_size(settings, len(dataset.splits["train"]), args.batch_size)
    precision = training.best_precision(training.find_device()[0])
    settings = dataclasses.replace(settings, precision=precision)
    config = {
        "settings": dataclasses.asdict(settings),
        "data_dir": str(data_dir),
        "cache_dir": str(cache_dir),
        "classes": dataset.classes,
        "score_size": settings.score_size,
        "splits": dataset.split_sizes(),
        "skipped": len(dataset.skipped),
        "exclude": exclude,
        "versions": versions(),
    }
    runs.create(run, config)
    return train(run, config, settings, dataset)


def resume(run):
    config = runs.read_config(run, flag="--resume")
    if runs.is_finished(run):
        say(f"{run} is finished. Next:  python evaluate.py --model {run}")
        return 0
    try:
        settings = Settings(**config["settings"])
    except (TypeError, KeyError) as error:
        raise UserError(f"--resume: expected settings of this version in {printable(run)}, "
                        f"got {error}") from None
    exclude = config.get("exclude", [])
    dataset = load_photos(config["data_dir"], config["cache_dir"], settings, exclude)
    if dataset.split_sizes() != config["splits"]:
        raise UserError(f"--resume: expected the photos that the run began with, "
                        f"{config['splits']}, got {dataset.split_sizes()}")
    return train(run, config, settings, dataset)


def draw_demo():
    """Draws the data set of --demo under tmp/demo and returns its folder."""
    folder = Path("tmp/demo")
    say("Drawing cats and dogs. What follows says nothing about photos.")
    try:
        demo.make_demo(folder, progress=terminal.progress("drawing", " pictures"))
    except ValueError as error:
        raise UserError(f"--demo: {error}") from None
    return folder


def load_photos(data_dir, cache_dir, settings, exclude):
    """Decodes the photos under `data_dir`; downloads the public copy where tmp/ holds none."""
    import data  # TensorFlow, and Keras below, only when needed: --help and mistakes answer at once

    if data_dir == "tmp":
        Path("tmp").mkdir(exist_ok=True)
        if data.find("tmp", cache_dir) is None:
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


def train(run, config, settings, dataset):
    """Trains, scores, and completes the run directory; returns the exit code."""
    import training

    device, devices = training.find_device()
    parameters = training.build(settings, len(dataset.classes)).count_params()
    sizes = " > ".join(f"{size}" for size in dict.fromkeys(settings.image_sizes()))
    say(f"Device   {device}, {settings.precision}" + (f", 1 of {devices}" if devices > 1 else ""))
    if device.startswith("cpu"):
        say("         A GPU is many times faster: see “On a GPU” in README.md.")
    say(f"Photos   {', '.join(f'{name} {n:,}' for name, n in dataset.split_sizes().items())}"
        f", skipped {len(dataset.skipped)}, left out {len(dataset.excluded)}; "
        f"classes {', '.join(dataset.classes)}")
    say(f"Network  {settings.arch}, {parameters:,} parameters")
    say(f"Recipe   {settings.recipe}, {settings.epochs} epochs at {sizes} px, "
        f"scored at {settings.score_size} px")
    say(f"Run      {printable(run)}")

    try:
        network, rows = training.fit(
            settings,
            dataset,
            run,
            callbacks=[training.ProgressBar()],
            on_epoch=lambda row: say(epoch_line(row, settings)),
            on_resume=lambda done: say(f"Going on at epoch {done + 1} of {settings.epochs}"),
        )
    except KeyboardInterrupt:
        say(f"\nStopped. Go on with:  python train.py --resume {quoted(run)}")
        raise
    seconds = sum(row["seconds"] for row in rows)
    plots.plot_history(rows, run / "curves.png")
    runs.save_network(run, network)
    runs.write_trained_on(run, dataset)
    classifier = runs.Classifier(run)
    classifier.calibrate(dataset)
    try:
        export.export(run, next(dataset.batches(dataset.members_of("validation"))))
    except UserError as error:
        say(f"No model.tflite, so that predict.py will start slowly: {error}")
    metrics = {split: classifier.score(dataset, split) for split in ("validation", "test")}
    runs.finish(run, {"training_seconds": round(seconds, 1), "device": device, **metrics})

    say(f"\nTrained for {clock(seconds)}. On the test split, which training never saw:\n")
    print(report.format_score(metrics["test"]), flush=True)
    if settings.recipe == "demo":
        say("\nThese are drawings: the figure says nothing about photos.")
    model, photos = quoted(run), quoted(config["data_dir"])
    say(f"\nNext:  python evaluate.py --model {model} --data-dir {photos}\n"
        f"       python predict.py --model {model} photo.jpg")
    return 0


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

    packages = ("keras", "tensorflow", "numpy", "pillow")
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
        "backend": keras.backend.backend(),
    }


if __name__ == "__main__":
    terminal.run_program(main)
