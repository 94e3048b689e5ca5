"""One HTML file that holds a trained network and runs it in any browser, without a network.

    page.html, page.css, page.js    the page
    runtime.js                      how it uses LiteRT.js
    litertjs/                       LiteRT.js, the work of other people; vendor.py fetches it

`write_page` puts them and the network into one file: scripts as they are, everything else as gzip
in base85. See docs/page.md.
"""

import base64
import gzip
import hashlib
import html
import json
import logging
import re
from pathlib import Path

from catdog import files
from catdog.files import counted, printable
from catdog.runs import novelty
from catdog.runs.page.convert import small_network
from catdog.runs.page.vendor import FOLDER as LITERT
from catdog.runs.page.vendor import VERSION
from catdog.runs.run import Run

FOLDER = Path(__file__).parent
MOST_BYTES = 8_000_000  # larger files are refused by some mail servers and messengers

logger = logging.getLogger(__name__)


def write_page(run: Run, network, path: Path) -> None:
    """Write a page that runs the network of a run in a browser; warn if it is over 8 MB.

    Args:
        run: for classes and where the network is from.
        network: the `answering` graph of the run.
        path: the HTML file; one that exists is replaced.
    Raises:
        UserError: the run cannot be read, its network cannot be converted, or the file cannot be
            written.
    """
    # Where model.tflite has float32 weights, eight bits were measured to be worse.
    content = small_network(network, try_eight_bit=run.config.get("litert_weights") != "float32")
    text = fill_page(run, network, content).encode()
    with files.atomic_file(Path(path)) as temporary:
        temporary.write_bytes(text)
    if len(text) > MOST_BYTES:
        logger.warning(
            f"{path} has {len(text) / 1e6:.1f} MB: the network has "
            f"{network.count_params():,} weights"
        )


def fill_page(run: Run, network, content: bytes) -> str:
    """Return the HTML of a page.

    Args:
        network: its `answering` graph.
        content: the .tflite file of `network`, for one photo at a time.
    """
    classes, size = [printable(name) for name in run.config["classes"]], network.input_shape[1]
    known = run.novelty_photos
    about = {"classes": classes, "size": size, "limit": novelty.DEFAULT_LIMIT if known else None}
    mirror = ", and the mirror image" if run.settings.mirror else ""
    style, script = _read("page.css"), _read("page.js")
    litert = fill(_read("runtime.js"), loader=_read("litertjs/litert_wasm.js"), core=_core())
    said = {
        "Run": printable(run.folder.resolve().name),
        "Classes": ", ".join(classes[:10]) + (", ..." if classes[10:] else ""),
        "Trained with": trained_with(run.config),
        "Accuracy": accuracy(run),
        "Input": f"{size} × {size} px{mirror}",
        "Weights": f"{network.count_params():,}",
        "Unknown": _unknown_means(run.config),
        "SHA-256": hashlib.sha256(content).hexdigest(),
    }
    parts = {
        "policy": policy([litert, script], style),
        "title": html.escape(title(classes)),
        "style": style,
        "origin": html.escape(
            "; ".join(filter(None, [f"From the run {said['Run']}", said["Accuracy"]]))
        ),
        "warning": html.escape(warning(classes, known)),
        "facts": _definitions(said),
        "version": VERSION,
        "licence": html.escape(_read("litertjs/LICENSE")),
        "about": json.dumps(about).replace("<", "\\u003c"),  # a name could end the script
        "runtime": base85((LITERT / "litert_wasm.wasm.gz").read_bytes()),
        "network": base85(gzip.compress(content, 9, mtime=0)),
        "litert": litert,
        "script": script,
    }
    return fill(_read("page.html"), **parts)


def fill(template: str, **parts: str) -> str:
    """Return `template` with each {{name}} replaced, once: what is put in is not looked at."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def policy(scripts: list[str], style: str) -> str:
    """Return the Content-Security-Policy: these scripts and this style, and no connection."""
    hashes = " ".join(f"'{_hash(script)}'" for script in scripts)
    return (
        f"default-src 'none'; script-src 'wasm-unsafe-eval' {hashes}; "
        f"style-src '{_hash(style)}'; img-src blob:; base-uri 'none'; form-action 'none'"
    )


def title(classes: list[str]) -> str:
    """Return the title of the page: `Cat or dog?`, or `Which of 120 classes?`."""
    if len(classes) > 4:
        return f"Which of {len(classes):,} classes?"
    text = " or ".join(filter(None, [", ".join(classes[:-1]), classes[-1]]))
    return f"{text[:1].upper()}{text[1:]}?"


def warning(classes: list[str], validation: int = 0) -> str:
    """Return what the page says of photos that show none of the classes.

    Args:
        validation: how many validation photos its novelty rests on.
    """
    known = " and ".join(classes) if len(classes) < 4 else f"its {len(classes):,} classes"
    limit = novelty.DEFAULT_LIMIT
    if novelty.highest(validation) < limit:
        return (
            f"The network knows {known} only. It gives one of these labels to any other photo, too."
        )
    return (
        f"The network knows {known} only. A photo with a novelty of {limit} or more is called "
        f"unknown: at most {1 - limit:.0%} of the photos of {known} are so unlike the training "
        "photos. Some other photos still get one of these labels."
    )


def _unknown_means(config):
    """Return the facts about novelty, or nothing."""
    sizes = config.get("answer", {"photos": 0})
    if not sizes["photos"]:
        return ""
    return (
        f"novelty of {novelty.DEFAULT_LIMIT} or more, by comparison with {sizes['photos']:,} "
        f"training photos, and by the novelty of {sizes['scores']:,} validation photos"
    )


def trained_with(config: dict) -> str:
    """Return how a run was trained, as far as its config.json says so."""
    try:
        settings, photos = config["settings"], config["splits"]["train"]
        epochs = counted(settings["epochs"], "epoch")
        return f"recipe {settings['recipe']}, {epochs}, {counted(photos, 'photo')}"
    except (KeyError, TypeError, ValueError):
        return ""


def accuracy(run: Run) -> str:
    """Return how many held-out photos a run has right, or nothing if it is not finished."""
    try:
        metrics = run.metrics() or {}
        split = "test" if "test" in metrics else "validation"
        score = metrics[split]
        return f"{score['accuracy']:.1%} of {counted(score['images'], f'{split} photo')} correct"
    except (KeyError, TypeError, ValueError):
        return ""


def _definitions(values):
    pairs = ((html.escape(name), html.escape(text)) for name, text in values.items() if text)
    return "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in pairs)


def _core():
    """LiteRT.js as part of a plain script: without its import, export and source map."""
    text = _read("litertjs/core.js")
    text = re.sub(r"^import .*$", "", text, flags=re.MULTILINE)
    return re.sub(r"^export \{.*", "", text, flags=re.MULTILINE | re.DOTALL)


def _read(name):
    return (FOLDER / name).read_text(encoding="utf-8")


def base85(content: bytes) -> str:
    """Return base85 with a comma for <, which HTML could take for a comment: 6% below base64."""
    return base64.b85encode(content).decode().replace("<", ",")


def _base64(content):
    return base64.b64encode(content).decode()


def _hash(text):
    return "sha256-" + _base64(hashlib.sha256(text.encode()).digest())
