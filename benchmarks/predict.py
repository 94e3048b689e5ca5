"""Measure predict.py beside Keras: one photo from a cold start, and many photos.

    python -m benchmarks.predict                    programs and runtimes, with one network
    python -m benchmarks.predict --other RUN        two model.tflite files on the same photos

A cold start is a whole process, with the files in the system's cache.
"""

import atexit
import functools
import itertools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

import model
from benchmarks import measuring
from catdog import cli
from catdog.errors import UserError
from catdog.files import printable
from catdog.photos import decode
from catdog.photos.photo import PhotoError
from catdog.runs.classifier import Classifier
from catdog.runs.run import Run

SCORED_BATCH = 64  # photos; that of evaluate.py
KEPT = 256  # photos that are decoded for measuring the network alone
PASS_SECONDS = 2  # of a measurement of the network alone
COMPARED = 2500  # photos, at most, for which two files are compared

# What a tutorial does.
KERAS_ONE = """
import sys
import keras
import numpy as np
model = keras.saving.load_model(sys.argv[1], compile=False)
size = int(sys.argv[2])
photo = keras.utils.load_img(sys.argv[3], target_size=(size, size))
logit = model.predict(keras.utils.img_to_array(photo)[None], verbose=0)[0, 0]
print(sys.argv[3], "dog" if logit > 0 else "cat", 1 / (1 + np.exp(-abs(logit))))
"""

KERAS_MANY = r"""
import sys
import keras
import tensorflow as tf
model = keras.saving.load_model(sys.argv[1], compile=False)
size = int(sys.argv[2])
paths = sys.stdin.read().splitlines()
def load(path):
    photo = tf.io.decode_image(tf.io.read_file(path), channels=3, expand_animations=False)
    return tf.image.resize(photo, (size, size), antialias=True)
dataset = tf.data.Dataset.from_tensor_slices(paths).map(load, tf.data.AUTOTUNE)
logits = model.predict(dataset.ignore_errors().batch(32).prefetch(2), verbose=0)
print(*logits[:, 0], sep="\n")
"""


def run_process(command: Sequence, paths: Sequence[str] = ()) -> tuple[float, float]:
    """Run a process with paths on stdin; return its seconds and its peak memory in MB.

    Raises:
        UserError: it failed. (Exit code 1 of predict.py means that some photos are broken.)
    """
    started = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=measuring.ROOT,
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    process.stdin.write(os.fsencode("\n".join(paths)))
    process.stdin.close()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1):
        raise UserError(f"exit code {process.returncode} of {' '.join(map(str, command[:4]))}")
    return seconds, usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def decoded(paths: Sequence[str], size: int) -> Iterator[np.ndarray]:
    """Yield the photos that can be read, uint8 (size, size, 3)."""
    for batch in decode.Stream(((path, None) for path in paths), size).batches():
        yield from (image for _, image in batch if not isinstance(image, PhotoError))


def network_rate(classifier: Classifier, images: np.ndarray, size: int) -> Callable[[], float]:
    """Return a function that measures the photos/s of a network, in batches of `size` photos."""

    def rate():
        count, started = 0, time.perf_counter()
        for start in itertools.cycle(range(0, len(images), size)):
            count += len(classifier.outputs(images[start : start + size])["probabilities"])
            seconds = time.perf_counter() - started
            if seconds > PASS_SECONDS:
                return count / seconds

    return rate


@functools.cache
def plain_keras(folder: Path) -> Path:
    """Return a file of the network alone, which Keras loads without this project."""
    path = Path(tempfile.mkdtemp()) / "network.keras"
    atexit.register(shutil.rmtree, path.parent)
    # In a process of its own: the memory of Keras in this one would count as that of others.
    code = "import sys, model; model.load(sys.argv[1]).network.save(sys.argv[2])"
    subprocess.run([sys.executable, "-c", code, folder, path], check=True)
    return path


def cold_start(folder: Path, size: int, path: str, seconds: float, pairs: int) -> dict:
    """Measure both programs from process start to process end with one photo, in turns."""
    keras = [sys.executable, "-c", KERAS_ONE, str(plain_keras(folder)), str(size), path]
    ours = [sys.executable, "predict.py", "--model", str(folder), path]
    ways = {"predict.py": lambda: run_process(ours), "Keras script": lambda: run_process(keras)}
    measured = measuring.in_turns(ways, seconds, pairs)
    times = {name: [each for each, _ in values] for name, values in measured.items()}
    return {
        "seconds": times,
        "memory_mb": {name: max(memory for _, memory in v) for name, v in measured.items()},
        "ratio": measuring.ratio(times["Keras script"], times["predict.py"]),
    }


def bulk(folder: Path, paths: list[str], budget: measuring.Budget) -> tuple[int, dict]:
    """Measure predict.py, its two limits, and Keras on the same photos.

    Returns:
        The number of photos that the programs are given; {name: {photos_per_second, memory_mb}}.
    """
    classifier = Classifier(folder, model.load)
    size = classifier.score_size
    images = np.stack(list(decoded(paths[:KEPT], size)))
    ways = {
        "decoding alone": lambda: (
            len(paths[:KEPT]) / measuring.timed(lambda: list(decoded(paths[:KEPT], size)))[0]
        ),
        "network alone": network_rate(classifier, images, decode.BATCH),
    }
    rates = measuring.medians(measuring.in_turns(ways, budget.left() / 5, budget.turns))
    result = {name: {"photos_per_second": rate, "memory_mb": None} for name, rate in rates.items()}

    # predict.py takes a fifth of the time that is left, the others about half of that.
    paths = paths[: max(64, int(rates["network alone"] * budget.left() / 5))]
    command = [sys.executable, "predict.py", "--model", str(folder)]
    programs = {
        "predict.py": [*command, "-"],
        "Keras model.predict, no mirror image": [
            sys.executable, "-c", KERAS_MANY, str(plain_keras(folder)), str(size)
        ],
    }  # fmt: skip
    for name, program in programs.items():
        seconds, memory = run_process(program, paths)
        result[name] = {"photos_per_second": len(paths) / seconds, "memory_mb": memory}
        cli.say(f"{name}: {len(paths) / seconds:.1f} photos/s")

    # Last: the memory of this process, into which Keras is loaded here, would count as theirs.
    keras = Classifier(folder, model.load, runtime="keras")
    ways = {
        f"evaluate.py, {each.runtime}": network_rate(each, images, SCORED_BATCH)
        for each in (classifier, keras)
    }
    rates = measuring.medians(measuring.in_turns(ways, budget.left() / 2, budget.turns))
    result |= {name: {"photos_per_second": rate, "memory_mb": None} for name, rate in rates.items()}
    return len(paths), result


