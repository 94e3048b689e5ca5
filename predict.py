"""Names the animal in photos: a line for each, path, label and probability of that label.

    python predict.py photo.jpg folder/           files, and folders with all below them
    find ~ -name '*.jpg' | python predict.py -    paths on stdin

Starts in half a second: nothing here imports Keras or TensorFlow unless it has to.
"""

from catdog import cli as terminal
import argparse
import os
import sys
from pathlib import Path

import numpy as np

from catdog import files
from catdog.scores import metrics as report
from catdog.runs import run as runs
from catdog.photos import decode as stream
from catdog.photos.photo import PhotoError
from catdog.cli import number, say, whole_number
from catdog.errors import UserError
from catdog.files import printable, some_names

MANY = 50  # photos; a progress bar for fewer would only flicker
COLOURS = ("36", "33", "35", "32", "34", "31")  # of the classes, in turn


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description="Names what is in photos. Results go to stdout, "
                                     "everything else to stderr; the exit code is 1 if any photo "
                                     "could not be read.")
    add = parser.add_argument
    add("photos", nargs="*", metavar="PHOTO",
        help="image files (JPEG, PNG, GIF, BMP, WebP), folders, - for paths on stdin")
    add("--model", metavar="RUN", help="a run directory that train.py wrote (default: weights)")
    add("-0", "--null", action="store_true",
        help="paths on stdin end with NUL, as from find -print0, instead of a new line")
    add("--tta", action=argparse.BooleanOptionalAction, default=True,
        help="average over the photo and its mirror image (default: yes)")
    add("--json", action="store_true", help="print a JSON object a line, with all probabilities")
    add("--threshold", type=number(0, 1), metavar="P",
        help="list the labels whose probability is at least P, the proposed one with a *; "
        "“unsure” where there is none")
    add("--top", type=whole_number(1), metavar="K", help="list the K most probable labels")
    add("--explain", metavar="DIR",
        help="write each photo, with the regions that spoke for the label, into a new folder")
    add("--layers", metavar="DIR",
        help="write pictures of the filters and of what every layer makes of each photo into a "
        "new folder (needs Keras)")
    add("--kaggle", metavar="FILE",
        help="write a submission for the photos in PHOTO/test1 or PHOTO/test (default: tmp)")
    add("--metric", choices=("accuracy", "log-loss"),
        help="what the submission is scored by: accuracy takes 0 or 1, log-loss (default) the "
        "probability of dog")
    args = parser.parse_args(argv)
    if args.metric and not args.kaggle:
        parser.error("argument --metric: expected with --kaggle")
    for flag in ("json", "threshold", "top", "explain", "layers"):
        if args.kaggle and getattr(args, flag):
            parser.error(f"argument --kaggle: expected without --{flag}")
    if args.kaggle and len(args.photos) > 1:
        parser.error(f"argument PHOTO: expected one folder with --kaggle, got {len(args.photos)}")
    if args.explain and args.layers and Path(args.explain).resolve() == Path(args.layers).resolve():
        parser.error(f"argument --layers: expected another folder than --explain, "
                     f"got {printable(args.layers)}")
    if not args.photos and not args.kaggle:
        parser.error("argument PHOTO: expected a file, a folder, or - for paths on stdin")
    return args


def load_classifier(args):
    """The trained network of --model, which is told on stderr."""
    classifier = runs.Classifier(runs.chosen(args.model), litert=True, mirror=args.tta)
    say(f"model {printable(classifier.run)}: {some_names(classifier.classes)}; "
        f"{classifier.image_size} px; {classifier.runtime}")
    return classifier


def predict(classifier, paths):
    """Yields what `paths` come to, in their order, as soon as it is known.

    Args:
        classifier: a `runs.Classifier`.
        paths: an iterable of (path, None or PhotoError), as `stream.find` gives.
    Yields:
        path; probabilities (classes,) or PhotoError; evidence (height, width, outputs) or None.
    """
    photos = stream.Stream(paths, classifier.image_size)
    # Where results scroll by on a terminal, they are the progress.
    hidden = not sys.stderr.isatty() or sys.stdout.isatty()
    show, done, total = None, 0, None
    for batch in photos.batches():
        if show is None and not hidden and photos.found > MANY:
            show = terminal.progress("predicting", " photos")
        images = [image for _, image in batch if not isinstance(image, PhotoError)]
        if images:
            outputs = classifier.outputs(np.stack(images))
            probabilities = iter(classifier.probabilities(outputs["logits"]))
            evidence = iter(outputs.get("evidence", [None] * len(images)))
        for path, image in batch:
            if isinstance(image, PhotoError):
                say(f"{printable(path)}: {image}")
                yield path, image, None
            else:
                yield path, next(probabilities), next(evidence)
        sys.stdout.flush()
        done += len(batch)
        if show:
            total = photos.found if photos.complete else None
            show(done, total)
    if show and total is None:
        show(done, done)


