"""Scores trained runs on photos, by default on the test split that training never saw.

    python evaluate.py                                the network in weights/
    python evaluate.py --model RUN --output DIR       with a report to look at, DIR/report.html
    python evaluate.py --model RUN_A RUN_B            which is better, and is that more than chance
"""

from catdog import cli as terminal
import argparse
import csv
import dataclasses
import itertools
import time
from pathlib import Path

import numpy as np

from catdog.photos import exclusion
from catdog import files
from catdog.scores import metrics as report
from catdog.runs import run as runs
from catdog.cli import say
from catdog.errors import UserError
from catdog.files import printable, some_names


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description="Scores trained networks on labelled photos.")
    add = parser.add_argument
    add("--model", nargs="+", metavar="RUN",
        help="a run directory that train.py wrote (default: weights); several are compared on the "
        "same photos")
    add("--data-dir", default="tmp", metavar="DIR", help="the labelled photos (default: tmp)")
    add("--cache-dir", default="tmp/cache", metavar="DIR",
        help="where decoded photos are kept (default: tmp/cache)")
    add("--split", choices=("test", "validation", "train", "all"), default="test",
        help="which of the photos (default: test)")
    add("--exclude", metavar="FILE", help=exclusion.HELP)
    add("--output", metavar="DIR",
        help="a new folder for report.html, metrics.json, predictions.csv and the plots")
    add("--json", action="store_true", help="print one line of JSON")
    args = parser.parse_args(argv)
    if args.output and args.model and len(args.model) > 1:
        parser.error(f"argument --output: expected one --model, got {len(args.model)}")
    return args


@dataclasses.dataclass
class Scored:
    """A run with its answers to the photos `members` of `dataset`, and their `metrics`.

    probabilities: (m, n_classes); uncalibrated: the same, before temperature.
    """

    classifier: runs.Classifier
    dataset: object
    members: np.ndarray
    probabilities: np.ndarray
    uncalibrated: np.ndarray
    metrics: dict

    @property
    def labels(self):
        return self.dataset.labels[self.members]


def main(argv=None):
    args = parse_arguments(argv)
    models = args.model or [str(runs.chosen(None))]
    for model in models:  # mistakes are answered before TensorFlow is loaded
        runs.read_config(model)
    if args.output:
        files.check_new(args.output)
        files.check_outside(args.output, args.data_dir)
    exclude = exclusion.read(args.exclude)
    scored = [score(model, args, exclude) for model in models]
    if len(scored) > 1:
        compare(scored, args)
        return 0
    (only,) = scored
    if args.json:
        print(report.to_json(only.metrics))
    else:
        print(report.format_score(only.metrics))
    if args.output:
        write(only, Path(args.output))
        say(f"Report:  {printable(Path(args.output) / 'report.html')}")
    return 0


def score(model, args, exclude):
    """Scores one run, at the image size that it takes, and says what it was scored on."""
    import data

    classifier = runs.Classifier(model)
    dataset = data.load(args.data_dir, classifier.image_size, args.cache_dir, exclude)
    if dataset.classes != classifier.classes:
        raise UserError(
            f"--data-dir: expected the classes of the model, {some_names(classifier.classes)}, "
            f"got {some_names(dataset.classes)}"
        )
    members = dataset.members_of(args.split)
    labels = dataset.labels[members]
    started = time.perf_counter()
    logits = classifier.logits_of(dataset, members, terminal.progress("scoring", " photos"))
    rate = len(members) / (time.perf_counter() - started)
    probabilities = classifier.probabilities(logits)
    uncalibrated = report.probabilities_from_logits(logits)
    trained_on = runs.trained_on(model, dataset, members)
    metrics = report.score(labels, probabilities, classifier.classes)
    metrics = {
        "model": model,
        "split": args.split,
        "images": metrics.pop("images"),
        "skipped": len(dataset.skipped),
        "excluded": len(dataset.excluded),
        **metrics,
        "temperature": classifier.temperature,
        "calibration_error": report.expected_calibration_error(labels, probabilities),
        "calibration_error_uncalibrated": report.expected_calibration_error(labels, uncalibrated),
        "images_per_second": round(rate, 1),
        "trained_on": None if trained_on is None else int(trained_on.sum()),
    }
    say(f"{printable(model)} on the {args.split} split of {printable(args.data_dir)}: "
        f"{len(members):,} photos at {rate:.0f} a second, {len(dataset.skipped)} skipped, "
        f"{len(dataset.excluded)} left out")
    if metrics["trained_on"]:
        say(f"Careful: the model was trained on {metrics['trained_on']:,} of these photos.")
    return Scored(classifier, dataset, members, probabilities, uncalibrated, metrics)


def compare(scored, args):
    """Prints runs side by side, and for each two of them whether they differ by more than chance.

    Two runs are judged by the photos that only one of them gets right.
    """
    first = scored[0]
    for other in scored[1:]:
        if other.dataset.paths != first.dataset.paths:
            raise UserError("--data-dir: the photos changed while they were scored")
    pairs = [
        {"first": a.metrics["model"], "second": b.metrics["model"],
         **report.mcnemar(first.labels, a.probabilities.argmax(1), b.probabilities.argmax(1))}
        for a, b in itertools.combinations(scored, 2)
    ]
    if args.json:
        print(report.to_json({"split": args.split, "images": len(first.members),
                              "runs": [each.metrics for each in scored], "pairs": pairs}))
    else:
        print(report.format_comparison([each.metrics for each in scored], pairs))


def write(scored, folder):
    """Writes report, metrics, predictions and plots into a new folder, all or none of them."""
    from catdog.scores import report as page
    from catdog.scores import plots

    config = scored.classifier.config
    with files.atomic_folder(folder) as temporary:
        runs.write_json(temporary / "metrics.json", scored.metrics)
        write_predictions(temporary / "predictions.csv", scored)
        drawn = plots.plot_evaluation(
            scored.labels, scored.probabilities, scored.uncalibrated, scored.dataset.classes,
            runs.read_history(scored.classifier.run), temporary)
        photos = page.photo_groups(scored.classifier, scored.dataset, scored.members,
                                   scored.probabilities)
        thresholds = report.accuracy_by_threshold(scored.labels, scored.probabilities)
        text = page.render(scored.metrics, thresholds, drawn, photos, config)
        (temporary / "report.html").write_text(text, encoding="utf-8")


def write_predictions(path, scored):
    """Writes a row for each photo; a name that is no text keeps its bytes."""
    classes = scored.dataset.classes
    predicted = scored.probabilities.argmax(1)
    with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["path", "label", "predicted", "probability", "correct"])
        for member, label, guess, row in zip(
                scored.members, scored.labels, predicted, scored.probabilities, strict=True):
            rows.writerow([scored.dataset.paths[member], classes[label], classes[guess],
                           f"{row[guess]:.6f}", int(label == guess)])


if __name__ == "__main__":
    terminal.run(main)
