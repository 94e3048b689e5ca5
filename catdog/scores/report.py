"""The report on the scores of a run, and the comparison of several: a folder with a page."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from catdog import files
from catdog.scores import metrics, pages, plots, tables

CERTAIN_MISTAKES, LEAST_CERTAIN, RIGHT, DISPUTED = 12, 12, 8, 48  # photos shown
PHOTO_SIDE, QUALITY = 320, 82  # px, the longer side of a photo; of JPEG
WIDTH = 135  # px of a picture on the page, at least
TARGETS = (0.95, 0.98, 0.99, 0.995, 0.999)  # accuracies of the table of thresholds
MOST_ROWS = 30  # of the table of classes, and items of a list of the settings
GROUPS = (
    (
        "Most certain mistakes",
        "The network is certain and the label disagrees. Some of these labels may be wrong: "
        "docs/labels.md shows how to find such photos.",
    ),
    ("Least certain", "Closest to the threshold, correct or not."),
    ("Correct predictions", "A random sample."),
)


def write(scored: Sequence, result: dict, folder: Path) -> Path:
    """Write a new folder atomically: report or comparison, metrics, predictions and plots.

    Args:
        scored: `evaluate.Scored` of one run, or of several on the same photos.
        result: what `evaluate.py --json` prints.
    Returns:
        The page in it.
    """
    with files.atomic_folder(folder) as temporary:
        files.write_json(temporary / "metrics.json", result)
        if len(scored) > 1:
            name, text = "comparison.html", compare(scored, result)
        else:
            (only,) = scored
            tables.write_csv(temporary / "predictions.csv", predictions(only))
            drawn = plots.plot_evaluation(
                only.labels, only.probabilities, only.uncalibrated, only.dataset.classes,
                only.classifier.run.history(), temporary, only.novelty, only.outsiders,
            )  # fmt: skip
            thresholds = metrics.accuracy_by_threshold(only.labels, only.probabilities)
            config = {"runtime": only.classifier.runtime, **only.classifier.config}
            name, text = "report.html", report(result, thresholds, drawn, groups(only), config)
        (temporary / name).write_text(text, encoding="utf-8")
    return folder / name


def predictions(scored) -> list[list]:
    """Return the rows of `predictions.csv`, a header and one row per photo."""
    classes, paths = scored.dataset.classes, scored.dataset.paths
    of_classes = [f"probability of {name}" for name in classes]
    rows = [["path", "label", "predicted", "probability", "correct", *of_classes]]
    for row, member, label in zip(scored.probabilities, scored.members, scored.labels, strict=True):
        best = row.argmax()
        first, *numbers = (f"{probability:.6f}" for probability in (row[best], *row))
        names = [paths[member], classes[label], classes[best]]
        rows.append([*names, first, int(label == best), *numbers])
    return rows


# --- Photos ---------------------------------------------------------------------------------------


def groups(scored) -> list[pages.Section]:
    """Choose photos to look at and read them."""
    chosen = choose(scored.labels, scored.probabilities)
    return [
        pages.Section(title, note, photos=[photo([scored], ["predicted"], i) for i in places])
        for (title, note), places in zip(GROUPS, chosen, strict=True)
    ]


def choose(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return three arrays of indices: most certain mistakes, least certain, some correct ones."""
    confidence = probabilities.max(1)
    order = np.argsort(-confidence, kind="stable")
    right = probabilities.argmax(1) == labels
    some = np.random.default_rng(0).permutation(np.flatnonzero(right))[:RIGHT]
    return order[~right[order]][:CERTAIN_MISTAKES], order[::-1][:LEAST_CERTAIN], some


def photo(scored: Sequence, names: Sequence[str], place: int) -> dict:
    """Return a photo of a page with what each run says of it.

    Args:
        names: of the runs.
        place: of the photo among those that were scored.
    """
    answers = []
    for each, name in zip(scored, names, strict=True):
        pixels, row = each.dataset.images[each.members[place]], each.probabilities[place]
        (evidence,) = each.classifier.outputs(pixels[None]).get("evidence", [None])
        answers.append((name, int(row.argmax()), float(row.max()), evidence))
    first = scored[0]
    return pages.photo(first.dataset, first.members[place], answers, PHOTO_SIDE, QUALITY)


# --- The report -----------------------------------------------------------------------------------


