"""Measures predict.py beside Keras: from a cold start with one photo, and with many photos.

    python benchmarks/predict.py --model RUN FOLDER

Every row of the first table is a whole process. Runs of both kinds take turns, so that whatever
else the machine does meets both; the ratio is the median of the pairs'.
"""

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import files  # noqa: E402
import photos  # noqa: E402  found through the line above
import report  # noqa: E402
import runs  # noqa: E402
import stream  # noqa: E402
import terminal  # noqa: E402
from terminal import UserError, say, whole_number  # noqa: E402

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

KERAS_MANY = """
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


def measure(command, lines=None):
    """Runs a process to its end; returns its seconds and its peak memory in MB."""
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL)
    process.stdin.write(os.fsencode("\n".join(lines or [])))
    process.stdin.close()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1):  # 1: some photos are broken
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
    measured = {name: [] for name in ways}
    for _ in range(pairs):
        for name, command in ways.items():
            measured[name].append(measure(command))
    result = {name: {"seconds": statistics.median(seconds for seconds, _ in values),
                     "fastest": min(seconds for seconds, _ in values),
                     "slowest": max(seconds for seconds, _ in values),
                     "memory_mb": max(memory for _, memory in values)}
              for name, values in measured.items()}
    ratios = [slow / quick for (quick, _), (slow, _) in zip(*measured.values(), strict=True)]
    return {"pairs": pairs, **result, "ratio": statistics.median(ratios)}


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
        seconds, memory = measure([*command, *flags], paths)
        add(name, seconds, len(paths), memory)
    keras = [sys.executable, "-c", KERAS_MANY, str(run / "model.keras"), str(size)]
    seconds, memory = measure(keras, paths)
    add("Keras model.predict, no mirror image", seconds, len(paths), memory)

    limit = min(result["decoding alone"]["photos_per_second"],
                result["network alone"]["photos_per_second"])
    return {"photos": len(paths), **result,
            "share_of_slower_limit": result["predict.py"]["photos_per_second"] / limit}


def table(result):
    """The result as lines of text."""
    start, many = result["cold_start"], result["bulk"]
    lines = ["| one photo, cold start | median | fastest-slowest | memory |", "|---|---|---|---|"]
    for name in ("predict.py", "Keras script"):
        row = start[name]
        lines.append(f"| {name} | {row['seconds']:.2f} s | {row['fastest']:.2f}-"
                     f"{row['slowest']:.2f} s | {row['memory_mb']:.0f} MB |")
    lines += [f"\n{start['ratio']:.1f} times quicker, the median of {start['pairs']} pairs.\n",
              f"| {many['photos']:,} photos | photos/s | memory |", "|---|---|---|"]
    for name, row in many.items():
        if isinstance(row, dict):
            memory = f"{row['memory_mb']:.0f} MB" if row["memory_mb"] else ""
            lines.append(f"| {name} | {row['photos_per_second']:.1f} | {memory} |")
    lines.append(f"\npredict.py reaches {many['share_of_slower_limit']:.0%} of the slower limit.")
    return "\n".join(lines)


def main(argv=None):
    parser = argparse.ArgumentParser(description="Measures predict.py beside Keras.")
    add = parser.add_argument
    add("folder", metavar="FOLDER", help="photos, searched with all folders below")
    add("--model", required=True, metavar="RUN", help="a run directory of two classes")
    add("--pairs", type=whole_number(1), default=10, metavar="N", help="cold starts of each kind "
        "(default: 10)")
    add("--limit", type=whole_number(1), metavar="N", help="photos in bulk (default: all)")
    add("--output", metavar="FILE", help="write the figures as JSON, too")
    args = parser.parse_args(argv)
    run = Path(args.model).resolve()
    found = photos.find_files(Path(args.folder).resolve())
    paths = list(itertools.islice(found, args.limit))
    if not paths:
        raise UserError(f"FOLDER: expected photos, got none in {terminal.printable(args.folder)}")
    config = runs.read_config(run)
    cores = os.cpu_count()
    result = {
        "machine": f"{platform.system()} {platform.machine()}, {cores} cores",
        "python": platform.python_version(),
        "image_size": config["score_size"],
        "cold_start": cold_start(run, config["score_size"], paths[0], args.pairs),
        "bulk": bulk(run, paths),
    }
    print(table(result))
    if args.output:
        with files.whole_file(Path(args.output)) as temporary:
            temporary.write_text(json.dumps(json.loads(report.to_json(result)), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    terminal.run_program(main)
