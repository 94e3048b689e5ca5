"""The report of an evaluation as one HTML page, which needs nothing but itself.

Pictures stand in the page as base64 data; whatever comes from a user, names above all, is escaped.
"""

import base64
import dataclasses
import io
from html import escape

import numpy as np
from PIL import Image, ImageOps

from catdog.scores import explain
from catdog.photos import photo as photos
from catdog.files import printable

CERTAIN_MISTAKES, LEAST_CERTAIN, RIGHT = 12, 12, 8  # photos shown
PHOTO_SIDE = 320  # px, the longer side of a photo shown
TARGETS = (0.95, 0.98, 0.99, 0.995, 0.999)  # accuracies of the table of thresholds
MOST_ROWS = 30  # of the table of classes

STYLE = """
:root { color-scheme: light dark; --ink: #1f2933; --soft: #52606d; --paper: #f5f7fa;
  --card: #ffffff; --line: #d9e0e7; --good: #1b7f4d; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8edf2; --soft: #a9b6c3; --paper: #12171d;
  --card: #1c232b; --line: #33404d; --good: #6fd3a0; --bad: #ff9b92; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 24px 16px 64px; }
h1 { font-size: 1.5rem; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 48px 0 4px; }
p { margin: 4px 0 16px; max-width: 75ch; color: var(--soft); overflow-wrap: anywhere; }
.headline { display: flex; flex-wrap: wrap; gap: 8px 40px; margin: 24px 0;
  padding: 20px 24px; background: var(--card); border: 1px solid var(--line); border-radius: 12px; }
.headline b { display: block; font-size: 1.5rem; line-height: 1.25; }
.headline .first b { font-size: 2.75rem; line-height: 1.1; }
.headline span { color: var(--soft); font-size: .9rem; }
.warning { color: var(--bad); font-weight: 600; }
.plots, .photos { display: grid; gap: 16px; }
.plots { grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); }
.photos { grid-template-columns: repeat(auto-fill, minmax(min(100%, 270px), 1fr)); }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  overflow: hidden; }
figure img { display: block; width: 100%; height: auto; }
figcaption { padding: 10px 14px 12px; font-size: .9rem; color: var(--soft);
  overflow-wrap: anywhere; }
figcaption b { display: block; color: var(--ink); }
.plots img { background: #fff; }
.pair { display: grid; grid-template-columns: 1fr 1fr; background: #000; }
.pair.alone { grid-template-columns: 1fr; }
.pair img { aspect-ratio: 1; object-fit: contain; }
.right { color: var(--good); } .wrong { color: var(--bad); }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line);
  border-radius: 12px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 8px 14px; border-bottom: 1px solid var(--line); text-align: right; }
th { font-weight: 600; } tr:last-child td, tr:last-child th { border-bottom: 0; }
th:first-child, td:first-child { text-align: left; }
.settings td { text-align: left; overflow-wrap: anywhere; }
"""


@dataclasses.dataclass
class Photo:
    """A photo shown: JPEG data of it and of its class activation map, or None for the latter."""

    path: str
    label: str
    predicted: str
    probability: float
    image: bytes
    map: bytes | None


# --- Which photos ---------------------------------------------------------------------------------


def photo_groups(classifier, dataset, members, probabilities):
    """Chooses photos to look at and reads them.

    Args:
        members: (m,) indices of photos in `dataset`; probabilities: (m, n_classes) of them.
    Returns:
        A list of (title, note, list of `Photo`).
    """
    groups = [
        ("Most certain mistakes", "Where the network is sure and the label disagrees. Some of the "
         "labels may be wrong: python data.py --suspects ranks them."),
        ("Least certain", "Closest to the threshold, right or wrong."),
        ("Right answers", "A random handful."),
    ]
    chosen = choose(dataset.labels[members], probabilities)
    return [
        (title, note, [_photo(classifier, dataset, members[i], probabilities[i]) for i in indices])
        for (title, note), indices in zip(groups, chosen, strict=True)
    ]


