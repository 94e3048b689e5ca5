"""Labels that may be wrong: photos ranked by how strongly networks dispute their label.

A network that was trained on a photo has learned its label and is no evidence against it. One run
scores the photos of its validation and test split, a fifth; the runs of all folds score all photos.
"""

import base64
import dataclasses
import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from catdog import files
from catdog.errors import UserError
from catdog.files import counted, printable
from catdog.scores import explain, fonts, metrics, pages, tables

logger = logging.getLogger(__name__)
LINES = 24  # of the list that are shown; the CSV file has all
# Above this share of disputed labels, most are mistakes of the network: a network that was wrong on
# 6% of the photos of Dogs vs. Cats led to an estimate of 285 wrong labels, one wrong on 1.2% to 6.
MOST_DISPUTED = 0.02
SHEET_COLUMNS, SHEET_ROWS, SHEET_TILE, SHEET_TEXT = 10, 10, 150, 36  # photos, photos, px, px
PAGE_PHOTOS, PAGE_SIDE, PAGE_QUALITY = 500, 208, 65  # photos, px, of JPEG: below 10 MB


@dataclasses.dataclass
class Ranking:
    """Photos, the most disputed label first.

    Attributes:
        judges: a `Classifier` and a `data.Dataset` with the split of its run, for each run.
        members: `(m,)` indices of photos in the dataset.
        judge_of: `(m,)` index into `judges` of the one that scored each photo.
        split_of: `(m,)` the split of that run in which the photo is.
        probabilities: `(m, n_classes)`.
    """

    judges: Sequence[tuple]
    members: np.ndarray
    judge_of: np.ndarray
    split_of: np.ndarray
    probabilities: np.ndarray

    @property
    def dataset(self):
        """The dataset of the first judge; in those of the others, only the split differs."""
        return self.judges[0][1]

    @property
    def labels(self) -> np.ndarray:
        """The labels of the photos, `(m,)`."""
        return self.dataset.labels[self.members]

    @property
    def proposed(self) -> np.ndarray:
        """The most probable class of each photo apart from its label, `(m,)`."""
        others = self.probabilities.copy()
        others[np.arange(len(others)), self.labels] = -1
        return others.argmax(1)

    def wrong(self) -> int:
        """Return how many labels are wrong, as confident learning estimates it."""
        joint = metrics.confident_joint(self.labels, self.probabilities)
        return int(joint.sum() - joint.trace())


# --- Which labels ---------------------------------------------------------------------------------


def rank(
    judges: Sequence[tuple], on_progress: Callable[[int, int], None] = lambda done, total: None
) -> Ranking:
    """Rank photos by how strongly a network that was not trained on them disputes their label.

    Each photo is scored once: by a run that has it in its test split, else by one that has it in
    its validation split.

    Args:
        judges: a `Classifier` and a `data.Dataset` with the split of its run, for each run: of one
            fold, or of several folds of the same photos.
        on_progress: called with the number of photos that are done and of all.
    """
    _, first = judges[0]
    for _, dataset in judges:
        if (dataset.names, dataset.classes) != (first.names, first.classes):
            raise UserError("expected runs of the same photos and classes, got different ones")
    held_out = np.zeros(len(first.labels), bool)
    judge_of, split_of = np.full(len(held_out), -1), np.full(len(held_out), "", object)
    for split in ("validation", "test"):
        for number, (classifier, dataset) in enumerate(judges):
            members = dataset.splits[split]
            held_out[members] = True
            seen = classifier.run.trained_on(dataset.identities(members))
            members = members if seen is None else members[~seen]
            judge_of[members], split_of[members] = number, split
    if count := (held_out & (judge_of < 0)).sum():
        logger.warning(f"Left out {counted(count, 'photo')} that the model was trained on.")
    members = np.flatnonzero(judge_of >= 0)
    if not len(members):
        raise UserError("expected photos that the model was not trained on, got none")
    probabilities, done = np.zeros((len(held_out), len(first.classes))), 0
    for number in np.unique(judge_of[members]):
        classifier, dataset = judges[number]
        judged = np.flatnonzero(judge_of == number)

        def show(n, _, before=done):
            on_progress(before + n, len(members))

        probabilities[judged] = classifier.outputs_of(dataset, judged, show)["probabilities"]
        done += len(judged)
    of_label = probabilities[members, first.labels[members]]
    order = members[np.argsort(of_label, kind="stable")]
    return Ranking(judges, order, judge_of[order], split_of[order], probabilities[order])


# --- For the terminal and for other programs ------------------------------------------------------


