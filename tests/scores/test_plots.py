"""Plots: that they are written, whole or not at all, and say what they show."""

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from catdog.scores import plots
from catdog.errors import UserError


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
        ([f"breed {i}" for i in range(40)], range(0, 40, 3)),
    ],
    ids=["two", "one class only", "three", "forty"],
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
    assert alts["confusion_matrix"] == "Confusion matrix: cat 100.0% right, dog 50.0% right."
    assert alts["roc"] == "ROC of dog: dog has an area of 0.7500."
    # One dog first (precision 1), then a cat, then the other dog (precision 2 of 3).
    assert "0.8333" in alts["precision_recall"]
    # Each in a bin of its own: (|1 - 0.9| + |1 - 0.6| + |0 - 0.65| + |1 - 0.8|) / 4.
    assert "after temperature 33.75%" in alts["calibration"]
    assert "75.00% right with every photo answered" in alts["threshold"]
    assert alts["training_loss"].endswith("Nothing to draw.")
