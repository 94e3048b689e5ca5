"""What the HTML pages share: templates that escape all text, and pictures within the page."""

import base64
import io
from pathlib import Path

from PIL import Image

from catdog.files import printable
from catdog.scores import tables


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


def jpeg(image: Image.Image, quality: int = 82) -> bytes:
    """Return the content of a JPEG file of an image."""
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality, optimize=True)
    return data.getvalue()