def rows(ranking: Ranking) -> list[list]:
    """Return a row per photo for `suspects.csv`; its path is what a file of exclusions takes."""
    dataset = ranking.dataset
    found = [["rank", "path", "split", "label", "predicted", "probability_of_label"]]
    photos = zip(ranking.members, ranking.split_of, ranking.probabilities, strict=True)
    for place, (i, split, row) in enumerate(photos, start=1):
        label, predicted = (dataset.classes[j] for j in (dataset.labels[i], row.argmax()))
        of_label = f"{row[dataset.labels[i]]:.6g}"
        found.append([place, dataset.paths[i], split, label, predicted, of_label])
    return found


def format_ranking(ranking: Ranking) -> str:
    """Return the first photos and the estimate of wrong labels as text for the terminal."""
    shown = [[printable(str(cell)) for cell in row] for row in rows(ranking)[: LINES + 1]]
    return "\n".join([*tables.table(shown, left=5), "", estimate(ranking)])


def estimate(ranking: Ranking) -> str:
    """Return an estimate of how many labels are wrong: a range if the network errs a lot itself."""
    wrong, members = ranking.wrong(), len(ranking.members)
    disputed = (ranking.probabilities.argmax(1) != ranking.labels).mean()
    of = f"of {members:,} labels are wrong (confident learning)."
    if disputed <= MOST_DISPUTED:
        return f"Estimate: about {wrong:,} {of}"
    return (
        f"Estimate: 0 to {wrong:,} {of} The network disputes {disputed:.0%} of the labels, of "
        "which most may be mistakes of its own: go by the order of the list."
    )


def contact_sheet(ranking: Ranking) -> Image.Image:
    """Draw the photos of the first ranks side by side, each with its name."""
    dataset, tile = ranking.dataset, SHEET_TILE
    members = ranking.members[: SHEET_COLUMNS * SHEET_ROWS]
    columns = min(len(members), SHEET_COLUMNS)
    height = -(-len(members) // columns) * (tile + SHEET_TEXT)
    sheet = Image.new("RGB", (columns * tile, height), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (i, row) in enumerate(zip(members, ranking.probabilities, strict=False)):
        left, top = place % columns * tile, place // columns * (tile + SHEET_TEXT)
        photo = explain.open_or_cached(dataset, i, tile - 4)
        sheet.paste(ImageOps.pad(photo, (tile - 4, tile - 4), color="#d9e0e7"), (left + 2, top + 2))
        name, label, predicted = printable(dataset.paths[i]), dataset.labels[i], row.argmax()
        text = f"{place + 1}. {name if len(name) < 20 else '…' + name[-18:]}\n"
        text += f"{printable(dataset.classes[label])[:10]} {row[label]:.1%}"
        text += f", {printable(dataset.classes[predicted])[:10]}?" if predicted != label else ""
        font = fonts.for_pillow(text, 12)
        draw.text((left + 4, top + tile), text, fill=explain.INK, font=font, spacing=2)
    return sheet


# --- The page -------------------------------------------------------------------------------------


def page(
    ranking: Ranking, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> str:
    """Return the HTML page on which a person marks the photos of the first ranks."""
    script = Path(__file__).with_name("suspects.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    photos, proposed = [], ranking.proposed[:PAGE_PHOTOS].tolist()
    for place, other in enumerate(proposed):
        photos.append(_photo(ranking, place, other))
        on_progress(place + 1, len(proposed))
    return pages.render(
        "suspects.html",
        [pages.Section(note=pages.about_maps(photos, "the proposed label"), photos=photos)],
        title="Labels that may be wrong",
        width=340,
        classes=[printable(name) for name in ranking.dataset.classes],
        estimate=estimate(ranking),
        script=script,
        script_sha256=digest,
    )


def _photo(ranking, place, proposed):
    dataset, i, row = ranking.dataset, ranking.members[place], ranking.probabilities[place]
    (classifier, judged), name = ranking.judges[ranking.judge_of[place]], dataset.names[i]
    (evidence,) = classifier.outputs(judged.images[i][None]).get("evidence", [None])
    answers = [("proposed", proposed, row[proposed], evidence)]
    return {
        **pages.photo(dataset, i, answers, PAGE_SIDE, PAGE_QUALITY),
        # Several photos may have one name, such as cat.7.jpg and cat.7.png.
        "name": name if dataset.names.count(name) == 1 else dataset.paths[i],
        "of_label": row[dataset.labels[i]],
    }


def write(
    folder: Path,
    ranking: Ranking,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write a new folder with `suspects.csv`, the page `suspects.html` and `suspects.png`."""
    with files.atomic_folder(folder) as temporary:
        tables.write_csv(temporary / "suspects.csv", rows(ranking))
        contact_sheet(ranking).save(temporary / "suspects.png")
        text = page(ranking, on_progress)
        (temporary / "suspects.html").write_text(text, encoding="utf-8")
