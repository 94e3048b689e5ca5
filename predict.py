"""Classify photos: one line per photo with path, label, probability and novelty.

    python predict.py photo.jpg folder/           files, and folders with all below them
    find ~ -name '*.jpg' | python predict.py -    paths on stdin
    python predict.py folder/ --sort sorted/      copies of the photos, in one folder per label

A photo is called unknown if its novelty is 0.99 or more: about one in a hundred real photos of
the classes is so unlike the training photos. See docs/unknown.md.
Starts quickly: Keras and TensorFlow are loaded only if needed.
"""

from __future__ import annotations

if __name__ == "__main__":
    from catdog import early

    early.end_quietly()  # at Ctrl-C, while the modules below are loaded

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from catdog import cli, files
from catdog.cli import say
from catdog.errors import UserError
from catdog.files import counted, printable, some_names
from catdog.photos import decode
from catdog.photos.photo import PhotoError
from catdog.runs import lines
from catdog.runs.classifier import Classifier

if TYPE_CHECKING:
    from catdog.runs import answer

CLIP = 0.005  # least distance from 0 and 1 in a submission, unless config.json has a `clip`
USAGE = """\
predict.py classifies photos. Try:

    python predict.py photo.jpg              print its label and how probable that is
    python predict.py folder/ --sort new/    copy the photos into one folder per label

python predict.py --help lists all arguments."""


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Classify photos. Results go to stdout, everything else to stderr; the "
        "exit code is 1 if a photo could not be read."
    )
    add = parser.add_argument
    # fmt: off
    add("photos", nargs="*", metavar="PHOTO",
        help="image files (JPEG, PNG, GIF, BMP, WebP, AVIF, TIFF, PPM), folders, - for paths on "
        "stdin")
    add("--model", metavar="RUN", help="a run directory that train.py wrote (default: weights)")
    add("-0", "--null", action="store_true",
        help="paths on stdin end with NUL, as from find -print0, instead of a new line")
    add("--json", action="store_true", help="print one JSON object per line, all probabilities")
    add("--threshold", type=cli.number(0, 1), metavar="P",
        help="list the labels whose probability is at least P, the most probable marked with *; "
        "“unsure” if there is none")
    add("--top", type=cli.whole_number(1), metavar="K", help="list the K most probable labels")
    add("--unknown-at", type=cli.number(0, 1), metavar="P",
        help="label a photo unknown if its novelty is at least P (default: 0.99; 1: never); the "
        "novelty is the last number of a line")
    add("--sort", metavar="DIR",
        help="copy each photo into a folder of its label in a new folder, or into unknown/ or "
        "unsure/")
    add("--explain", metavar="DIR",
        help="draw each photo, with the regions that support the label, into a new folder")
    add("--layers", metavar="DIR",
        help="draw the filters and the outputs of every layer for each photo into a new folder "
        "(needs Keras)")
    add("--kaggle", metavar="FILE",
        help="write a submission for the photos in PHOTO/test1 or PHOTO/test (default: tmp)")
    add("--metric", choices=("accuracy", "log-loss"),
        help="what the submission is scored by: accuracy takes 0 or 1, log-loss (default) the "
        "probability of dog")
    # fmt: on
    if not (sys.argv[1:] if argv is None else argv):
        say(*USAGE.splitlines())
        sys.exit(2)
    args = parser.parse_args(argv)
    check_arguments(parser, args)
    return args


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit with an error message if arguments cannot be combined."""
    given = [name for name, value in vars(args).items() if value]
    excluded = {"kaggle": ["json", "threshold", "top", "sort", "explain", "layers"]}
    cli.check_combinations(parser, given, excluded, required={"metric": "kaggle"})
    if args.kaggle and len(args.photos) > 1:
        parser.error(f"argument PHOTO: expected one folder with --kaggle, got {len(args.photos)}")
    name_of = {}
    for name in ("sort", "explain", "layers"):
        folder = getattr(args, name)
        if folder and (other := name_of.setdefault(Path(folder).resolve(), name)) != name:
            parser.error(
                f"argument --{name}: expected another folder than --{other}, got "
                f"{printable(folder)}"
            )
    if not args.photos and not args.kaggle:
        parser.error("argument PHOTO: expected a file, a folder, or - for paths on stdin")


# --- Predicting -----------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    if args.kaggle:
        return submit(args)
    classifier = load_classifier(args)
    outputs = make_outputs(args, classifier)
    colour = (
        sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    )
    code = 0
    how = args.threshold, args.top
    found = decode.find(args.photos, b"\0" if args.null else os.linesep.encode())
    for prediction in predict(classifier, found, evidence=bool(args.explain)):
        if args.json:
            print(lines.json(prediction, *how))
        elif not prediction.error:
            print(lines.text(prediction, *how, colour))
        if prediction.error:  # `lines.answered` has printed it
            code = 1
            continue
        try:
            for flag, output in outputs.items():
                with cli.blame(flag):
                    output.write(prediction)
        except PhotoError as error:  # the file has changed since
            say(f"{prediction.path}: {error}")
            code = 1
    for output in outputs.values():
        say(output)
    return code


def load_classifier(args: argparse.Namespace) -> Classifier:
    """Load the network of --model; describe it on stderr."""
    with cli.blame("--model"):
        classifier = Classifier(args.model, load_run)
    with cli.blame("--unknown-at"):
        classifier.call_unknown_at(args.unknown_at)
    say(
        f"model {classifier.run}: {some_names(classifier.classes)}; "
        f"{classifier.score_size} px; {classifier.runtime}"
    )
    if classifier.run.settings.recipe == "demo":
        say("Warning: this network was trained on drawings (--demo) and knows drawings only.")
    return classifier


def load_run(folder: Path) -> answer.Graph:
    """Return the `answer.Graph` of a run. Used, and model.py imported, only if Keras is needed."""
    import model

    return model.load(folder)


def predict(classifier: Classifier, found: Iterable, evidence: bool = False) -> Iterator:
    """Yield the predictions of what `decode.find` yields; print what cannot be read to stderr.

    A progress bar is shown, unless the results themselves scroll by on the terminal.

    Args:
        found: pairs of a path and a PhotoError, or None for a file that is to be read.
        evidence: whether the predictions hold the regions that --explain draws.
    """
    visible = sys.stderr.isatty() and not sys.stdout.isatty()
    show = cli.progress("predicting", " photos") if visible else lambda done, total: None
    return lines.answered(classifier.batches(found, show, evidence))


def make_outputs(args: argparse.Namespace, classifier: Classifier) -> dict:
    """Return, by flag, objects that `write` a prediction and whose `str` says what was written."""
    outputs = {}
    if args.explain or args.layers:
        from catdog.scores import explain
    if args.explain:
        with cli.blame("--explain"):
            drawer = explain.Explanations(classifier)  # first: it may raise UserError
            folder = files.make_folder(args.explain, args.photos)
            outputs["--explain"] = explain.Folder(folder, drawer)
    if args.layers:
        with cli.blame("--model"):
            network = load_run(classifier.run).network
        with cli.blame("--layers"):
            drawer = explain.Layers(network, classifier.score_size)
            folder = files.make_folder(args.layers, args.photos)
            outputs["--layers"] = explain.Folder(folder, drawer)
    if args.sort:
        with cli.blame("--sort"):
            folder = files.make_folder(args.sort, args.photos)
            outputs["--sort"] = lines.Copies(folder, args.threshold)
    return outputs


# --- Kaggle ---------------------------------------------------------------------------------------


def submit(args: argparse.Namespace) -> int:
    """Write the submission of --kaggle."""
    from catdog.scores import kaggle

    with cli.blame("PHOTO"):
        found = kaggle.find(args.photos[0] if args.photos else "tmp")
    with cli.blame("--kaggle"):
        if not os.path.isdir(os.path.dirname(args.kaggle) or "."):
            raise UserError(f"expected a file in a folder that exists, got {args.kaggle}")
        files.check_new(args.kaggle, "file")
        classifier = load_classifier(args)
        if "dog" not in classifier.classes or len(classifier.classes) != 2:
            raise UserError(
                f"expected a model of two classes, one of them dog, got "
                f"{some_names(classifier.classes)}"
            )
    metric = args.metric or "log-loss"
    results = predict(classifier, ((path, None) for path in found.values()))
    dogs = {
        identity: None if result.error else result["dog"]
        for identity, result in zip(found, results, strict=True)
    }
    with cli.blame("--kaggle"):
        kaggle.write(args.kaggle, dogs, metric, classifier.config.get("clip", CLIP))
    unreadable = [identity for identity, value in dogs.items() if value is None]
    for identity in unreadable:
        say(f"id {identity} cannot be read and is submitted as {kaggle.UNREADABLE[metric]}")
    say(f"wrote {args.kaggle}: {counted(len(dogs), 'id')}, for {metric}")
    return 1 if unreadable else 0


if __name__ == "__main__":
    cli.run(main)
