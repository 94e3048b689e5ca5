"""Measures predict.py beside Keras: from a cold start with one photo, and with many photos.

Every row of the first table is a whole process. Runs of both kinds take turns, so that whatever
else the machine does meets both; the ratio is the median of the pairs'.
"""

import itertools
import os
import subprocess
import sys
import time

import numpy as np

from benchmarks import measuring
from catdog import cli as terminal
from catdog.cli import say, whole_number
from catdog.errors import UserError
from catdog.photos import decode as stream
from catdog.photos import photo as photos
from catdog.runs import run as runs

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


def measure(command, lines=None, exit_codes=(0,)):
    """Runs a process to its end; returns its seconds and its peak memory in MB."""
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=measuring.ROOT, stdin=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    process.stdin.write(os.fsencode("\n".join(lines or [])))
    process.stdin.close()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in exit_codes:
        raise UserError(f"exit code {process.returncode} of {command[:4]}")
    return seconds, usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def cold_start(run, size, photo, pairs):
    """Both ways from process start to process end with one photo, in turns."""
    ways = {
        "predict.py": [sys.executable, "predict.py", "--model", str(run), photo],
        "Keras script": [sys.executable, "-c", KERAS_ONE, str(run / "model.keras"), str(size),
                         photo],
    }
    for command in ways.values():
        measure(command)  # from here on, the files are in the system's cache for both
    measured = measuring.in_turns(
        {name: lambda command=command: measure(command) for name, command in ways.items()}, pairs)
    seconds = {name: [each for each, _ in values] for name, values in measured.items()}
    rows = {name: {**measuring.spread(seconds[name]),
                   "memory_mb": max(memory for _, memory in values)}
            for name, values in measured.items()}
    ratio = measuring.ratio(seconds["Keras script"], seconds["predict.py"])
    return {"pairs": pairs, "rows": rows, "ratio": ratio}


def bulk(run, paths):
    """Photos a second of predict.py, of its two limits, and of Keras, on the same files."""
    result = {}

    def add(name, seconds, count, memory=None):
        result[name] = {"photos_per_second": count / seconds, "seconds": seconds,
                        "memory_mb": memory}
        say(f"{name}: {count / seconds:.1f} photos/s")

    classifier = runs.Classifier(run, litert=True)
    size = classifier.image_size
    started = time.perf_counter()
    images = []
    for batch in stream.Stream(((path, None) for path in paths), size).batches():
        # Few are kept: memory is measured too.
        images += [image for _, image in batch if not isinstance(image, photos.PhotoError)][
            : max(0, 256 - len(images))]
    add("decoding alone", time.perf_counter() - started, len(paths))

    images = np.stack(images)
    for mirror, name in ((True, "network alone"), (False, "network alone, no mirror image")):
        classifier.mirror = mirror
        count = 0
        started = time.perf_counter()
        for start in itertools.cycle(range(0, len(images), stream.BATCH)):
            batch = images[start : start + stream.BATCH]
            classifier.logits(batch)
            count += len(batch)
            if count >= len(paths) or time.perf_counter() - started > 60:
                break
        add(name, time.perf_counter() - started, count)

    command = [sys.executable, "predict.py", "--model", str(run)]
    for name, flags in (("predict.py", ["-"]), ("predict.py --no-tta", ["--no-tta", "-"])):
        seconds, memory = measure([*command, *flags], paths, exit_codes=(0, 1))  # 1: broken photos
        add(name, seconds, len(paths), memory)
    keras = [sys.executable, "-c", KERAS_MANY, str(run / "model.keras"), str(size)]
    seconds, memory = measure(keras, paths)
    add("Keras model.predict, no mirror image", seconds, len(paths), memory)

    limit = min(result["decoding alone"]["photos_per_second"],
                result["network alone"]["photos_per_second"])
    return {"photos": len(paths), **result,
            "share_of_slower_limit": result["predict.py"]["photos_per_second"] / limit}


def text_of(start, many):
    """Both results as paragraphs of Markdown."""
    rates = {name: row for name, row in many.items() if isinstance(row, dict)}
    return [
        measuring.table(
            ["one photo, cold start", "seconds", "fastest", "slowest", "MB of memory"],
            [[name, row["median"], row["lowest"], row["highest"], row["memory_mb"]]
             for name, row in start["rows"].items()]),
        f"{start['ratio']:.1f} times quicker, the median of {start['pairs']} pairs.",
        measuring.table(
            [f"{many['photos']:,} photos", "photos/s", "MB of memory"],
            [[name, row["photos_per_second"], row["memory_mb"]] for name, row in rates.items()]),
        f"predict.py reaches {many['share_of_slower_limit']:.0%} of the slower limit.",
    ]


def main(argv=None):
    parser = measuring.parser(__doc__.splitlines()[0], "predict")
    add = parser.add_argument
    add("--model", metavar="RUN", help="a run directory of two classes (default: weights)")
    add("--pairs", type=whole_number(1), metavar="N",
        help="cold starts of each kind (default: 10; --quick: 3)")
    add("--limit", type=whole_number(1), metavar="N",
        help="photos in bulk (default: all; --quick: 300)")
    args = parser.parse_args(argv)
    run = runs.chosen(args.model).resolve()
    size = runs.read_config(run)["score_size"]
    _, found, words = measuring.find_photos(args.data_dir)
    numbers = measuring.take(found, args.limit or (300 if args.quick else len(found.paths)))
    paths = [str((found.root / found.paths[number]).resolve()) for number in numbers]
    start = cold_start(run, size, paths[0], args.pairs or (3 if args.quick else 10))
    many = bulk(run, paths)

    def draw(axis):
        measuring.bars(axis, {name: row["photos_per_second"] for name, row in many.items()
                              if isinstance(row, dict)})

    save = measuring.plot(f"Prediction of {len(paths):,} photos at {size} px", "photos a second",
                          "", draw, logarithmic="x")
    text = [f"{len(paths):,} of {words}, at {size} px", *text_of(start, many)]
    result = {"photos": words, "image_size": size, "cold_start": start, "bulk": many}
    measuring.write("predict", args, text, result, save)
    return 0


if __name__ == "__main__":
    terminal.run(main)
