"""Classify photos: one line per photo with path, label and probability.

    python predict.py photo.jpg folder/           files, and folders with all below them
    find ~ -name '*.jpg' | python predict.py -    paths on stdin
    python predict.py folder/ --sort sorted/      copies of the photos, in one folder per label

A photo that is unlike nearly all photos of the classes is called unknown; see docs/unknown.md.
Starts quickly: Keras and TensorFlow are loaded only if needed.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from catdog import cli, files
from catdog.cli import say
from catdog.errors import UserError
from catdog.files import printable, some_names, to_json
from catdog.photos import decode
from catdog.photos.photo import PhotoError, read_bytes
from catdog.runs import novelty, run
from catdog.runs.classifier import Classifier

if TYPE_CHECKING:
    from catdog.runs import answer

CLIP = 0.005  # of the probabilities of a submission, of a run that is not calibrated
COLOURS = ("36", "33", "35", "32", "34", "31")  # of the classes, in turn
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
        help="label a photo unknown if at most 1 - P of the photos of the classes are so unlike "
        "the training photos, with 95%% confidence (default: 0.99; 1 turns this off)")
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
        say(USAGE)
        sys.exit(2)
    args = parser.parse_args(argv)
    check_arguments(parser, args)
    return args


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit with an error message if arguments cannot be combined."""
    if args.metric and not args.kaggle:
        parser.error("argument --metric: requires --kaggle")
    for name in ("json", "threshold", "top", "sort", "explain", "layers"):
        if args.kaggle and getattr(args, name):
            parser.error(f"argument --kaggle: cannot be combined with --{name}")
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
    paths = decode.find(args.photos, b"\0" if args.null else os.linesep.encode())
    for prediction in predict(classifier, paths, args.unknown_at):
        if args.json:
            print(json_line(prediction, classifier.classes, args))
        elif not prediction.error:
            print(text_line(prediction, classifier.classes, args, colour))
        if prediction.error:
            code = 1
            continue
        try:
            for write in outputs:
                write(prediction)
        except PhotoError as error:  # it was there a moment ago
            say(f"{printable(prediction.path)}: {error}")
            code = 1
    return code


def load_classifier(args: argparse.Namespace) -> Classifier:
    """Load the network of --model; describe it on stderr."""
    with cli.blame("--model"):
        classifier = Classifier(run.chosen(args.model), load_run)
    with cli.blame("--unknown-at"):
        novelty.check_limit(args.unknown_at, classifier.config)
    say(
        f"model {printable(classifier.run)}: {some_names(classifier.classes)}; "
        f"{classifier.image_size} px; {classifier.runtime}"
    )
    if classifier.config["settings"].get("recipe") == "demo":
        say("Warning: this network was trained on drawings (--demo) and knows drawings only.")
    return classifier


def load_run(folder: Path) -> answer.Graph:
    """Return a run for Keras. By default LiteRT is used, and model.py is not imported."""
    import model

    return model.load(folder)


@dataclasses.dataclass
class Prediction:
    """What is known of a photo: why it cannot be read, or all the rest."""

    path: str
    error: PhotoError | None = None
    probabilities: np.ndarray | None = None  # (classes,)
    evidence: np.ndarray | None = None  # (height, width, outputs)
    novelty: float | None = None  # 0 to 1; None for a run that has no reference for it
    unknown: bool = False


def predict(
    classifier: Classifier, paths: Iterable[tuple[str, PhotoError | None]], unknown_at: float | None
) -> Iterator[Prediction]:
    """Yield the predictions for `paths`, in their order, as soon as they are known.

    Args:
        paths: as `decode.find` yields them.
        unknown_at: the novelty from which on a photo is called unknown, None for the default;
            1 switches this off.
    """
    photos = decode.Stream(paths, classifier.image_size)
    # If results scroll by on a terminal, they are the progress.
    visible = sys.stderr.isatty() and not sys.stdout.isatty()
    show = cli.progress("predicting", " photos") if visible else lambda done, total: None
    done, total = 0, None
    for batch in photos.batches():
        images = [image for _, image in batch if not isinstance(image, PhotoError)]
        answers = iter(classify(classifier, images, unknown_at))
        for path, image in batch:
            if isinstance(image, PhotoError):
                say(f"{printable(path)}: {image}")
                yield Prediction(path, error=image)
            else:
                yield Prediction(path, None, *next(answers))
        sys.stdout.flush()
        done += len(batch)
        total = photos.found if photos.complete else None
        show(done, total)
    if total is None:
        show(done, done)


