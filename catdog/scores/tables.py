"""Tables: aligned text for the terminal, and CSV files."""

import csv
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from catdog.files import counted, printable

LARGEST_MATRIX = 8  # classes; a larger confusion matrix does not fit on a terminal
MOST_ROWS = 10  # confusions and classes that are shown instead
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a formula begins, for spreadsheet programs


def write_csv(path: Path, rows: Iterable[Sequence]) -> None:
    """Write rows of numbers and text as CSV, in UTF-8, lines ending in a line feed.

    Bytes of a path that are no text are kept as they are. Spreadsheet programs would run text that
    begins with `=`, `+`, `-`, `@`, a tab or a carriage return as a formula: it gets an apostrophe
    in front, and so does such text behind apostrophes, so that removing one apostrophe always
    gives the name back.
    """
    rows = [[_no_formula(cell) for cell in row] for row in rows]
    # Before Python 3.13, the csv module leaves a carriage return unquoted and reads two rows of it.
    returns = any("\r" in str(cell) for row in rows for cell in row)
    with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        quoting = csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL
        csv.writer(file, lineterminator="\n", quoting=quoting).writerows(rows)


def _no_formula(cell):
    if isinstance(cell, str) and cell.lstrip("'").startswith(FORMULA):
        return f"'{cell}"
    return cell


