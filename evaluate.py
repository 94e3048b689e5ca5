"""Scores a trained run on photos, by default on the test split that training never saw.

    python evaluate.py                                     the network in weights/
    python evaluate.py --model runs/2026-01-31-120000
"""

import argparse
import time

import report
import runs
import terminal
from terminal import say


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description="Scores a trained network on labelled photos.")
    add = parser.add_argument
    add("--model", metavar="RUN", help="a run directory that train.py wrote (default: weights)")
    add("--data-dir", default="tmp", metavar="DIR", help="the labelled photos (default: tmp)")
    add("--cache-dir", default="tmp/cache", metavar="DIR",
        help="where decoded photos are kept (default: tmp/cache)")
    add("--split", choices=("test", "validation", "train", "all"), default="test",
        help="which of the photos (default: test)")
    add("--json", action="store_true", help="print one line of JSON")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_arguments(argv)
    run = runs.chosen(args.model)
    runs.read_config(run)  # a wrong --model is answered before TensorFlow is loaded
    import data

    classifier = runs.Classifier(run)
    dataset = data.load(args.data_dir, classifier.image_size, args.cache_dir)
    if dataset.classes != classifier.classes:
        raise terminal.UserError(
            f"--data-dir: expected the classes of the model, {', '.join(classifier.classes)}, "
            f"got {', '.join(dataset.classes)}"
        )
    members = dataset.members_of(args.split)
    show = terminal.progress("scoring", " photos")
    started = time.perf_counter()
    metrics = classifier.score(dataset, args.split, on_progress=show)
    seconds = time.perf_counter() - started
    trained_on = runs.count_trained_on(run, dataset, members)
    if args.json:
        print(report.to_json({
            "model": run,
            "split": args.split,
            "images": metrics.pop("images"),
            "skipped": len(dataset.skipped),
            **metrics,
            "images_per_second": round(len(members) / seconds, 1),
            "trained_on": trained_on,
        }))
        return 0
    say(f"{run} on the {args.split} split of {args.data_dir}")
    print(report.format_score(metrics))
    say(f"{len(members):,} photos at {len(members) / seconds:.0f} a second, "
        f"{len(dataset.skipped)} skipped")
    if trained_on:
        say(f"Careful: the model was trained on {trained_on:,} of these photos.")
    return 0


if __name__ == "__main__":
    terminal.run_program(main)
