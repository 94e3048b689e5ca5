"""What `model.py` makes of a trained network: LiteRT, ONNX, OpenVINO, Core ML, and a page.

The packages that ONNX and the next two take are optional; docs/page.md says how to use the files.
"""

import argparse
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from catdog import cli
from catdog.backend import keras, quiet, tf
from catdog.errors import UserError
from catdog.files import check_new, temporary_folder
from catdog.runs.run import Run

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "coreml": ".mlpackage"}
PACKAGES = {"onnx": ("onnx", "tf2onnx"), "openvino": ("openvino",), "coreml": ("coremltools",)}
TOLERANCE = 1e-3  # largest difference to Keras, as a share of the largest output


def flags() -> argparse.ArgumentParser:
    """Return a parent parser of the arguments that say what is made of which network."""
    parser = argparse.ArgumentParser(add_help=False)
    add = parser.add_argument
    # fmt: off
    add("--model", metavar="RUN", help="a run directory that train.py wrote (default: weights)")
    add("--export", choices=("litert", *SUFFIXES),
        help="litert: fit calibration and novelty to the photos of --data-dir and replace the "
        "files of --model; others: write --output")
    add("--output", metavar="FILE", help="the file to export to")
    add("--page", metavar="FILE", help="write an HTML file that runs the network in a browser")
    # fmt: on
    return parser


def are_asked_for(args: argparse.Namespace, parser: argparse.ArgumentParser) -> bool:
    """Return whether the arguments of `flags` ask for a file; exit if they do not fit together."""
    if (args.export in SUFFIXES) != bool(args.output):
        parser.error(f"argument --output: expected with --export {'|'.join(SUFFIXES)}")
    if args.export == "litert" and not args.model:  # weights/ would be fitted to other photos
        parser.error(
            "argument --export: expected --model RUN with litert, which replaces its files"
        )
    if args.model and not (args.export or args.page):
        parser.error("argument --model: expected together with --export or --page")
    if args.page:
        with cli.blame("--page"):
            check_new(args.page, "file")
    return bool(args.export or args.page)


def write(args: argparse.Namespace, run: Run, graph, load_photos: Callable) -> None:
    """Write what the arguments of `flags` ask for.

    Args:
        graph: its `answer.Graph`.
        load_photos: `data.load_for`. To export to LiteRT, the answer is fitted to them.
    """
    from catdog.runs import export, page

    if args.export == "litert":
        args.data_dir = args.data_dir or run.place("data_dir")
        args.cache_dir = args.cache_dir or "tmp/cache"
        dataset = load_photos(run, args, **run.lists)
        if not len(dataset.splits["validation"]):
            raise UserError("expected validation photos, got none", "--data-dir")
        with cli.blame("--export"):
            progress = cli.progress("fitting", " photos")
            weights = export.export(run, graph.network, dataset, progress)
            if weights is None:
                raise UserError("expected a network that LiteRT can run")
        path = run.network_file(".tflite")
        cli.say(f"wrote {path}: {weights} weights, {path.stat().st_size:,} bytes")
    elif args.export:
        with cli.blame("--output"):
            difference = export_as(
                graph.answering, Path(args.output), args.export, run.config["classes"]
            )
        checked = "not compared" if difference is None else f"differs by at most {difference:.1g}"
        cli.say(f"wrote {args.output}; with Keras: {checked}")
    if args.page:
        with cli.blame("--page"):
            page.write_page(run, graph.answering, Path(args.page))
        cli.say(f"wrote {args.page}: open it in a browser")


