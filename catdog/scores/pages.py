"""What the HTML pages share: templates that escape all text, and pictures within the page."""

import base64
import io
from pathlib import Path

import numpy as np

from catdog.files import printable
from catdog.scores import explain, fonts, tables


def render(template: str, **values) -> str:
    """Return a page as text.

    Args:
        template: name of a Jinja2 template in this folder. Characters of text that cannot be
            printed are escaped in it as `printable` does, and those that mean something in HTML.
        values: what the template uses.
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
        base64=lambda data: base64.b64encode(data).decode(),
    )
    return environment.get_template(template).render(values)


def pictures(
    dataset, member: int, label: int, evidence: np.ndarray | None, side: int, quality: int
) -> dict[str, bytes | None]:
    """Return `image`, a photo as JPEG data, and `map`, the same for its class activation map.

    Args:
        dataset: the `data.Dataset` that has the photo as number `member`.
        label: the class whose evidence is shown.
        evidence: of the photo, an output of the classifier, or None: then `map` is None, too.
        side: the longer side in pixels.
        quality: of the JPEG data.
    """
    image = explain.open_or_cached(dataset, member, side)
    drawn = None
    if evidence is not None:
        of_class = explain.class_evidence(evidence, label)
        name = fonts.name_or_number(printable(dataset.classes[label]), label + 1)
        drawn = explain.explanation(image, of_class, name)
    return {"image": _jpeg(image, quality), "map": drawn and _jpeg(drawn, quality)}


def _jpeg(image, quality):
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality, optimize=True)
    return data.getvalue()
