"""Score trained runs on labelled photos: choose the photos, score, print, write a report.

By default the test split is scored, which training never saw; or all photos, if the network was
trained on none of them. The photos that a run holds out are those of validation and test.

    python evaluate.py                                the network in weights/
    python evaluate.py --model RUN --output DIR       with a report to look at, DIR/report.html
    python evaluate.py --model RUN_A RUN_B            which is better, and is it significant?
    python evaluate.py --model runs/folds/* --pool    all photos, each by a run that did not see it
    python evaluate.py --model RUN --suspects DIR     photos whose label the network disputes

Scores match predict.py, as both use LiteRT by default.
"""

from __future__ import annotations

if __name__ == "__main__":
    from catdog import early

    early.end_quietly()  # at Ctrl-C, while the modules below are loaded

import argparse
import dataclasses
import itertools
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import data
import model
from catdog import cli
from catdog.cli import say
from catdog.errors import UserError
from catdog.files import counted, to_json, without_folders
from catdog.photos import decode
from catdog.photos.photo import PhotoError
from catdog.runs import calibration, novelty
from catdog.runs.classifier import Classifier
from catdog.scores import metrics, tables


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Score trained networks on labelled photos.",
        parents=[cli.data_arguments(default=None, said="that of the run")],
    )
    add = parser.add_argument
    # fmt: off
    add("--model", nargs="+", metavar="RUN",
        help="a run directory that train.py wrote (default: weights); several are compared on the "
        "same photos")
    add("--pool", action="store_true",
        help="score the runs of several folds together: all photos that they hold out, each by a "
        "run that was not trained on it")
    add("--suspects", metavar="DIR", type=Path,
        help="rank the photos of validation and test, or of all folds, by how strongly the network "
        "disputes their label: new folder for the list (CSV), a contact sheet (PNG) and a page on "
        "which they are marked (HTML)")
    add("--split", choices=("test", "validation", "train", "all"),
        help="which of the photos (default: test; all if the network was trained on none of them)")
    add("--runtime", choices=("litert", "keras"), default="litert",
        help="which runtime executes the network (default: litert, as in predict.py)")
    add("--unknown", metavar="DIR",
        help="folder of pictures that belong to none of the classes; report how many are labelled "
        "unknown")
    add("--output", metavar="DIR", type=Path,
        help="new folder for a report with metrics, predictions and plots, or for a comparison of "
        "several runs")
    add("--json", action="store_true", help="print one line of JSON")
    # fmt: on
    args = parser.parse_args(argv)
    given = [name for name, value in vars(args).items() if value]
    others = ["split", "unknown", "output"]
    cli.check_combinations(parser, given, {"pool": others, "suspects": others})
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    with cli.blame("--model"):
        classifiers = [Classifier(each, model.load, args.runtime) for each in args.model or [None]]
    # All runs are scored on the photos of the first, but its cache may be on another machine.
    args.data_dir = args.data_dir or classifiers[0].run.place("data_dir")
    args.cache_dir = args.cache_dir or "tmp/cache"
    cli.check_output(args.output, args.data_dir)
    cli.check_output(args.suspects, args.data_dir, "--suspects")
    with cli.blame("--model"):
        pairs = [(each, data.load_for(each.run, args)) for each in classifiers]
    if args.pool or args.suspects:
        score_held_out(pairs, args)
        return 0
    if args.split is None:
        args.split = "all" if all(trained_on_none(*pair) for pair in pairs) else "test"
    scored = [score(*pair, args) for pair in pairs]
    if len(scored) > 1:
        result = compare(scored)
        text = tables.format_comparison(result["runs"], result["pairs"])
    else:
        result = scored[0].metrics
        text = tables.format_score(result)
    print(to_json(result) if args.json else text)
    if args.output:
        from catdog.scores import report

        with cli.blame("--output"):
            page = report.write(scored, result, args.output)
        say(f"Report:  {page}")
    return 0


def trained_on_none(classifier: Classifier, dataset: data.Dataset) -> bool:
    """Return whether a network is known to have been trained on none of the photos."""
    members = np.concatenate(list(dataset.splits.values()))  # training photos first
    # In parts: the first already decides, if the network was trained on its photos.
    parts = (members[start : start + 500] for start in range(0, len(members), 500))
    seen = (classifier.run.trained_on(dataset.identities(part)) for part in parts)
    return all(each is not None and not each.any() for each in seen)


@dataclasses.dataclass
class Scored:
    """A run, the photos that it was scored on, and its predictions."""

    classifier: Classifier
    dataset: data.Dataset
    members: np.ndarray  # (m,) indices of the photos in `dataset`
    probabilities: np.ndarray  # (m, n_classes)
    uncalibrated: np.ndarray  # the same, before temperature scaling
    metrics: dict  # what --json prints
    novelty: np.ndarray | None = None  # (m,), or None for a run without novelty
    outsiders: np.ndarray | None = None  # novelty of the pictures of --unknown

    @property
    def labels(self) -> np.ndarray:
        return self.dataset.labels[self.members]


