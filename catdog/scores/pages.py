"""The HTML page of pictures: one file that needs no other, and escapes all text.

The report, the comparison of runs and the page of suspects are such pages. Each is a list of
sections; the templates report.html and suspects.html add what only these have.
"""

import base64
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

from catdog.files import counted, printable
from catdog.scores import explain, fonts, tables
from catdog.scores.plots import Plot


@dataclasses.dataclass
class Section:
    """A part of a page. What is not given is not shown."""

    title: str = ""
    note: str = ""
    table: Sequence[Sequence[str]] = ()  # the first row is the header
    plots: Sequence[Plot] = ()
    photos: Sequence[dict] | None = None  # as `photo` returns them


def render(template: str, sections: Sequence[Section], title: str, width: int, **values) -> str:
    """Return a page as text.

    Args:
        template: a file in this folder: page.html, or one that extends it. Characters of text that
            cannot be printed are escaped in it as `printable` does, and those that mean something
            in HTML.
        width: the least width in pixels of a photo with its map.
        values: what else the template uses.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,  # not Markup
    )
    environment.filters.update(
        percent=tables.percent,
        number=tables.number,
        count="{:,}".format,
        counted=counted,
        base64=lambda data: base64.b64encode(data).decode(),
    )
    given = {"sections": sections, "title": title, "width": width}
    return environment.get_template(template).render(**given, **values)


def photo(dataset, member: int, answers: Sequence[tuple], side: int, quality: int) -> dict:
    """Return a photo of a page.

    Args:
        dataset: the `data.Dataset` that has the photo as number `member`.
        answers: of each network what it is called, as "predicted"; the class that it names, and
            the probability; and its evidence, an output of the classifier, or None.
        side: the longer side of the pictures in pixels.
        quality: of the JPEG data.
    Returns:
        `path`; `label`; `answers`, the first three of each, with the name of the class; `pictures`,
        JPEG data and what it shows in words: the photo, and a class activation map per answer.
    """
    image = explain.open_or_cached(dataset, member, side)
    label = dataset.classes[dataset.labels[member]]
    named = [(who, dataset.classes[i], probability) for who, i, probability, _ in answers]
    said = (f"{who} {name} {tables.percent(probability)}" for who, name, probability in named)
    pictures = [(_jpeg(image, quality), ", ".join([f"Photo labelled {label}", *said]))]
    for _, i, _, evidence in answers:
        if evidence is not None:
            shown = fonts.name_or_number(printable(dataset.classes[i]), i + 1)
            drawn = explain.explanation(image, explain.class_evidence(evidence, i), shown)
            about = f"The same photo with the regions that support {dataset.classes[i]}"
            pictures.append((_jpeg(drawn, quality), about))
    return {
        "path": dataset.paths[member],
        "label": label,
        "answers": named,
        "pictures": pictures,
    }


def about_maps(photos: Sequence[dict], supported: str) -> str:
    """Return what the maps of photos show, which support `supported`; nothing if there are none."""
    if not any(len(photo["pictures"]) > 1 for photo in photos):
        return ""
    return (
        "Next to each photo is its class activation map: the brighter the colour of a region, the "
        f"more it supports {supported}."
    )


def _jpeg(image, quality):
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality, optimize=True)
    return data.getvalue()
