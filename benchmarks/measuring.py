"""What the benchmarks share: arguments, photos, measuring in turns, and writing results.

Programs that are compared alternate, so that background load affects all of them alike. Medians
are reported; a ratio is the median of the ratios within each turn. A benchmark prints Markdown
tables on stdout and writes NAME.json, with every measurement, and NAME.png.
"""

import argparse
import dataclasses
import datetime
import json
import os
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

import data
from catdog import backend, cli, files
from catdog.cli import say
from catdog.errors import UserError
from catdog.files import printable
from catdog.photos import drawings, index
from catdog.training.settings import Settings

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
QUICK = 60  # seconds of a benchmark with --quick


def parser(description: str, name: str, seconds: int | None = None) -> argparse.ArgumentParser:
    """Return a parser of the arguments that all benchmarks have.

    Args:
        seconds: the default of --seconds, for benchmarks that have this argument.
    """
    made = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    add = made.add_argument
    add("--data-dir", metavar="DIR", help="labelled photos (default: tmp, or drawings if none)")
    add("--quick", action="store_true", help="fewer photos and turns, to see that it works")
    if seconds:
        add(
            "--seconds",
            type=cli.whole_number(1),
            metavar="N",
            help="about how long to measure; what no time is left for is left out "
            f"(default: {seconds}; with --quick: {QUICK})",
        )
        made.set_defaults(default_seconds=seconds)
    add("--docs", action="store_true", help="write into docs/ instead of tmp/benchmarks")
    add("--name", default=name, help=f"name of the files to write (default: {name})")
    return made


class Budget:
    """The time of a benchmark, from now on.

    Attributes:
        seconds: all of it.
        turns: the most turns to measure.
    """

    def __init__(self, args: argparse.Namespace):
        self.seconds = args.seconds or (QUICK if args.quick else args.default_seconds)
        self.turns = 3 if args.quick else 10
        self._end = time.perf_counter() + self.seconds

    def left(self) -> float:
        """Return the seconds that are left, 0 if it is over."""
        return max(0.0, self._end - time.perf_counter())


# --- Photos ---------------------------------------------------------------------------------------


def find_photos(data_dir: str | None) -> tuple[Path, index.Found, str]:
    """Find the photos of `data_dir`, of tmp/ by default, or draw some if there are none in tmp/.

    Returns:
        The folder, the photos, and text that says what they are.
    Raises:
        UserError: no labelled photos in `data_dir`.
    """
    folder = Path(data_dir or ROOT / "tmp")
    if not data_dir:
        folder.mkdir(exist_ok=True)
    try:
        with cli.blame("--data-dir"):
            found = index.find(folder, ROOT / "tmp" / "cache")
    except index.NoPhotos:
        if data_dir:
            raise
        folder = ROOT / "tmp" / "demo"
        drawings.make_demo(folder, progress=cli.progress("drawing", " pictures"))
        found = index.find(folder)
        return folder, found, f"{len(found.paths):,} drawings of --demo"
    return folder, found, f"{len(found.paths):,} photos"


