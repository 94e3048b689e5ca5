"""The HTML report of an evaluation: one page that needs no other file.

Pictures are in the page as base64 data. The template escapes all text, names above all.
"""

from collections.abc import Sequence

import numpy as np

from catdog.scores import pages, tables
from catdog.scores.plots import Plot

CERTAIN_MISTAKES, LEAST_CERTAIN, RIGHT = 12, 12, 8  # photos shown
PHOTO_SIDE = 320  # px, the longer side of a photo shown
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


# --- Which photos ---------------------------------------------------------------------------------


def photo_groups(
    classifier, dataset, members: np.ndarray, probabilities: np.ndarray
) -> list[tuple[str, str, list[dict]]]:
    """Choose photos to look at and read them.

    Args:
        classifier: a `Classifier`.
        dataset: a `data.Dataset`.
        members: `(m,)` indices of its photos.
        probabilities: `(m, n_classes)` of these photos.
    Returns:
        A title, a note and photos, for each group. Of a photo: path, label, predicted, probability
        and its `pages.pictures`.
    """
    chosen = choose(dataset.labels[members], probabilities)
    return [
        (title, note, [_photo(classifier, dataset, members[i], probabilities[i]) for i in indices])
        for (title, note), indices in zip(GROUPS, chosen, strict=True)
    ]


def choose(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return three arrays of indices: most certain mistakes, least certain, some correct ones."""
    confidence = probabilities.max(1)
    order = np.argsort(-confidence, kind="stable")
    right = probabilities.argmax(1) == labels
    some = np.random.default_rng(0).permutation(np.flatnonzero(right))[:RIGHT]
    return order[~right[order]][:CERTAIN_MISTAKES], order[::-1][:LEAST_CERTAIN], some


def _photo(classifier, dataset, member, probabilities):
    predicted = int(probabilities.argmax())
    (evidence,) = classifier.outputs(dataset.images[member][None]).get("evidence", [None])
    return {
        "path": dataset.paths[member],
        "label": dataset.classes[dataset.labels[member]],
        "predicted": dataset.classes[predicted],
        "probability": float(probabilities[predicted]),
        **pages.pictures(dataset, member, predicted, evidence, PHOTO_SIDE, quality=82),
    }


# --- The page -------------------------------------------------------------------------------------


def render(
    metrics: dict,
    thresholds: tuple[np.ndarray, np.ndarray, np.ndarray],
    plots: Sequence[Plot],
    groups: Sequence[tuple[str, str, list[dict]]],
    config: dict,
) -> str:
    """Return the page as text.

    Args:
        metrics: the dict that `evaluate.py --json` prints.
        thresholds: what `metrics.accuracy_by_threshold` returns.
        plots: what `plots.plot_evaluation` returns.
        groups: what `photo_groups` returns.
        config: settings and versions of the run.
    """
    return pages.render(
        "report.html",
        metrics=metrics,
        thresholds=_threshold_rows(*thresholds),
        classes=_class_rows(metrics),
        plots=plots,
        groups=groups,
        settings=_setting_rows(config),
    )


def _threshold_rows(thresholds, accuracy, unsure):
    rows = []
    for target in TARGETS:
        row = [f"{target:.1%}", "not reached", "-"]
        if len(reached := np.flatnonzero(accuracy >= target)):
            row[1:] = [f"{thresholds[reached[0]]:.2%}", f"{unsure[reached[0]]:.1%}"]
        rows.append(row)
    return rows


def _class_rows(metrics):
    """Return a row per class, and of many classes the worst, with what it is taken for."""
    names, matrix = metrics["classes"], np.array(metrics["confusion_matrix"])
    matrix[np.diag_indices_from(matrix)] = 0
    order = range(len(names))
    if len(names) > MOST_ROWS:
        order = tables.worst_classes(metrics, MOST_ROWS)
    header, *rows = tables.class_rows(metrics, order)
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
    return f"{value:.6g}" if isinstance(value, float) else str(value)