def report(
    score: dict,
    thresholds: tuple[np.ndarray, np.ndarray, np.ndarray],
    drawn: Sequence[plots.Plot],
    photos: Sequence[pages.Section],
    config: dict,
) -> str:
    """Return the report as text.

    Args:
        score: the dict that `evaluate.py --json` prints.
        thresholds: what `metrics.accuracy_by_threshold` returns.
        drawn: what `plots.plot_evaluation` returns.
        photos: what `groups` returns.
        config: settings and versions of the run.
    """
    unsure = "If predictions below a threshold are left out as unsure:"
    maps = pages.about_maps([each for group in photos for each in group.photos], "the prediction")
    sections = [
        pages.Section("How good is it?", plots=drawn),
        pages.Section("How certain must it be?", unsure, _threshold_rows(*thresholds)),
        pages.Section("Classes", table=_class_rows(score)),
        *([pages.Section("Photos", maps)] if maps else []),
        *photos,
        pages.Section("The run", table=[["setting", "value"], *_setting_rows(config)]),
    ]
    return pages.render("report.html", sections, score["model"], 2 * WIDTH, metrics=score)


def _threshold_rows(thresholds, accuracy, unsure):
    rows = [["correct at least", "threshold", "left out as unsure"]]
    for target in TARGETS:
        row = [f"{target:.1%}", "not reached", "-"]
        if len(reached := np.flatnonzero(accuracy >= target)):
            row[1:] = [f"{thresholds[reached[0]]:.2%}", f"{unsure[reached[0]]:.1%}"]
        rows.append(row)
    return rows


def _class_rows(score):
    """Return a row per class, and of many classes the worst, with what it is taken for."""
    names, matrix = score["classes"], np.array(score["confusion_matrix"])
    matrix[np.diag_indices_from(matrix)] = 0
    order = range(len(names))
    if len(names) > MOST_ROWS:
        order = tables.worst_classes(score, MOST_ROWS)
    header, *rows = tables.class_rows(score, order)
    for i, row in zip(order, rows, strict=True):
        most = matrix[i].argmax()
        row.append(f"{names[most]} ({matrix[i, most]:,})" if matrix[i].any() else "-")
    return [[*header, "most often taken for"], *rows]


def _setting_rows(config):
    rows = []
    for key, value in config.items():
        if isinstance(value, dict):
            prefix = "" if key == "settings" else f"{key}: "
            rows += [(f"{prefix}{name}", _shown(each)) for name, each in value.items()]
        else:
            rows.append((key, _shown(value)))
    return rows


def _shown(value):
    if isinstance(value, list):
        more = f" and {len(value) - MOST_ROWS:,} more" if len(value) > MOST_ROWS else ""
        return (", ".join(map(_shown, value[:MOST_ROWS])) or "none") + more
    if isinstance(value, str):
        return files.without_folders(value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


# --- The comparison -------------------------------------------------------------------------------


def compare(scored: Sequence, result: dict) -> str:
    """Return the comparison of several runs on the same photos, as text of a page."""
    runs, pairs = tables.comparison(result["runs"], result["pairs"])
    letters = [name.split()[0] for name, *_ in runs[1:]]
    probabilities = np.stack([each.probabilities for each in scored])  # (runs, photos, classes)
    predicted, labels = probabilities.argmax(2), scored[0].labels
    of_label = probabilities[:, np.arange(len(labels)), labels]
    disputed = np.flatnonzero((predicted != predicted[0]).any(0))
    disputed = disputed[np.argsort(-np.ptp(of_label[:, disputed], axis=0), kind="stable")]
    shown = [photo(scored, letters, place) for place in disputed[:DISPUTED]]
    sections = [
        pages.Section(
            note=f"Scored on the same {files.counted(len(labels), 'photo')}.", table=runs
        ),
        pages.Section(
            "Is the difference significant?",
            "Two runs are compared by the photos that only one of them gets right (McNemar's exact "
            "test, not corrected for the number of pairs).",
            [["pair"], *([line] for line in pairs)],
        ),
        pages.Section(
            "Photos on which they disagree",
            f"The runs give different labels to {files.counted(len(disputed), 'photo')}. Up to "
            f"{DISPUTED} are shown, first those where the probabilities of the right label differ "
            "most. "
            + pages.about_maps(shown, "the label that a run gives, in the order of the runs"),
            photos=shown,
        ),
    ]
    width = WIDTH * (1 + len(scored))
    return pages.render("page.html", sections, "Comparison of runs", width)