def json_line(path, answer, classes, args):
    """The line of --json for a photo: `answer` is probabilities (classes,) or PhotoError."""
    path = os.fsdecode(path)
    if any("\ud800" <= character <= "\udfff" for character in path):
        path = printable(path)  # bytes that are no text: JSON cannot hold them
    if isinstance(answer, PhotoError):
        return report.to_json({"path": path, "error": str(answer)})
    best = answer.argmax()
    unsure = args.threshold is not None and answer[best] < args.threshold
    line = {
        "path": path,
        "label": None if unsure else classes[best],
        "probability": answer[best],
        "probabilities": dict(zip(classes, answer, strict=True)),
    }
    if args.threshold is not None or args.top:
        line["labels"] = [classes[i] for i in listed(answer, args)]
    return report.to_json(line)


def text_line(path, probabilities, classes, args, colour):
    """The line of a photo, cells with tabs between: path, label, probability, label ..."""
    cells = [printable(path)]
    for place, i in enumerate(listed(probabilities, args)):
        mark = "*" if args.threshold is not None and place == 0 else ""
        label = printable(classes[i])
        if colour:
            label = f"\x1b[1;{COLOURS[i % len(COLOURS)]}m{label}\x1b[0m"
        cells += [mark + label, f"{probabilities[i]:.4f}"]
    if len(cells) == 1:
        cells.append("\x1b[2munsure\x1b[0m" if colour else "unsure")
    return "\t".join(cells)


def listed(probabilities, args):
    """The indices of the classes that are listed, the most probable first."""
    order = np.argsort(-probabilities, kind="stable")
    if args.threshold is not None:
        order = order[probabilities[order] >= args.threshold]
    return order[: args.top or (1 if args.threshold is None else None)]


def make_pictures(args, classifier):
    """The drawers of --explain and --layers, each with the folder that it draws into."""
    if not (args.explain or args.layers):
        return []
    from catdog.scores import explain

    pictures = []
    for flag, folder, drawer in (("--explain", args.explain, explain.Explanations),
                                 ("--layers", args.layers, explain.Layers)):
        if folder:
            made = drawer(classifier)  # which may refuse, before the folder is made
            folder = make_folder(folder, flag, args.photos)
            pictures.append((made, explain.Folder(folder, drawer.ending)))
    return pictures


def make_folder(folder, flag, inputs):
    """Makes the folder for pictures, in which nothing of the user's is overwritten or read."""
    folder = Path(folder)
    for path in inputs:
        if os.path.isdir(path) and folder.resolve().is_relative_to(Path(path).resolve()):
            raise UserError(f"{flag}: expected a folder outside {printable(path)}, "
                            f"got {printable(folder)}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UserError(f"{flag}: expected a new or empty folder, got {printable(folder)}")
    except OSError as error:
        raise UserError(f"{flag}: cannot make {printable(folder)}: {error.strerror}") from None
    return folder


def main(argv=None):
    args = parse_arguments(argv)
    if args.kaggle:
        return submit(args)
    classifier = load_classifier(args)
    pictures = make_pictures(args, classifier)
    colour = (sys.stdout.isatty() and not os.environ.get("NO_COLOR")
              and os.environ.get("TERM") != "dumb")
    failed = 0
    paths = stream.find(args.photos, b"\0" if args.null else os.linesep.encode())
    for path, answer, evidence in predict(classifier, paths):
        if args.json:
            print(json_line(path, answer, classifier.classes, args))
        if isinstance(answer, PhotoError):
            failed += 1
        else:
            if not args.json:
                print(text_line(path, answer, classifier.classes, args, colour))
            try:
                for drawer, folder in pictures:
                    folder.write(drawer.draw(path, answer, evidence), path)
            except PhotoError as error:  # it was there a moment ago
                say(f"{printable(path)}: {error}")
                failed += 1
    return 1 if failed else 0


def submit(args):
    """Writes the submission of --kaggle."""
    from catdog.scores import kaggle

    found = kaggle.find(args.photos[0] if args.photos else "tmp")
    if not os.path.isdir(os.path.dirname(args.kaggle) or "."):
        raise UserError(f"--kaggle: expected a file in a folder that exists, "
                        f"got {printable(args.kaggle)}")
    files.check_new(args.kaggle, "--kaggle", "file")
    classifier = load_classifier(args)
    if "dog" not in classifier.classes or len(classifier.classes) != 2:
        raise UserError(f"--kaggle: expected a model of two classes, one of them dog, "
                        f"got {some_names(classifier.classes)}")
    dog = classifier.classes.index("dog")
    answers = predict(classifier, ((path, None) for path in found.values()))
    dogs = {identity: None if isinstance(answer, PhotoError) else answer[dog]
            for identity, (_, answer, _) in zip(found, answers, strict=True)}
    kaggle.write(args.kaggle, dogs, args.metric or "log-loss", classifier.clip)
    unreadable = [identity for identity, value in dogs.items() if value is None]
    for identity in unreadable:
        say(f"id {identity} cannot be read and is submitted as {kaggle.UNREADABLE}")
    say(f"wrote {printable(args.kaggle)}: {len(dogs):,} ids, for {args.metric or 'log-loss'}")
    return 1 if unreadable else 0


if __name__ == "__main__":
    terminal.run(main)
