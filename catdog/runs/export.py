"""Writes `model.tflite`, the network of a run for prediction without Keras and TensorFlow.

    python export.py RUN photo.jpg [more.jpg ...]

train.py does it by itself; by hand it is for runs that were copied without the file or trained
where it could not be made. The photos are what the file is checked on.
"""

import argparse
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from catdog import files
from catdog.photos import photo as photos
from catdog.runs import run as runs
from catdog import cli as terminal
from catdog.cli import say
from catdog.errors import UserError

TOLERANCE = 1e-4  # largest difference to Keras of a logit


def export(run, images):
    """Writes `model.tflite` into a run and checks it against Keras.

    In a process of its own: the exporter needs Keras's TensorFlow backend, prints a lot, and on a
    network that it does not know may end the whole process.

    Args:
        run: path of a run directory with its `model.keras`.
        images: uint8 (n, score_size, score_size, 3), photos to check it on.
    Raises:
        UserError: the file cannot be made, or answers differently; there is none then.
    """
    images_file = io.BytesIO()
    np.save(images_file, images)
    environment = {
        **os.environ,
        "KERAS_BACKEND": "tensorflow",
        "CUDA_VISIBLE_DEVICES": "-1",  # a GPU is not needed, rounds more, and may be full
    }
    with files.atomic_file(Path(run) / "model.tflite") as temporary:
        child = subprocess.run(
            [sys.executable, "-c", "import sys; from catdog.runs import export; export.convert(*sys.argv[1:])",
             Path(run).resolve(), temporary.resolve()],
            cwd=Path(__file__).parents[2], env=environment, input=images_file.getvalue(),
            capture_output=True,
        )
        if child.returncode:
            reason = child.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            reason = reason.removeprefix("UserError: ")
            raise UserError(f"cannot export to LiteRT (exit code {child.returncode}): "
                            f"{printable(reason[:300])}")
        digest = files.sha256(temporary)
    config = runs.read_config(run, flag="RUN")
    runs.write_json(Path(run) / "config.json", {**config, "litert_sha256": digest})


def convert(run, path):
    """The child: writes a run's network to `path` and checks it on the photos on stdin."""
    import model

    images = np.load(io.BytesIO(sys.stdin.buffer.read()))
    config = runs.read_config(run)
    network = runs.load_network(Path(run) / "model.keras")
    network = model.for_prediction(network, config["score_size"])
    network.export(path, format="litert", verbose=False)
    litert = runs.litert_runtime(Path(path), config)
    for start in range(0, len(images), 32):
        batch = images[start : start + 32].astype(np.float32)
        expected, got = network.predict_on_batch(batch), litert(batch)
        for name, values in expected.items():
            difference = np.abs(got[name] - np.asarray(values)).max()
            if not difference <= TOLERANCE:
                sys.exit(f"{name} differ from Keras by {difference:.2g}")


def main(argv=None):
    parser = argparse.ArgumentParser(description="Writes model.tflite, with which predict.py "
                                     "starts at once, into a run: anew where it has one.")
    parser.add_argument("run", metavar="RUN", help="a run directory that train.py wrote")
    parser.add_argument("photos", nargs="+", metavar="PHOTO", help="photos to check it on")
    args = parser.parse_args(argv)
    size = runs.read_config(args.run, flag="RUN")["score_size"]
    images = []
    for path in args.photos:
        try:
            images.append(photos.load_photo(path, size))
        except photos.PhotoError as error:
            raise UserError(f"PHOTO: cannot read {printable(path)}: {error}") from None
    export(args.run, np.stack(images))
    say(f"wrote {printable(Path(args.run) / 'model.tflite')}")
    return 0


if __name__ == "__main__":
    terminal.run(main)
