"""What the benchmarks share: photos, turns, medians, and how figures are written down.

Every benchmark measures in turns, so that whatever else the machine does meets all sides, tells
medians, and divides within a turn. It prints a Markdown table on stdout and writes NAME.json and
NAME.png, into tmp/benchmarks or, with --docs, into docs/benchmarks, and then also puts the table
into docs/BENCHMARKS.md.
"""

import argparse
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
from pathlib import Path

import train
from catdog import cli as terminal
from catdog import files
from catdog.cli import say
from catdog.errors import UserError
from catdog.files import printable
from catdog.photos import index as layouts
from catdog.runs import run as runs

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def parser(description, name):
    """An argument parser with the flags that all benchmarks have."""
    made = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    add = made.add_argument
    add("--data-dir", metavar="DIR", help="labelled photos (default: tmp, or drawings if none)")
    add("--quick", action="store_true", help="fewer photos and turns, to see that it works")
    add("--docs", action="store_true", help="write into docs/ instead of tmp/benchmarks")
    add("--name", default=name, help=f"of the files to write (default: {name})")
    return made


# --- Photos ---------------------------------------------------------------------------------------


def find_photos(data_dir):
    """The photos of `data_dir`, of tmp/, or drawings where there are none.

    Returns:
        The folder for --data-dir, a `layouts.Found`, and words that say what they are.
    """
    folder = Path(data_dir or ROOT / "tmp")
    found = layouts.find(folder, ROOT / "tmp" / "cache")
    if found is None and data_dir:
        raise UserError(f"--data-dir: expected labelled photos, got none in {printable(data_dir)}")
    if found is None:
        folder = ROOT / "tmp" / "demo"
        train.draw_demo(folder)
        found = layouts.find(folder)
        return folder, found, f"{len(found.paths):,} drawings of --demo"
    return folder, found, f"{len(found.paths):,} photos"


def take(found, count):
    """Up to `count` of the photos, evenly from all of them: a list of numbers."""
    count = min(count, len(found.paths))
    return [number * len(found.paths) // count for number in range(count)]


def link(root, paths, classes, labels, folder):
    """Makes `folder` with a folder a class, and in it a link to each of the photos."""
    for name in classes:
        (folder / name).mkdir(parents=True)
    for number, (path, label) in enumerate(zip(paths, labels, strict=True)):
        target = (root / path).resolve()
        os.symlink(target, folder / classes[label] / f"{number}{target.suffix}")
    return folder


def copies(found, count, folder, sources=10_000):
    """Makes `folder` with a folder a class, and in them `count` photos.

    `sources` of them are copied; all others are further names (hard links) of these copies, so
    that 1,000,000 need no more room.
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


# --- Time and memory ------------------------------------------------------------------------------


def timed(function):
    """(seconds, what the function returned)."""
    started = time.perf_counter()
    value = function()
    return time.perf_counter() - started, value


def in_turns(ways, turns):
    """Calls each of the functions {name: function} in turn, `turns` times: {name: [results]}."""
    results = {name: [] for name in ways}
    for turn in range(turns):
        for name, way in ways.items():
            results[name].append(way())
            say(f"turn {turn + 1} of {turns}: {name}: {shown(results[name][-1])}")
    return results


def spread(values):
    """{median, lowest, highest} of some numbers."""
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def medians(results):
    """{name: median} of {name: numbers}, such as `in_turns` returns."""
    return {name: statistics.median(values) for name, values in results.items()}


def ratio(above, below):
    """The median of the ratios of two results of `in_turns`, each within its turn."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def anonymous_memory():
    """MB of memory that this process keeps for itself, or None where the system does not tell.

    Without the pages of memory-mapped files, which the system may drop whenever it needs room.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon:"))


def environment(**more):
    """That of this program for another one, which hides by itself what TensorFlow prints."""
    inherited = {**os.environ, **more}
    if terminal.QUIET:
        del inherited["TF_CPP_MIN_LOG_LEVEL"]
    return inherited


def in_a_process(module, *arguments, **more):
    """What `python -m benchmarks.MODULE ARGUMENTS` prints as JSON; `more` of the environment."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
    process = subprocess.run(command, cwd=ROOT, env=environment(**more), stdout=subprocess.PIPE)
    if process.returncode != 0:
        raise UserError(f"exit code {process.returncode} of {shlex.join(command[1:])}")
    return json.loads(process.stdout)


# --- Writing down ---------------------------------------------------------------------------------


def machine():
    """What a figure depends on: processor, cores, versions, date."""
    with terminal.quiet():
        import keras  # noqa: F401  its version is asked for below
    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(":")[1].strip() for line in lines
                         if line.startswith("model name"))
        flags = next(line.split() for line in lines if line.startswith("flags"))
        special = [flag for flag in ("avx2", "avx512f", "amx_bf16") if flag in flags]
        processor += f" ({', '.join(special)})" if special else ""
    except (OSError, StopIteration):
        pass
    return {"processor": processor, "cores": os.cpu_count(), "system": platform.system(),
            "date": f"{datetime.date.today()}", "versions": train.versions()}


