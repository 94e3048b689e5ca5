"""Plots: that they are written, whole or not at all, and say what they show."""

import math
from pathlib import Path

import pytest
from PIL import Image

import plots


def history(epochs):
    """Rows as in history.csv, of a run that learns."""
    return [{"epoch": epoch, "loss": 0.7 / epoch, "accuracy": 1 - 0.4 / epoch,
             "val_loss": 0.8 / epoch, "val_accuracy": 1 - 0.5 / epoch,
             "learning_rate": 1e-3 / epoch, "image_size": 64 if epoch < 5 else 96, "seconds": 1.5}
            for epoch in range(1, epochs + 1)]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("rows", [
    history(30),
    history(1),
    [{key: str(value) for key, value in row.items()} for row in history(3)],
    [{**row, "val_loss": math.nan, "val_accuracy": "", "image_size": None} for row in history(3)],
    [{"loss": 0.5}, {"loss": math.inf}, {}],
    [],
], ids=["long", "one epoch", "text", "nan", "missing", "empty"])
def test_plot_history_writes_a_png(tmp_path, rows):
    plots.plot_history(rows, tmp_path / "curves.png")
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]
    with Image.open(tmp_path / "curves.png") as image:
        image.load()
        assert image.format == "PNG"
        assert image.width > 1000
        colors = {color for _, color in image.convert("RGB").getcolors(image.width * image.height)}
    has_validation = any(row.get("val_loss") not in (None, "") and
                         math.isfinite(float(row["val_loss"])) for row in rows)
    assert ((0x1F, 0x5F, 0xA8) in colors) == has_validation


def test_plot_history_that_fails_leaves_the_last_plot(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    def disk_full(self, path, **kwargs):
        Path(path).write_bytes(b"half")
        raise OSError("No space left on device")

    path = tmp_path / "curves.png"
    path.write_bytes(b"the last one")
    monkeypatch.setattr(Figure, "savefig", disk_full)
    with pytest.raises(OSError, match="space"):
        plots.plot_history(history(2), path)
    assert path.read_bytes() == b"the last one"
    assert list(tmp_path.iterdir()) == [path]


