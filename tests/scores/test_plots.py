"""Plots: they are written atomically and say what they show."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from catdog.errors import UserError
from catdog.scores import fonts, plots
from conftest import ROOT


def history(epochs):
    """Rows as in history.csv, of a run that learns."""
    return [
        {
            "epoch": epoch,
            "loss": 0.7 / epoch,
            "accuracy": 1 - 0.4 / epoch,
            "val_loss": 0.8 / epoch,
            "val_accuracy": 1 - 0.5 / epoch,
            "learning_rate": 1e-3 / epoch,
            "image_size": 64 if epoch < 5 else 96,
            "seconds": 1.5,
        }
        for epoch in range(1, epochs + 1)
    ]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "rows",
    [
        history(30),
        history(1),
        [{key: str(value) for key, value in row.items()} for row in history(3)],
        [
            {**row, "val_loss": math.nan, "val_accuracy": "", "image_size": None}
            for row in history(3)
        ],
        [{"loss": 0.5}, {"loss": math.inf}, {}],
        [],
    ],
    ids=["long", "one epoch", "text", "nan", "missing", "empty"],
)
def test_plot_history_writes_a_png(tmp_path, rows):
    plots.plot_history(rows, tmp_path / "curves.png")
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]
    with Image.open(tmp_path / "curves.png") as image:
        image.load()
        assert image.format == "PNG"
        assert image.width > 1000
        colors = {color for _, color in image.convert("RGB").getcolors(image.width * image.height)}
    has_validation = any(
        row.get("val_loss") not in (None, "") and math.isfinite(float(row["val_loss"]))
        for row in rows
    )
    assert ((0x1F, 0x5F, 0xA8) in colors) == has_validation


def test_plot_history_that_fails_leaves_the_last_plot(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    def disk_full(self, path, **kwargs):
        Path(path).write_bytes(b"half")
        raise OSError("No space left on device")

    path = tmp_path / "curves.png"
    path.write_bytes(b"the last one")
    monkeypatch.setattr(Figure, "savefig", disk_full)
    with pytest.raises(UserError, match="space"):
        plots.plot_history(history(2), path)
    assert path.read_bytes() == b"the last one"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("classes", "labels"),
    [
        (["cat", "dog"], [0, 1, 1, 0, 1, 0]),
        (["cat", "dog"], [1, 1, 1, 1, 1, 1]),
        (["ant", "a $name$ of no small length", "cow"], [0, 1, 2, 0, 1, 2]),
        (["猫咪", "小狗", "قطة", "Кошка", "𓀀"], [0, 1, 2, 3, 4, 0]),
        (["b US$ and A$", "$\\frac$", "\\$\r\udcff", "W" * 40, "tab\t"], [0, 1, 2, 3, 4, 0]),
        ([f"breed {i}" for i in range(40)], range(0, 40, 3)),
    ],
    ids=["two", "one class only", "three", "any script", "odd names", "forty"],
)
def test_plot_evaluation_draws_each_plot_and_says_what_it_shows(tmp_path, classes, labels):
    labels = np.array(labels)
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(len(classes)), len(labels))
    drawn = plots.plot_evaluation(
        labels, probabilities, probabilities, classes, history(3), tmp_path
    )
    assert [plot.path.name for plot in drawn] == [
        "confusion_matrix.png",
        "roc.png",
        "precision_recall.png",
        "calibration.png",
        "probabilities.png",
        "threshold.png",
        "training_accuracy.png",
        "training_loss.png",
    ]
    assert {path.name for path in tmp_path.iterdir()} == {plot.path.name for plot in drawn}
    for plot in drawn:
        with Image.open(plot.path) as image:
            assert image.size == (900, 720)
        assert "nan" not in plot.alt and plot.alt.endswith("."), plot.alt
    assert ("Nothing to draw" in drawn[1].alt) == (len(set(labels)) == 1)


def test_plot_evaluation_says_the_figures_of_the_curves(tmp_path):
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.65, 0.35], [0.2, 0.8]])
    drawn = plots.plot_evaluation(
        [0, 0, 1, 1], probabilities, probabilities[::-1], ["cat", "dog"], [], tmp_path
    )
    alts = {plot.path.stem: plot.alt for plot in drawn}
    assert alts["confusion_matrix"] == "Confusion matrix: cat 100.0% correct; dog 50.0% correct."
    assert alts["roc"] == "ROC curve of dog: ROC AUC of dog 0.7500."
    # One dog first (precision 1), then a cat, then the other dog (precision 2 of 3).
    assert "0.8333" in alts["precision_recall"]
    # Each in a bin of its own: (|1 - 0.9| + |1 - 0.6| + |0 - 0.65| + |1 - 0.8|) / 4.
    assert "after temperature scaling 33.75%" in alts["calibration"]
    assert "75.00% correct with every photo predicted" in alts["threshold"]
    assert alts["training_loss"].endswith("Nothing to draw.")


def drawn_by(monkeypatch):
    """Return a list of the figures that are laid out from now on, of which none is written."""
    from matplotlib.figure import Figure

    figures = []

    def keep(figure, path, **options):
        figure.draw_without_rendering()
        figures.append(figure)
        path.touch()

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def test_names_are_drawn_letter_by_letter(tmp_path, monkeypatch):
    figures = drawn_by(monkeypatch)
    classes, probabilities = ["b US$ and A$", "$x^2$"], np.array([[0.9, 0.1], [0.2, 0.8]])
    plots.plot_evaluation([0, 1], probabilities, probabilities, classes, [], tmp_path)
    labels = figures[0].axes[0].get_xticklabels()
    assert [label.get_text() for label in labels] == classes
    assert not any(label.get_parse_math() for label in labels)
    legend = figures[1].legends[0].get_texts()[0]
    assert legend.get_text().startswith("$x^2$") and not legend.get_parse_math()


@pytest.mark.filterwarnings("error")
def test_a_name_that_no_font_has_is_a_number_with_a_key(tmp_path, monkeypatch):
    figures, find = drawn_by(monkeypatch), fonts.find
    monkeypatch.setattr(fonts, "find", lambda text: None if "猫" in text else find(text))
    classes, probabilities = ["قطة", "猫咪"], np.array([[0.9, 0.1], [0.2, 0.8]])
    drawn = plots.plot_evaluation([0, 1], probabilities, probabilities, classes, [], tmp_path)
    labels = figures[0].axes[0].get_xticklabels()
    assert [label.get_text() for label in labels] == ["قطة", "2"]
    assert drawn[0].note.endswith(" 2 is 猫咪.")
    assert figures[1].axes[0].get_title(loc="left") == "ROC curve of 2"


@pytest.mark.filterwarnings("error")
def test_settings_of_the_user_do_not_change_a_plot(tmp_path):
    import matplotlib

    plots.plot_history(history(3), tmp_path / "ours.png")
    theirs = {"text.usetex": True, "savefig.dpi": 10, "font.family": "cursive", "lines.color": "r"}
    with matplotlib.rc_context(theirs | {"figure.facecolor": "black", "savefig.bbox": "tight"}):
        plots.plot_history(history(3), tmp_path / "theirs.png")
        assert matplotlib.rcParams["text.usetex"]
    assert (tmp_path / "ours.png").read_bytes() == (tmp_path / "theirs.png").read_bytes()


def test_a_matplotlibrc_of_any_content_is_not_read(tmp_path):
    (tmp_path / "matplotlibrc").write_bytes(b"font.family: \xe4\n")
    program = "from catdog import backend; backend.keras.ops; "
    program += "from catdog.scores import fonts; import sys; sys.exit(not fonts.find('ä'))"
    for place in ("matplotlibrc", "no-such-file"):  # ./matplotlibrc goes first
        process = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "MATPLOTLIBRC": str(tmp_path / place)},
            capture_output=True,
        )
        assert process.returncode == 0, process.stderr


def test_a_plot_that_cannot_be_drawn_costs_a_line(tmp_path, caplog, monkeypatch):
    def fail(*args):
        raise RuntimeError("no\nfont")

    monkeypatch.setattr(plots, "_calibration", fail)
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8]])
    drawn = plots.plot_evaluation([0, 1], probabilities, probabilities, ["a", "b"], [], tmp_path)
    assert len(drawn) == 7 and caplog.messages == ["calibration.png cannot be drawn: no font"]


@pytest.mark.parametrize("name", ["ab", "five letters", "W" * 40])
@pytest.mark.parametrize("n_classes", [2, 5, 8])
def test_legends_are_not_cut_off(tmp_path, monkeypatch, n_classes, name):
    figures = drawn_by(monkeypatch)
    labels = np.arange(40) % n_classes
    probabilities = np.random.default_rng(0).dirichlet(np.ones(n_classes), 40)
    classes = [f"{i}{name}" for i in range(n_classes)]
    plots.plot_evaluation(labels, probabilities, probabilities, classes, history(3), tmp_path)
    legends = [(figure, legend) for figure in figures for legend in figure.legends]
    assert len(legends) == 7  # all but the confusion matrix
    for figure, legend in legends:
        box = legend.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width and box.y0 >= 0
        assert figure.axes[0].get_window_extent().height > 0.25 * figure.bbox.height


def test_no_axis_shows_more_than_100_percent(tmp_path, monkeypatch):
    figures = drawn_by(monkeypatch)
    rows = [{"accuracy": 1.0, "val_accuracy": 1.0}] * 3
    certain = np.eye(2)[[0, 1, 0, 1]]
    plots.plot_evaluation([0, 1, 0, 1], certain, certain, ["cat", "dog"], rows, tmp_path)
    plots.plot_history(rows, tmp_path / "curves.png")
    shown = [
        label.get_text()
        for figure in figures
        for axis in figure.axes
        for label, place in zip(axis.get_yticklabels(), axis.get_yticks(), strict=True)
        if axis.get_ylim()[0] <= place <= axis.get_ylim()[1]
    ]
    percentages = [float(text[:-1]) for text in shown if text.endswith("%")]
    assert max(percentages) == 100
    assert len(percentages) > 10
