"""A run directory: settings, weights, history, and the trained network as a `Classifier`.

    config.json     every setting, versions, classes, image size, split sizes, temperature,
                    and the clip that Kaggle's log loss is best with
    history.csv     a row per epoch, which curves.png draws
    model.keras     the averaged weights after the last epoch, in float32
    model.tflite    the same network as LiteRT, with which predict.py starts at once; see export.py
    trained_on.npy  which photos the network was trained on, as `data.name_hashes`
    metrics.json    the scores on validation and test; written last, it marks a finished run
    checkpoint.npz  while training: all that a resumed run needs

Every file is written under a temporary name and renamed: it is there whole or not at all.
"""

import contextlib
import csv
import io
import json
import os
import zipfile
import zlib
from pathlib import Path

import numpy as np

from catdog import files
from catdog.scores import metrics as report
from catdog.runs import safe_load
from catdog.backend import quiet
from catdog.cli import say
from catdog.errors import UserError
from catdog.files import printable

WEIGHTS = Path(__file__).parents[2] / "weights"  # the run that comes with the project

# --- Writing --------------------------------------------------------------------------------------


def create(run, config):
    """Makes a new run directory with its `config.json`; returns the folders made, inmost first."""
    made = [folder for folder in (run, *run.parents) if not folder.exists()]
    with files.atomic_folder(run) as temporary:
        write_json(temporary / "config.json", config)
    return made


def discard_unprepared(run, made):
    """Removes a run whose photos could not be loaded, with the folders that `create` made."""
    with contextlib.suppress(OSError, UserError):
        if "splits" not in read_json(run / "config.json"):
            (run / "config.json").unlink()
            for folder in made:
                folder.rmdir()


def started_in(run):
    """The current folder as seen from `run`, for `config.json`: no path of this machine in it."""
    try:
        return Path(os.path.relpath(Path.cwd(), run.resolve())).as_posix()
    except ValueError:  # another drive, on Windows
        return str(Path.cwd())


def from_here(run, config, key):
    """A path that was typed where the run was started, as it is typed in the current folder."""
    folder = Path(run, config.get("started_in", "")).resolve()
    path = folder / config[key]
    moved = "started_in" not in config or not (folder / config["data_dir"]).exists()
    return config[key] if moved or folder == Path.cwd() else str(path)


def write_json(path, content):
    with files.atomic_file(path) as temporary:
        temporary.write_text(json.dumps(json.loads(report.to_json(content)), indent=2) + "\n")


def write_history(run, rows):
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with files.atomic_file(run / "history.csv") as temporary:
        temporary.write_text(text.getvalue())


def write_checkpoint(run, state, arrays):
    """Keeps a `state` that JSON can hold and a list of arrays, in one file."""
    named = {f"array{i}": array for i, array in enumerate(arrays)}
    with files.atomic_file(run / "checkpoint.npz") as temporary:
        np.savez(temporary, state=np.array(json.dumps(state)), **named)


def read_checkpoint(run):
    """(state, arrays) as they were written, or None where there is no checkpoint."""
    try:
        with np.load(run / "checkpoint.npz", allow_pickle=False) as file:
            arrays = [file[f"array{i}"] for i in range(len(file.files) - 1)]
            return json.loads(str(file["state"])), arrays
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        path = printable(run / "checkpoint.npz")
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "damaged"
        raise UserError(f"--resume: cannot read {path}: {reason}; without that file the run "
                        "starts from its first epoch") from None


def check_resumable(run):
    """Raises `UserError` where a run has lost files, so that going on would train it anew."""
    model, scored, begun = ((run / name).exists() for name in (
        "model.keras", "metrics.json", "checkpoint.npz"))
    if scored and not model:
        raise UserError(f"--resume: expected model.keras in {printable(run)}, whose metrics.json "
                        "says that it is finished: start a new run")
    if model and not scored and not begun:
        raise UserError(f"--resume: expected checkpoint.npz or metrics.json beside the model.keras "
                        f"in {printable(run)}, got neither: evaluate.py scores that network, and a "
                        "new run trains another")


def save_network(run, network):
    """Writes `model.keras`: architecture and weights, without the optimizer's state."""
    with files.atomic_file(run / "model.keras") as temporary:
        network.save(temporary)