def table(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Return the rows as aligned lines, the first `left` columns flush left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligns = ["<"] * left + [">"] * (len(widths) - left)
    return [
        "  ".join(f"{c:{a}{w}}" for c, a, w in zip(row, aligns, widths, strict=True)).rstrip()
        for row in rows
    ]


def layer_rows(network) -> list[str]:
    """Return the layers of a `keras.Model` with output shapes and numbers of parameters."""
    rows = [["layer", "output", "parameters"]]
    for layer in network.layers:
        window = getattr(layer, "kernel_size", None) or getattr(layer, "pool_size", ())
        kind = f"{type(layer).__name__} {' x '.join(map(str, window))}".rstrip()
        shape = " x ".join(map(str, layer.output.shape[1:]))
        rows.append([kind, shape, f"{layer.count_params():,}" if layer.weights else ""])
    return table([*rows, ["total", "", f"{network.count_params():,}"]], left=1)


def percent(value: float | None) -> str:
    """Return a share as text such as 98.76%; a dash for None."""
    return "-" if value is None else f"{value:.2%}"


def number(value: float | None) -> str:
    """Return a number as text with four decimals; a dash for None."""
    return "-" if value is None else f"{value:.4f}"


def class_rows(score: dict, order: Iterable[int]) -> list[list[str]]:
    """Return the names, numbers of photos, precision, recall and F1 of classes, with a header."""
    rows = [["class", "photos", "precision", "recall", "F1"]]
    for i in order:
        figures = (score[f"class_{key}"][i] for key in ("precision", "recall", "f1"))
        count = sum(score["confusion_matrix"][i])
        rows.append([printable(score["classes"][i]), f"{count:,}", *map(percent, figures)])
    return rows


def worst_classes(score: dict, most: int) -> list[int]:
    """Return the indices of the classes with the lowest recall, at most `most`, lowest first."""
    recall = [np.inf if value is None else value for value in score["class_recall"]]
    return np.argsort(recall, kind="stable")[:most].tolist()


def unknown_rows(score: dict) -> list[list[str]]:
    """Return what a score says of photos that are called unknown; none if it says nothing."""
    rows = []
    if unknown := score.get("unknown"):
        kept = percent(unknown["accuracy_of_the_others"])
        refused = counted(unknown["refused"], "photo")
        note = f"({refused}; accuracy of the others {kept})"
        rows.append(["called unknown", percent(unknown["share_refused"]), note])
    if others := score.get("outsiders"):
        note = (
            f"({others['refused']:,} of {others['pictures']:,}; ROC AUC {number(others['auroc'])})"
        )
        rows.append(["of no class, unknown", percent(others["share_refused"]), note])
    return rows


def format_score(score: dict) -> str:
    """Return the dict of `metrics.score` as text of several lines for the terminal.

    With more than eight classes, the most frequent confusions are shown instead of the confusion
    matrix, and the classes of the lowest recall instead of all.
    """
    interval = ""
    if score["accuracy"] is not None:
        low, high = percent(score["accuracy_low"]), percent(score["accuracy_high"])
        interval = f"95% interval {low} to {high}, "
    photos = counted(score["images"], "photo")
    figures = [["accuracy", percent(score["accuracy"]), f"({interval}{photos})"]]
    if "top_5_accuracy" in score:
        figures.append(["top-5 accuracy", percent(score["top_5_accuracy"]), ""])
    figures += [
        ["balanced accuracy", percent(score["balanced_accuracy"]), "(mean recall of the classes)"],
        ["macro F1", percent(score["macro_f1"]), "(mean F1 of the classes)"],
        ["log loss", number(score["log_loss"]), ""],
        ["ROC AUC", number(score["roc_auc"]), ""],
        *unknown_rows(score),
    ]
    widths = [max(len(row[i]) for row in figures) for i in (0, 1)]
    lines = [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c}".rstrip() for a, b, c in figures]
    names = [printable(name) for name in score["classes"]]
    matrix = np.array(score["confusion_matrix"])
    if len(names) <= LARGEST_MATRIX:
        rows = [[name, *(f"{n:,}" for n in row)] for name, row in zip(names, matrix, strict=True)]
        lines += ["", *table([["true \\ predicted", *(name[:12] for name in names)], *rows], 1)]
        return "\n".join([*lines, "", *table(class_rows(score, range(len(names))), 1)])
    matrix[np.diag_indices_from(matrix)] = 0
    largest = np.argsort(-matrix, axis=None, kind="stable")[:MOST_ROWS]
    pairs = zip(*np.unravel_index(largest, matrix.shape), strict=True)
    rows = [[names[i], names[j], f"{matrix[i, j]:,}"] for i, j in pairs if matrix[i, j]]
    rows = [["true class", "predicted", "photos"], *rows]
    lines += ["", "most frequent confusions", *(table(rows, 2) if len(rows) > 1 else ["none"])]
    worst = class_rows(score, worst_classes(score, MOST_ROWS))
    return "\n".join([*lines, "", "classes of the lowest recall", *table(worst, 1)])


def comparison(scores: Sequence[dict], pairs: Sequence[dict]) -> tuple[list[list[str]], list[str]]:
    """Return the comparison of runs on the same photos.

    Args:
        scores: `metrics.score` of each run, with its `model`.
        pairs: `metrics.mcnemar` of each pair of runs, in the order of `itertools.combinations`.
    Returns:
        A row per run, below a header, and a sentence per pair. Each run has a letter.
    """
    letters = [chr(ord("A") + i) for i in range(len(scores))]  # for the runs, whose paths are long
    rows = [["run", "accuracy", "95% interval", "log loss", "ROC AUC"]]
    for letter, score in zip(letters, scores, strict=True):
        interval = f"{percent(score['accuracy_low'])} to {percent(score['accuracy_high'])}"
        name = f"{letter}  {printable(score['model'])}"
        figures = [number(score["log_loss"]), number(score["roc_auc"])]
        rows.append([name, percent(score["accuracy"]), interval, *figures])
    lines = []
    for (a, b), pair in zip(itertools.combinations(letters, 2), pairs, strict=True):
        significant = "significant" if pair["p_value"] < 0.05 else "not significant"
        lines.append(
            f"{a} against {b}: only {a} right {pair['only_first_right']:,}, only {b} right "
            f"{pair['only_second_right']:,}, p = {pair['p_value']:.2g}: {significant}"
        )
    return rows, lines


def format_comparison(scores: Sequence[dict], pairs: Sequence[dict]) -> str:
    """Return what `comparison` does as text of several lines for the terminal."""
    rows, lines = comparison(scores, pairs)
    photos = counted(scores[0]["images"], "photo")
    return "\n".join([*table(rows, 1), f"on the same {photos}", "", *lines])