def score(classifier: Classifier, dataset: data.Dataset, args: argparse.Namespace) -> Scored:
    """Score a run on the chosen photos, decoded at the size of its network; print a summary."""
    members = dataset.members_of(args.split)
    if not len(members):
        raise UserError(
            f"expected photos in the {args.split} split of {dataset.root}, got none of "
            f"{len(dataset.names):,}; --split all scores all of them",
            "--data-dir",
        )
    labels = dataset.labels[members]
    started = time.perf_counter()
    outputs = classifier.outputs_of(dataset, members, cli.progress("scoring", " photos"))
    rate = len(members) / (time.perf_counter() - started)
    probabilities, novelties = outputs["probabilities"], outputs.get("novelty")
    temperature = classifier.config.get("temperature", 1.0)
    uncalibrated = calibration.uncalibrated(probabilities, temperature)
    identities = dataset.identities(members)
    trained_on = classifier.run.trained_on(identities)
    look_trained_on = classifier.run.trained_on(identities, renamed=True)  # under any name
    name = without_folders(classifier.run) if args.output else str(classifier.run)
    scores = metrics.score(labels, probabilities, classifier.classes)
    found = {
        "model": name,
        "runtime": classifier.runtime,
        "split": args.split,
        "images": scores.pop("images"),
        "skipped": len(dataset.skipped),
        "excluded": len(dataset.excluded),
        **scores,
        "temperature": temperature,
        "calibration_error": metrics.expected_calibration_error(labels, probabilities),
        "calibration_error_uncalibrated": metrics.expected_calibration_error(labels, uncalibrated),
        "images_per_second": round(rate, 1),
        "trained_on": None if trained_on is None else int(trained_on.sum()),
        "look_trained_on": None if look_trained_on is None else int(look_trained_on.sum()),
    }
    if novelties is not None:
        found["unknown"] = novelty.refusal_score(labels, probabilities.argmax(1), novelties)
    outsiders = novelty_of_folder(classifier, args.unknown) if args.unknown else None
    if args.unknown:
        found["outsiders"] = novelty.outsider_score(novelties, outsiders)
    part = "all photos" if args.split == "all" else f"the {args.split} split"
    say(
        f"{classifier.run} on {part} of {args.data_dir}: "
        f"{counted(len(members), 'photo')} at {rate:.0f} per second with {classifier.runtime}, "
        f"{len(dataset.skipped)} skipped, {len(dataset.excluded)} left out"
    )
    if found["look_trained_on"]:
        say(
            f"Warning: the model was trained on {found['trained_on']:,} of these photos; "
            f"{found['look_trained_on']:,} are training photos or look exactly like one."
        )
    return Scored(
        classifier, dataset, members, probabilities, uncalibrated, found, novelties, outsiders
    )


def novelty_of_folder(classifier: Classifier, folder: str) -> np.ndarray:
    """Return the novelty of the pictures in the folder of --unknown and below it, (n,)."""
    if not classifier.run.has_novelty:
        raise UserError(f"expected a run with novelty, got {classifier.run}", "--model")
    found = []
    for batch in decode.Stream(decode.find([folder]), classifier.score_size).batches():
        images = [image for _, image in batch if not isinstance(image, PhotoError)]
        for path, image in batch:
            if isinstance(image, PhotoError):
                say(f"{path}: {image}")
        if images:
            found.append(classifier.outputs(np.stack(images))["novelty"])
    if not found:
        raise UserError(f"expected a folder with pictures, got {folder}", "--unknown")
    return np.concatenate(found)


def compare(scored: list[Scored]) -> dict:
    """Return the scores of several runs, and McNemar's test of each pair."""
    first = scored[0]
    for other in scored[1:]:
        if [other.dataset.paths[i] for i in other.members] != [
            first.dataset.paths[i] for i in first.members
        ]:
            raise UserError(
                "the runs must be scored on the same photos in the same split; --pool scores runs "
                "of several folds together",
                "--model",
            )
    pairs = [
        {
            "first": a.metrics["model"],
            "second": b.metrics["model"],
            **metrics.mcnemar(first.labels, a.probabilities.argmax(1), b.probabilities.argmax(1)),
        }
        for a, b in itertools.combinations(scored, 2)
    ]
    return {
        "split": first.metrics["split"],
        "images": len(first.members),
        "runs": [each.metrics for each in scored],
        "pairs": pairs,
    }


def score_held_out(pairs: list[tuple], args: argparse.Namespace) -> None:
    """Score every photo that a run holds out by a run that did not see it, and rank them.

    --pool prints the score of them all, --suspects those whose label is disputed most.
    """
    from catdog.scores import suspects

    with cli.blame("--model"):
        ranking = suspects.rank(pairs, cli.progress("scoring", " photos"))
    say(
        f"{args.data_dir}: {counted(len(ranking.members), 'photo')}, each scored by a network "
        "that did not see it"
    )
    if args.pool:
        found = metrics.score(ranking.labels, ranking.probabilities, ranking.dataset.classes)
        models = [str(classifier.run) for classifier, _ in pairs]
        found = {"models": models, "split": "held out", **found}
        print(to_json(found) if args.json else tables.format_score(found))
    if args.suspects:
        if not args.json:
            print(suspects.format_ranking(ranking))
        with cli.blame("--suspects"):
            suspects.write(args.suspects, ranking, cli.progress("drawing", " photos"))
        say(f"All of them:  {args.suspects / 'suspects.html'}")


if __name__ == "__main__":
    cli.run(main)