def choose(labels, probabilities):
    """Returns three arrays of indices: most certain mistakes, least certain, some right ones."""
    confidence = probabilities.max(1)
    order = np.argsort(-confidence, kind="stable")
    right = probabilities.argmax(1) == labels
    some = np.random.default_rng(0).permutation(np.flatnonzero(right))[:RIGHT]
    return order[~right[order]][:CERTAIN_MISTAKES], order[::-1][:LEAST_CERTAIN], some


def _photo(classifier, dataset, member, probabilities):
    try:
        image = photos.open_photo(dataset.root / dataset.paths[member], PHOTO_SIDE)
    except photos.PhotoError:  # gone since it was decoded
        image = Image.fromarray(dataset.images[member])
    image = ImageOps.contain(image, (PHOTO_SIDE, PHOTO_SIDE))
    predicted = int(probabilities.argmax())
    evidence = classifier.outputs(dataset.images[member][None]).get("evidence")
    text = f"for {printable(classifier.classes[predicted])}"
    return Photo(
        path=dataset.paths[member],
        label=classifier.classes[dataset.labels[member]],
        predicted=classifier.classes[predicted],
        probability=float(probabilities[predicted]),
        image=_jpeg(image),
        map=None if evidence is None else _jpeg(explain.explanation(
            image, explain.class_evidence(np.asarray(evidence)[0], predicted), text)),
    )


def _jpeg(image):
    data = io.BytesIO()
    image.save(data, "JPEG", quality=82)
    return data.getvalue()


# --- The page -------------------------------------------------------------------------------------