def write_trained_on(run, dataset, init=None):
    """Keeps which photos the network was trained on, those of the run `init` among them."""
    import data

    hashes = data.name_hashes([dataset.names[i] for i in dataset.splits["train"]])
    before = None if init is None else _read_trained_on(init)
    with files.atomic_file(run / "trained_on.npy") as temporary:
        np.save(temporary, hashes if before is None else np.union1d(hashes, before))


def trained_on(run, dataset, members):
    """(m,) bool, whether the network was trained on each; None where the run does not say."""
    import data

    known = _read_trained_on(run)
    if known is None:
        return None
    return np.isin(data.name_hashes([dataset.names[i] for i in members]), known)


def _read_trained_on(run):
    try:
        return np.load(Path(run) / "trained_on.npy", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None


def finish(run, metrics):
    """Marks a run as finished and removes its checkpoint."""
    write_json(run / "metrics.json", metrics)
    clean(run)


def clean(run):
    """Removes from a finished run the checkpoint, and what a process left that was killed."""
    (run / "checkpoint.npz").unlink(missing_ok=True)
    files.remove_leftovers(run)


def is_finished(run):
    return (run / "metrics.json").exists()


# --- Reading --------------------------------------------------------------------------------------


def read_json(path, flag="--model"):
    """The object in the `config.json` of a run."""
    try:
        safe_load.check_regular(path)
        config = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{flag}: expected a run directory with a config.json, "
                        f"got {printable(path.parent)}") from None
    except OSError as error:
        raise UserError(f"{flag}: cannot read {printable(path)}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{flag}: {printable(path)} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise UserError(f"{flag}: {printable(path)} is not what train.py writes")
    return config


def read_config(run, flag="--model"):
    """The content of `config.json`; `UserError` where `run` is no run directory."""
    path = Path(run) / "config.json"
    config = read_json(path, flag)
    try:
        names, size, temperature = (
            config["classes"], config["score_size"], config.get("temperature", 1.0))
        whole = (isinstance(names, list) and len(names) > 1
                 and all(isinstance(name, str) for name in names)
                 and isinstance(size, int) and 0 < size <= 1280  # --image-size 1024 and a quarter
                 and isinstance(temperature, int | float) and 0 < temperature < 1000)
    except (TypeError, KeyError, AttributeError):
        whole = False
    if not whole:
        raise UserError(f"{flag}: {printable(path)} is not what train.py writes: expected classes, "
                        "score_size and temperature")
    return config


def chosen(model):
    """The run directory that `--model` names: `WEIGHTS` where it is None."""
    if model is None and not WEIGHTS.is_dir():
        raise UserError("--model: expected the run directory of a trained network, which "
                        "python train.py writes; there is none at weights/ to do without it")
    if model is None and WEIGHTS.is_relative_to(Path.cwd()):
        return WEIGHTS.relative_to(Path.cwd())
    return Path(model or WEIGHTS)


def read_history(run):
    """The rows of `history.csv`, of text; none where there is no such file."""
    try:
        with open(run / "history.csv", newline="") as file:
            return list(csv.DictReader(file))
    except (OSError, ValueError):
        return []


def load_network(path, flag="--model"):
    """Loads the `.keras` file of a run; see `safe_load` for what is refused."""
    if not os.path.lexists(path):
        raise UserError(f"{flag}: expected a finished run, got {printable(path.parent)} "
                        f"without a {path.name}")
    config = read_config(path.parent, flag)
    try:
        with quiet():
            import keras
        safe_load.check_keras(path, config["score_size"], len(config["classes"]))
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except zipfile.BadZipFile:
        raise UserError(
            f"{flag}: cannot load {printable(path)}: not a whole .keras file") from None
    except Exception as error:  # Keras raises many kinds on a file that is no model
        reason = printable(" ".join(str(error).split()) or type(error).__name__)[:300]
        raise UserError(f"{flag}: cannot load {printable(path)}: {reason}") from None


def keras_runtime(run, image_size):
    """A function of float32 photos that runs `model.keras` and returns the dict of its outputs."""
    network = load_network(run / "model.keras")
    import model

    network = model.for_prediction(network, image_size)

    def outputs(photos):
        values = network.predict_on_batch(photos)
        return {name: np.asarray(value) for name, value in values.items()}

    return outputs


def litert_runtime(path, config, sha256=None):
    """As `keras_runtime`, for a `.tflite` file, on all cores; needs neither Keras nor TensorFlow.

    config: of the run; sha256: what the file must have, or None. Raises FileNotFoundError, or
    ImportError where `ai-edge-litert` is not installed.
    """
    if not os.path.lexists(path):
        raise FileNotFoundError(f"{printable(path)} is not there")

    def refuse(error):
        reason = printable(" ".join(str(error).split()) or type(error).__name__)[:300]
        return UserError(f"--model: cannot load {printable(path)}: {reason}; without that file, "
                         "predict.py uses model.keras")

    def outputs(photos):
        try:
            return runner(photos=photos)
        except (ValueError, RuntimeError) as error:
            raise refuse(error) from None

    with quiet():  # it tells of every delegate that it makes
        from ai_edge_litert.interpreter import Interpreter

        try:
            safe_load.check_litert_file(path)
            if sha256 and files.sha256(path) != sha256:
                raise ValueError("not the file that train.py or export.py wrote: its sha256 "
                                 "is another than config.json says")
            interpreter = Interpreter(os.fspath(path), num_threads=os.cpu_count())
            safe_load.check_litert_network(interpreter, path.stat().st_size, config["score_size"],
                                           len(config["classes"]))
            interpreter.allocate_tensors()
            runner = interpreter.get_signature_runner()
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            raise refuse(error) from None
    return outputs


class Classifier:
    """A trained network that answers with probabilities.

    classes: names; image_size: height and width in px of the photos that it takes; runtime: what
    computes, `LiteRT` or `Keras`.
    """

    def __init__(self, run, litert=False, mirror=True):
        """Loads a run; `UserError` says in one line why it cannot.

        litert: run `model.tflite`, which starts ten times sooner than Keras; where that cannot be,
            says why and uses Keras.
        mirror: average over the mirror image, as in training, where the temperature is fitted.
        """
        self.run = Path(run)
        self.config = read_config(run)
        self.classes = self.config["classes"]
        self.image_size = self.config["score_size"]
        self.temperature = self.config.get("temperature", 1.0)
        self.clip = self.config.get("clip", 0.005)
        self.mirror = mirror
        self._outputs = None
        if litert:
            try:
                self._outputs = litert_runtime(
                    self.run / "model.tflite", self.config, self.config.get("litert_sha256"))
            except (FileNotFoundError, ImportError) as error:
                say(f"{error}: using Keras, which takes seconds to start")
        self.runtime = "LiteRT" if self._outputs else "Keras"
        if not self._outputs:
            self._outputs = keras_runtime(self.run, self.image_size)

    def outputs(self, images):
        """What the network says of each photo, the mean of that and of what it says of its mirror.

        Args:
            images: uint8 (n, image_size, image_size, 3).
        Returns:
            A dict. logits: float32 (n, 1) for two classes, (n, classes) beyond. evidence: (n,
            height, width, 1 or classes), the share of every region in the logits, which are their
            mean; missing where the network is not globally average-pooled.
        """
        images = np.asarray(images, np.float32)
        outputs = self._outputs(images)
        expected, got = len(self.classes), outputs["logits"].shape[-1]
        if got != (1 if expected == 2 else expected):
            raise UserError(f"--model: expected a network of {expected} classes, as config.json "
                            f"says, got one of {got} outputs in {printable(self.run)}")
        if not self.mirror:
            return outputs
        mirrored = self._outputs(images[:, :, ::-1])
        if "evidence" in mirrored:
            mirrored["evidence"] = mirrored["evidence"][:, :, ::-1]
        return {name: (value + mirrored[name]) / 2 for name, value in outputs.items()}

    def logits(self, images):
        """The logits of `outputs` alone."""
        return self.outputs(images)["logits"]

    def probabilities(self, logits):
        """float (n, classes), rows sum to 1, calibrated by the run's temperature."""
        return report.probabilities_from_logits(logits, self.temperature)

    def logits_of(self, dataset, members, on_progress=lambda done, total: None):
        """The logits of photos of a data set; `on_progress` hears (done, total)."""
        logits = []
        for batch in dataset.batches(members):
            logits.append(self.logits(batch))
            on_progress(sum(map(len, logits)), len(members))
        return np.concatenate(logits)

    def calibrate(self, logits, labels):
        """Fits temperature and clip on photos that training did not see; keeps them in the run."""
        self.temperature = report.fit_temperature(logits, labels)
        self.config["temperature"] = self.temperature
        if len(self.classes) == 2:
            self.config["clip"] = report.fit_clip(self.probabilities(logits)[:, 1], labels)
        write_json(self.run / "config.json", self.config)