def export_as(network, path: Path, format: str, classes: list[str]) -> float | None:
    """Export a network and compare the outputs of the file with those of Keras.

    Args:
        network: an `answering` graph; the outputs keep their names. A Core ML file takes one photo
            at a time.
        path: a new file with the suffix of the format. OpenVINO also writes a .bin file beside
            it; Core ML writes a folder.
        format: a key of `SUFFIXES`.
        classes: their names, which the file holds as its metadata `classes`, one per line.
    Returns:
        The largest difference to Keras as a share of the largest output, or None if the runtime
        of the format is not installed here.
    Raises:
        UserError: a package is missing, the path has another suffix or exists, the network cannot
            be converted, or the file answers differently.
    """
    if path.suffix != SUFFIXES[format]:
        raise UserError(f"expected a name that ends in {SUFFIXES[format]}, got {path}")
    check_new(path, "file")
    missing = [name for name in PACKAGES[format] if not importlib.util.find_spec(name)]
    if missing:
        raise UserError(f"this needs {', '.join(missing)}: pip install {' '.join(missing)}")
    photos = np.random.default_rng(0).uniform(0, 255, (1, *network.input_shape[1:]))
    photos = photos.astype(np.float32)
    # Before the export, which refuses a network that was never called.
    expected = {name: np.asarray(x) for name, x in network.predict_on_batch(photos).items()}
    with temporary_folder(path) as folder:
        temporary = folder / path.name
        try:
            with quiet():
                if format == "coreml":
                    _export_coreml(network, temporary)
                else:
                    network.export(str(temporary), format=format, verbose=False)
                NAME[format](temporary, "\n".join(classes))
                got = RUN[format](temporary, photos)
        except UserError:
            raise
        except Exception as error:  # of many kinds, for a network that cannot be converted
            reason = (" ".join(str(error).split()) or type(error).__name__)[:300]
            raise UserError(f"cannot export {path}: {reason}") from error
        difference = None
        if got is not None:
            largest = max(np.abs(values).max() for values in expected.values())
            absolute = max(np.abs(got[name] - values).max() for name, values in expected.items())
            difference = float(absolute / largest)
            if not difference <= TOLERANCE:
                raise UserError(f"the {format} file differs from Keras by {difference:.2g}")
        for written in folder.iterdir():
            written.replace(path.with_name(written.name))
    return difference


def _export_coreml(network, path):
    import coremltools

    if keras.backend.backend() != "tensorflow":
        raise UserError("expected KERAS_BACKEND=tensorflow for a Core ML file")
    shape = (1, *network.input_shape[1:])
    signature = tf.TensorSpec(shape, tf.float32, name="photos")
    function = tf.function(lambda photos: network(photos)).get_concrete_function(signature)
    converted = coremltools.convert(
        [function],
        source="tensorflow",
        convert_to="mlprogram",
        inputs=[coremltools.TensorType(name="photos", shape=shape)],
        compute_precision=coremltools.precision.FLOAT32,
    )
    description = converted.get_spec()
    # TensorFlow calls the outputs Identity, Identity_1 ... in the order of their names.
    found = sorted((output.name for output in description.description.output), key=len)
    for name, wanted in zip(found, sorted(network.output), strict=True):
        coremltools.utils.rename_feature(description, name, wanted)
    coremltools.models.MLModel(description, weights_dir=converted.weights_dir).save(str(path))


def _name_onnx(path, classes):
    import onnx

    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"classes": classes})
    onnx.save(model, path)


def _name_openvino(path, classes):
    import openvino

    model = openvino.Core().read_model(path.read_bytes(), path.with_suffix(".bin").read_bytes())
    model.set_rt_info(classes, "classes")
    openvino.save_model(model, path, compress_to_fp16=False)


def _name_coreml(path, classes):
    import coremltools

    model = coremltools.models.MLModel(str(path), skip_model_load=True)
    model.user_defined_metadata["classes"] = classes
    model.save(str(path))


def _run_onnx(path, photos):
    if not importlib.util.find_spec("onnxruntime"):
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"photos": photos}), strict=True))


def _run_openvino(path, photos):
    import openvino

    network = openvino.Core().compile_model(
        str(path),
        "CPU",
        {"INFERENCE_PRECISION_HINT": "f32"},  # or bfloat16 where the processor has it
    )
    outputs = network({"photos": photos})
    return {name: outputs[output] for output in network.outputs for name in output.names}


def _run_coreml(path, photos):
    if sys.platform != "darwin":
        return None  # coremltools converts anywhere, but runs a network on macOS alone
    import coremltools

    return coremltools.models.MLModel(str(path)).predict({"photos": photos})


NAME = {"onnx": _name_onnx, "openvino": _name_openvino, "coreml": _name_coreml}
RUN = {"onnx": _run_onnx, "openvino": _run_openvino, "coreml": _run_coreml}