def classify(
    classifier: Classifier, images: list[np.ndarray], unknown_at: float | None
) -> Iterable:
    """Return of each image probabilities, evidence, novelty and whether it is unknown."""
    if not images:
        return []
    outputs, nothing = classifier.outputs(np.stack(images)), [None] * len(images)
    unknown = [False] * len(images)
    if "novelty" in outputs:
        limit = novelty.DEFAULT_LIMIT if unknown_at is None else unknown_at
        unknown = novelty.is_unknown(outputs["novelty"], limit).tolist()
    scores = outputs["novelty"].tolist() if "novelty" in outputs else nothing
    evidence = outputs.get("evidence", nothing)
    return zip(outputs["probabilities"], evidence, scores, unknown, strict=True)


def json_line(prediction: Prediction, classes: list[str], args: argparse.Namespace) -> str:
    """Return the line of --json for a photo."""
    path = os.fsdecode(prediction.path)
    if any("\ud800" <= character <= "\udfff" for character in path):
        path = printable(path)  # bytes that are no text: JSON cannot hold them
    if prediction.error:
        return to_json({"path": path, "error": str(prediction.error)})
    probabilities, unknown = prediction.probabilities, prediction.unknown
    best = probabilities.argmax()
    unsure = args.threshold is not None and probabilities[best] < args.threshold
    line = {
        "path": path,
        "label": None if unknown or unsure else classes[best],
        "probability": probabilities[best],
        "probabilities": dict(zip(classes, probabilities, strict=True)),
    }
    if prediction.novelty is not None:
        line |= {"unknown": unknown, "novelty": prediction.novelty}
    if args.threshold is not None or args.top:
        line["labels"] = [] if unknown else [classes[i] for i in listed(probabilities, args)]
    return to_json(line)


def text_line(
    prediction: Prediction, classes: list[str], args: argparse.Namespace, colour: bool
) -> str:
    """Return the line of a photo, cells with tabs between: path, label, probability, label ...

    Of an unknown one: path, "unknown", novelty.
    """

    def styled(text, code):
        return f"\x1b[{code}m{text}\x1b[0m" if colour else text

    cells = [printable(prediction.path)]
    if prediction.unknown:
        return "\t".join([*cells, styled("unknown", "2"), f"{prediction.novelty:.4f}"])
    for place, i in enumerate(listed(prediction.probabilities, args)):
        mark = "*" if args.threshold is not None and place == 0 else ""
        label = styled(printable(classes[i]), f"1;{COLOURS[i % len(COLOURS)]}")
        cells += [mark + label, f"{prediction.probabilities[i]:.4f}"]
    return "\t".join(cells if len(cells) > 1 else [*cells, styled("unsure", "2")])


def listed(probabilities: np.ndarray, args: argparse.Namespace) -> np.ndarray:
    """Return the indices of the classes that are listed, the most probable first."""
    order = np.argsort(-probabilities, kind="stable")
    if args.threshold is not None:
        order = order[probabilities[order] >= args.threshold]
    return order[: args.top or (1 if args.threshold is None else None)]


# --- Folders of copies and pictures ---------------------------------------------------------------