def measure(folder: Path, paths: list[str], args) -> tuple[list[str], dict, dict[str, float]]:
    """Measure programs and runtimes; return Markdown, figures, and photos/s by name."""
    budget = measuring.Budget(args)
    size = Run(folder).config["score_size"]
    start = cold_start(folder, size, paths[0], budget.seconds / 4, args.pairs or budget.turns)
    photos, many = bulk(folder, paths, budget)
    rates = {name: row["photos_per_second"] for name, row in many.items()}
    share = rates["predict.py"] / min(rates["decoding alone"], rates["network alone"])
    text = [
        measuring.table(
            ["one photo, cold start", "seconds", "MB of memory"],
            [
                [name, median, start["memory_mb"][name]]
                for name, median in measuring.medians(start["seconds"]).items()
            ],
        ),
        f"The Keras script takes {start['ratio']:.1f} times as long.",
        measuring.table(
            [f"many photos, {photos:,} for each program", "photos/s", "MB of memory"],
            [[name, *row.values()] for name, row in many.items()],
        ),
        f"`predict.py` reaches {share:.0%} of the slower limit.",
    ]
    return text, {"cold_start": start, "photos": photos, "bulk": many}, rates


def compare(folder: Path, other: Path, paths: list[str], args) -> tuple[list[str], dict, dict]:
    """Compare the `model.tflite` of two runs; return what `measure` does."""
    budget = measuring.Budget(args)
    with cli.blame("--model"):
        first = Classifier(folder)
    with cli.blame("--other"):
        second = Classifier(other)
        if (second.classes, second.score_size) != (first.classes, first.score_size):
            raise UserError(
                f"expected a run of the same classes and image size as {printable(folder)}, got "
                f"others in {printable(other)}"
            )
    classifiers = (first, second)
    seconds, answers = ([], []), ([], [])
    images = np.stack(list(decoded(paths[:COMPARED], first.score_size)))
    for classifier in classifiers:
        classifier.outputs(images[:SCORED_BATCH])  # the first call is slower
    for start in range(0, len(images), SCORED_BATCH):
        batch = images[start : start + SCORED_BATCH]
        for side in (0, 1) if start % (2 * SCORED_BATCH) else (1, 0):  # they alternate
            took, found = measuring.timed(lambda s=side, b=batch: classifiers[s].outputs(b))
            seconds[side].append(took / len(batch))
            answers[side].append(found["probabilities"])
        if not budget.left():
            break
    answers = [np.concatenate(values) for values in answers]
    labels = [values.argmax(1) for values in answers]
    names = (f"A: {printable(folder)}", f"B: {printable(other)}")
    rates = {name: 1 / statistics.median(s) for name, s in zip(names, seconds, strict=True)}
    result = {
        "photos": len(answers[0]),
        "photos_per_second": rates,
        "ratio": measuring.ratio(seconds[0], seconds[1]),
        "largest_difference": float(np.abs(answers[0] - answers[1]).max()),
        "labels_changed": int((labels[0] != labels[1]).sum()),
    }
    text = [
        measuring.table(["model.tflite of", "photos/s"], rates.items()),
        f"On the same {result['photos']:,} photos, B is {result['ratio']:.2f} times as fast as A. "
        f"The largest difference of a probability is {result['largest_difference']:.2g}; "
        f"{result['labels_changed']:,} labels differ.",
    ]
    return text, result, rates


def main(argv=None):
    parser = measuring.parser(__doc__.splitlines()[0], "predict", seconds=600)
    add = parser.add_argument
    add("--model", metavar="RUN", help="a run directory of two classes (default: weights)")
    add("--other", metavar="RUN", help="compare the model.tflite of --model with that of RUN alone")
    add("--pairs", type=cli.whole_number(1), metavar="N", help="cold starts of each, at most")
    add("--limit", type=cli.whole_number(1), metavar="N", help="photos, at most (default: all)")
    args = parser.parse_args(argv)
    with cli.blame("--model"):
        folder = Run(args.model).folder
        size = Run(folder).config["score_size"]
    _, found, words = measuring.find_photos(args.data_dir)
    numbers = measuring.take(found, args.limit or (300 if args.quick else len(found.paths)))
    paths = [str((found.root / found.paths[number]).resolve()) for number in numbers]
    if args.other:
        text, result, rates = compare(folder, Path(args.other), paths, args)
    else:
        text, result, rates = measure(folder.resolve(), paths, args)
    save = measuring.bars(f"Prediction at {size} px", "photos/s", rates)
    text = [f"{len(paths):,} of {words}, at {size} px", *text]
    measuring.write("predict", args, text, {"image_size": size, **result}, save)
    return 0


if __name__ == "__main__":
    cli.run(main)