def render(metrics, thresholds, plots, groups, config):
    """Returns the page as text.

    Args:
        metrics: the dict that `evaluate.py --json` prints.
        thresholds: what `report.accuracy_by_threshold` returns.
        plots: a list of `plots.Plot`; groups: what `photo_groups` returns.
        config: settings and versions of the run.
    """
    name = printable(metrics["model"])
    body = [
        f"<h1>{escape(name)}</h1>",
        f"<p>Scored on the {escape(metrics['split'])} split. {_left_out(metrics)}</p>",
        _warning(metrics),
        _headline(metrics),
        "<h2>How good is it?</h2>",
        '<div class="plots">', *map(_plot, plots), "</div>",
        "<h2>How sure must it be?</h2>",
        "<p>If only answers from a threshold on are taken and the other photos stay unsure:</p>",
        _threshold_table(*thresholds),
        "<h2>Classes</h2>", _class_table(metrics),
    ]
    if any(photo.map for *_, shown in groups for photo in shown):
        body += ["<h2>Photos</h2>", "<p>Beside each photo stands its class activation map: the "
                 "brighter a region, the more it spoke for the answer.</p>"]
    for title, note, shown in groups:
        body += [f"<h2>{escape(title)}</h2>", f"<p>{escape(note)}</p>"]
        body += ['<div class="photos">', *map(_card, shown), "</div>"] if shown else [
            "<p>There are none.</p>"]
    body += ["<h2>The run</h2>", _settings_table(config)]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(name)}: {_percent(metrics["accuracy"])}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
{chr(10).join(body)}
</main>
</body>
</html>
"""


def _percent(value):
    return "–" if value is None else f"{value:.2%}"


def _number(value):
    return "–" if value is None else f"{value:.4f}"


def _left_out(metrics):
    return (f"{metrics['skipped']:,} files could not be read, {metrics['excluded']:,} photos were "
            "left out.")


def _warning(metrics):
    if not metrics["trained_on"]:
        return ""
    return (f'<p class="warning">Careful: the model was trained on {metrics["trained_on"]:,} of '
            "these photos.</p>")


def _headline(metrics):
    low, high = _percent(metrics["accuracy_low"]), _percent(metrics["accuracy_high"])
    error, before = metrics["calibration_error"], metrics["calibration_error_uncalibrated"]
    figures = [
        (_percent(metrics["accuracy"]), f"accuracy, 95% interval {low} to {high}"),
        (f"{metrics['images']:,}", "photos"),
        (_number(metrics["roc_auc"]), "ROC AUC"),
        (_number(metrics["log_loss"]), "log loss"),
        (_percent(error), f"calibration error, {_percent(before)} before temperature"),
    ]
    cells = [f"<div><b>{value}</b><span>{text}</span></div>" for value, text in figures]
    cells[0] = cells[0].replace("<div>", '<div class="first">')
    return f'<div class="headline">{"".join(cells)}</div>'


def _image(data, kind, alt):
    return (f'<img src="data:image/{kind};base64,{base64.b64encode(data).decode()}" '
            f'alt="{escape(alt)}">')


def _plot(plot):
    return (f"<figure>{_image(plot.path.read_bytes(), 'png', printable(plot.alt))}"
            f"<figcaption>{escape(plot.note)}</figcaption></figure>")


def _card(photo):
    right = photo.label == photo.predicted
    label, predicted = printable(photo.label), printable(photo.predicted)
    answer = f"{predicted} {photo.probability:.2%}"
    pictures = _image(photo.image, "jpeg", f"Photo labelled {label}, predicted {answer}")
    if photo.map:
        pictures += _image(photo.map, "jpeg", f"The same photo with the regions that spoke for "
                           f"{predicted} lit up")
    return (f'<figure><div class="pair{"" if photo.map else " alone"}">{pictures}</div>'
            f"<figcaption><b>{escape(printable(photo.path))}</b>label {escape(label)}, predicted "
            f'<span class="{"right" if right else "wrong"}">{escape(answer)}</span>'
            "</figcaption></figure>")


def _table(header, rows, style=""):
    """A table of cells that are text; the first column names the rows."""
    def line(cells, tag):
        return "<tr>" + "".join(f"<{tag}>{escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"

    head = line(header, "th") if header else ""
    body = "".join(line(row, "td") for row in rows)
    return f'<div class="scroll {style}"><table>{head}{body}</table></div>'


def _threshold_table(thresholds, accuracy, unsure):
    rows = []
    for target in TARGETS:
        reached = np.flatnonzero(accuracy >= target)
        row = [f"{target:.1%}", "not reached", "–"]
        if len(reached):
            row[1:] = [f"{thresholds[reached[0]]:.2%}", f"{unsure[reached[0]]:.1%}"]
        rows.append(row)
    return _table(["right at least", "threshold", "left unsure"], rows)


def _class_table(metrics):
    """Each class, the worst of them first where there are many, with what it is taken for."""
    matrix = np.array(metrics["confusion_matrix"])
    accuracy = [2 if value is None else value for value in metrics["class_accuracy"]]
    names = [printable(name) for name in metrics["classes"]]
    order = range(len(names)) if len(names) <= MOST_ROWS else np.argsort(accuracy)[:MOST_ROWS]
    rows = []
    for i in order:
        others = matrix[i] * (np.arange(len(names)) != i)
        confused = f"{names[others.argmax()]} ({others.max():,})" if others.any() else "–"
        rows.append([names[i], f"{matrix[i].sum():,}", _percent(metrics["class_accuracy"][i]),
                     confused])
    return _table(["class", "photos", "correct", "most often taken for"], rows)


def _settings_table(config):
    rows = []
    for key, value in config.items():
        if isinstance(value, dict):
            prefix = "" if key == "settings" else f"{key}: "
            rows += [[f"{prefix}{name}", _shown(each)] for name, each in value.items()]
        else:
            rows.append([key, _shown(value)])
    return _table([], rows, "settings")


def _shown(value):
    if isinstance(value, list):
        more = f" and {len(value) - MOST_ROWS:,} more" if len(value) > MOST_ROWS else ""
        return ", ".join(map(_shown, value[:MOST_ROWS])) + more if value else "none"
    return f"{value:.6g}" if isinstance(value, float) else printable(str(value))