def make_outputs(
    args: argparse.Namespace, classifier: Classifier
) -> list[Callable[[Prediction], None]]:
    """Return functions of a prediction that write files."""
    outputs = []
    if args.explain or args.layers:
        from catdog.scores import explain
    if args.explain:
        with cli.blame("--explain"):
            drawer = explain.Explanations(classifier)  # may refuse, before the folder is made
            outputs.append(explain.Folder(make_folder(args.explain, args.photos), drawer).write)
    if args.layers:
        with cli.blame("--model"):
            network = load_run(classifier.run).network
        with cli.blame("--layers"):
            drawer = explain.Layers(network, classifier.classes, classifier.image_size)
            outputs.append(explain.Folder(make_folder(args.layers, args.photos), drawer).write)
    if args.sort:
        with cli.blame("--sort"):
            outputs.append(sorting(make_folder(args.sort, args.photos), classifier.classes, args))
    return outputs


def sorting(folder: Path, classes: list[str], args: argparse.Namespace) -> Callable[..., None]:
    """Return a function that copies each photo into `folder`/label, /unknown or /unsure."""

    def write(prediction):
        labels = listed(prediction.probabilities, args)
        label = classes[labels[0]] if len(labels) else "unsure"
        with cli.blame("--sort"):
            copy(prediction.path, folder, "unknown" if prediction.unknown else label)

    return write


def copy(path: str, folder: Path, label: str) -> None:
    """Copy a photo into `folder`/`label`, under another name if there is a file of its name."""
    if Path(path).resolve().is_relative_to(folder.resolve()):
        raise UserError(f"expected a folder outside the photos, got {printable(folder)}")
    name, ending = os.path.splitext(os.path.basename(path))
    target, count = folder / label / f"{name}{ending}", 1
    while os.path.lexists(target):
        count += 1
        target = folder / label / f"{name}-{count}{ending}"
    content = read_bytes(path)
    with files.atomic_file(target, make_folder=True) as temporary:
        temporary.write_bytes(content)
        shutil.copystat(path, temporary)


def make_folder(folder: str, inputs: Sequence[str]) -> Path:
    """Create an output folder. It must be empty and outside the input folders."""
    folder = Path(folder)
    for path in filter(os.path.isdir, inputs):
        files.check_outside(folder, path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UserError(f"expected a new or empty folder, got {printable(folder)}")
    except OSError as error:
        raise UserError(f"cannot make {printable(folder)}: {error.strerror}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"expected a folder that can be written to, got {printable(folder)}")
    return folder


# --- Kaggle ---------------------------------------------------------------------------------------


def submit(args: argparse.Namespace) -> int:
    """Write the submission of --kaggle."""
    from catdog.scores import kaggle

    with cli.blame("PHOTO"):
        found = kaggle.find(args.photos[0] if args.photos else "tmp")
    with cli.blame("--kaggle"):
        if not os.path.isdir(os.path.dirname(args.kaggle) or "."):
            raise UserError(
                f"expected a file in a folder that exists, got {printable(args.kaggle)}"
            )
        files.check_new(args.kaggle, "file")
        classifier = load_classifier(args)
        if "dog" not in classifier.classes or len(classifier.classes) != 2:
            raise UserError(
                f"expected a model of two classes, one of them dog, got "
                f"{some_names(classifier.classes)}"
            )
    dog, metric = classifier.classes.index("dog"), args.metric or "log-loss"
    results = predict(classifier, ((path, None) for path in found.values()), unknown_at=1)
    dogs = {
        identity: None if result.error else result.probabilities[dog]
        for identity, result in zip(found, results, strict=True)
    }
    with cli.blame("--kaggle"):
        kaggle.write(args.kaggle, dogs, metric, classifier.config.get("clip", CLIP))
    unreadable = [identity for identity, value in dogs.items() if value is None]
    for identity in unreadable:
        say(f"id {identity} cannot be read and is submitted as {kaggle.UNREADABLE[metric]}")
    say(f"wrote {printable(args.kaggle)}: {len(dogs):,} ids, for {metric}")
    return 1 if unreadable else 0


if __name__ == "__main__":
    cli.run(main)