def take(found: index.Found, count: int) -> list[int]:
    """Return the indices of up to `count` photos, evenly spread over all of them."""
    count = min(count, len(found.paths))
    return [number * len(found.paths) // count for number in range(count)]


def link(
    root: Path, paths: Iterable[str], classes: Sequence[str], labels: Sequence[int], folder: Path
) -> None:
    """Make `folder` with one folder per class, of links to the photos."""
    for name in classes:
        (folder / name).mkdir(parents=True)
    for number, (path, label) in enumerate(zip(paths, labels, strict=True)):
        target = (root / path).resolve()
        os.symlink(target, folder / classes[label] / f"{number}{target.suffix}")


def copies(found: index.Found, count: int, folder: Path, sources: int = 10_000) -> None:
    """Make `folder` with one folder per class, of `count` photos in all.

    `sources` of them are copied; the others are hard links to these copies, so that 1,000,000 need
    no more room.
    """
    for name in found.classes:
        (folder / name).mkdir(parents=True)
    first = []
    for place, number in enumerate(take(found, min(sources, count))):
        path = found.root / found.paths[number]
        first.append((folder / found.classes[found.labels[number]], path.suffix, place))
        shutil.copyfile(path, first[-1][0] / f"{place}{path.suffix}")
    for place in range(len(first), count):
        parent, suffix, source = first[place % len(first)]
        os.link(parent / f"{source}{suffix}", parent / f"{place}{suffix}")


def repeated(dataset: data.Dataset, count: int) -> data.Dataset:
    """Return a data set whose training photos are repeated, to `count` or more in an epoch."""
    members = dataset.splits["train"]
    members = np.tile(members, -(-count // len(members)))
    return dataclasses.replace(dataset, splits={**dataset.splits, "train": members})


# --- Time and memory ------------------------------------------------------------------------------


def random_batch(size: int, count: int, settings: Settings) -> tuple[dict, np.ndarray]:
    """Return inputs and targets of a training step at an image size, of random photos."""
    rng = np.random.default_rng(0)
    photos = rng.integers(0, 256, (count, 200, 200, 3), np.uint8)
    inputs = {"photos": photos, **data.draw(rng, count, size, 200, settings)}
    return inputs, data.targets_of(rng.integers(0, 2, count), 2)


def timed(function: Callable) -> tuple[float, object]:
    """Return the seconds that `function()` took, and what it returned."""
    started = time.perf_counter()
    value = function()
    return time.perf_counter() - started, value


def in_turns(ways: dict[str, Callable], seconds: float, turns: int) -> dict[str, list]:
    """Call functions in turn, after one call of each that is not counted.

    That first call may load files and compile. Functions that no time is left for are left out, but
    never the first two; nor is the first turn.

    Args:
        ways: functions by name.
        seconds: no further turn begins that would not end within so many seconds; half of them are
            for the first calls.
        turns: the most turns.
    Returns:
        What each function returned in each turn, by name: lists of the same length.
    """
    started = time.perf_counter()
    results = {}
    for name, way in ways.items():
        if len(results) >= 2 and time.perf_counter() - started > seconds / 2:
            say(f"{name}: left out, as no time is left")
            continue
        say(f"{name}: once, not counted")
        way()
        results[name] = []
    for turn in range(turns):
        turn_started = time.perf_counter()
        for name, values in results.items():
            values.append(ways[name]())
            say(f"turn {turn + 1}: {name}: {shown(values[-1])}")
        now = time.perf_counter()
        if 2 * now - turn_started > started + seconds:
            break
    return results


def medians(results: dict[str, list[float]]) -> dict[str, float]:
    """Return the median of each list."""
    return {name: statistics.median(values) for name, values in results.items()}


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Return the median of the ratios of two results of `in_turns`, each within its turn."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def anonymous_memory() -> float | None:
    """Return the MB of memory that this process keeps for itself, None if the system has no /proc.

    Pages of memory-mapped files do not count: the system drops them when it needs room.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon:"))


# --- Other processes ------------------------------------------------------------------------------


def environment(**more: str) -> dict[str, str]:
    """Return the environment for another program, which hides by itself what TensorFlow prints."""
    inherited = {**os.environ, **more}
    if not backend.ASKED_FOR:
        inherited.pop(backend.LOG_LEVEL, None)
    return inherited


def in_a_process(module: str, *arguments: object, **more: str) -> dict:
    """Run `python -m benchmarks.MODULE ARGUMENTS`; return the JSON that it prints.

    Args:
        more: environment variables.
    Raises:
        UserError: the process failed.
    """
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
    process = subprocess.run(command, cwd=ROOT, env=environment(**more), stdout=subprocess.PIPE)
    if process.returncode != 0:
        raise UserError(f"exit code {process.returncode} of {shlex.join(command[1:])}")
    return json.loads(process.stdout)


# --- Results --------------------------------------------------------------------------------------


def machine() -> dict:
    """Return what a figure depends on: processor, cores, versions, date."""
    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(x.split(":")[1].strip() for x in lines if x.startswith("model name"))
        flags = next(line.split() for line in lines if line.startswith("flags"))
        special = [flag for flag in ("avx2", "avx512f", "amx_bf16") if flag in flags]
        processor += f" ({', '.join(special)})" if special else ""
    except (OSError, StopIteration):
        pass
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "system": platform.system(),
        "date": f"{datetime.date.today()}",
        "versions": backend.versions(),
    }


def shown(value: object) -> str:
    """Return a number with three significant digits, or text as it is."""
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value))
    if not isinstance(value, int | float):
        return str(value)
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def table(head: list[str], rows: Iterable[Sequence]) -> str:
    """Return a Markdown table of rows of numbers and text."""
    lines = [head, ["---"] * len(head), *([shown(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def plot(
    title: str, x_label: str, y_label: str, draw: Callable, logarithmic: str = ""
) -> Callable[[Path], None]:
    """Return a function of a path that writes a PNG; `draw(axis)` draws what is in it.

    Args:
        logarithmic: "x", "y" or "xy".
    """
    from catdog.scores import plots

    def save(path):
        with plots.picture(path, figsize=(8, 4.5), dpi=120) as figure:
            axis = figure.subplots()
            axis.set(title=title, xlabel=x_label, ylabel=y_label)
            draw(axis)
            for letter in logarithmic:
                axis.set(**{f"{letter}scale": "log"})
                getattr(axis, f"{letter}axis").set_major_formatter("{x:,g}")
            if axis.get_legend_handles_labels()[1]:
                axis.legend()

    return save


def bars(
    title: str, label: str, values: dict[str, float], limit: float | None = None
) -> Callable[[Path], None]:
    """Return a function as `plot` does, of horizontal bars, and of `limit` as a dashed line."""

    def draw(axis):
        drawn = axis.barh(list(values), list(values.values()))
        axis.bar_label(drawn, map(shown, values.values()), padding=3)
        axis.invert_yaxis()
        axis.margins(x=0.12)
        if limit:
            axis.axvline(limit, linestyle="--", color="#52606d")

    return plot(title, label, "", draw, logarithmic="" if limit else "x")


def write(
    benchmark: str,
    args: argparse.Namespace,
    paragraphs: Sequence[str],
    result: dict,
    save_plot: Callable[[Path], None],
) -> None:
    """Print tables and write them down, with the figures as JSON and a picture.

    Args:
        benchmark: its name as a module.
        args: --docs puts the files into docs/ and the tables into docs/BENCHMARKS.md; --name.
        paragraphs: Markdown.
        result: what JSON can hold.
        save_plot: a function of the path of the PNG.
    """
    about = machine()
    versions = about["versions"]
    command = shlex.join(["python", "-m", f"benchmarks.{benchmark}", *sys.argv[1:]])
    origin = (
        f"`{command}`, {about['date']}, {about['cores']} cores of {about['processor']}, "
        f"TensorFlow {versions['tensorflow']}, Keras {versions['keras']}, "
        f"backend {versions['backend']}"
    )
    text = "\n\n".join([origin, *paragraphs])
    print(text, flush=True)
    folder = DOCS / "benchmarks" if args.docs else ROOT / "tmp" / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(folder / f"{args.name}.json", {"command": command, **about, **result})
    save_plot(folder / f"{args.name}.png")
    if args.docs:
        put(DOCS / "BENCHMARKS.md", args.name, text)
    say(f"written to {printable(folder)}")


def put(path: Path, name: str, text: str) -> None:
    """Replace what is between the marks of benchmark `name` in a Markdown file."""
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, _, rest = path.read_text(encoding="utf-8").partition(start)
    _, found, after = rest.partition(end)
    if not found:
        raise UserError(f"expected the marks {start} and {end} in {printable(path)}", "--name")
    with files.atomic_file(path) as temporary:
        temporary.write_text(f"{before}{start}\n{text}\n{end}{after}", encoding="utf-8")