def shown(value):
    """A number with three digits that count, or text as it is."""
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value))
    if not isinstance(value, int | float):
        return str(value)
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def table(head, rows):
    """A Markdown table; `rows` are lists of numbers and text."""
    lines = [head, ["---"] * len(head), *([shown(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def plot(title, x_label, y_label, draw, logarithmic=""):
    """A function of a path that writes a picture; `draw(axis)` draws what is in it."""
    from matplotlib.figure import Figure

    from catdog.scores import plots

    def save(path):
        figure = Figure(figsize=(8, 4.5), dpi=120, facecolor="white", layout="constrained")
        axis = figure.subplots()
        axis.set_title(title, loc="left", fontsize=13, fontweight="bold", color=plots.TITLE)
        axis.set_xlabel(x_label, color=plots.TEXT)
        axis.set_ylabel(y_label, color=plots.TEXT)
        plots.style(axis)
        axis.set_prop_cycle(color=plots.COLORS)
        draw(axis)
        if "x" in logarithmic:
            axis.set_xscale("log")
            axis.xaxis.set_major_formatter("{x:,g}")
        if "y" in logarithmic:
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter("{x:,g}")
        if axis.get_legend_handles_labels()[1] and not axis.get_legend():
            axis.legend(frameon=False)
        plots.save(figure, path)

    return save


def bars(axis, values, limit=None):
    """Draws {name: number} as bars, the first on top; `limit` as a dashed line."""
    names = list(values)[::-1]
    drawn = axis.barh(names, [values[name] for name in names], color="#1f5fa8")
    axis.bar_label(drawn, [shown(values[name]) for name in names], padding=3)
    axis.margins(x=0.12)
    if limit:
        axis.axvline(limit, linestyle="--", color="#52606d")


def write(benchmark, args, paragraphs, result, save_plot):
    """Prints the tables and writes them down, with the figures as JSON and the picture.

    Args:
        benchmark: its name as a module.
        args: --docs for a place in docs/ rather than tmp/benchmarks, and the --name of the files.
        paragraphs: Markdown, tables and what there is to say about them.
        result: what JSON can hold.
        save_plot: a function of the path to write the PNG to.
    """
    about = machine()
    versions = about["versions"]
    command = shlex.join(["python", "-m", f"benchmarks.{benchmark}", *sys.argv[1:]])
    origin = (f"`{command}`, {about['date']}, {about['cores']} cores of {about['processor']}, "
              f"TensorFlow {versions['tensorflow']}, Keras {versions['keras']}, "
              f"backend {versions['backend']}")
    text = "\n\n".join([origin, *paragraphs])
    print(text, flush=True)
    folder = DOCS / "benchmarks" if args.docs else ROOT / "tmp" / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    runs.write_json(folder / f"{args.name}.json", {"command": command, **about, **result})
    save_plot(folder / f"{args.name}.png")
    if args.docs:
        put(DOCS / "BENCHMARKS.md", args.name, text)
    say(f"written to {printable(folder)}")


def put(path, name, text):
    """Replaces what stands between the marks of benchmark `name` in a Markdown file."""
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, _, rest = path.read_text(encoding="utf-8").partition(start)
    _, found, after = rest.partition(end)
    if not found:
        raise UserError(f"{printable(path)}: expected the marks {start} and {end}")
    with files.atomic_file(path) as temporary:
        temporary.write_text(f"{before}{start}\n{text}\n{end}{after}", encoding="utf-8")

