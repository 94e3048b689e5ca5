"""What a model file must be before Keras or LiteRT gets to see it: nobody's code, no bomb.

Keras's safe mode refuses Lambda layers and classes that are not its own. These checks come before
it and refuse more: everything that `model.py` does not write. All raise ValueError with the reason.
"""

import io
import json
import math
import zipfile

from catdog.files import printable

MEMBERS = ("config.json", "metadata.json", "model.weights.h5")
MAX_CONFIG = 2**20  # bytes; ours have 40 KB
MAX_LITERT = 2**31  # bytes; the format's own limit
VALUES_PER_PIXEL = 128  # of a layer's output, for every pixel of the photo; ours have 32 at most

LAYERS = ("Rescaling", "Conv2D", "MaxPooling2D", "BatchNormalization", "ReLU", "Dropout",
          "GlobalAveragePooling2D", "Flatten", "Dense")
PARTS = {(None, "__keras_tensor__"), ("keras", "DTypePolicy"), ("keras.initializers", "Zeros"),
         ("keras.initializers", "Ones"), ("keras.initializers", "GlorotUniform")}


def check_regular(path):
    """A pipe or a device would be waited for."""
    if path.exists() and not path.is_file():
        raise ValueError("not a regular file")


# --- model.keras ----------------------------------------------------------------------------------


def check_keras(path, image_size, classes):
    """Checks a `.keras` file without making a layer's weights.

    It must hold what Keras writes and nothing compressed, so that it cannot unpack to more than its
    size; its layers must be a stack of `LAYERS`, for photos of `image_size` px and with as many
    outputs as `classes` need; the weights that they will take must be in the file.
    """
    check_regular(path)
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        names = sorted(entry.filename for entry in entries)
        if names != sorted(MEMBERS):
            shown = ", ".join(printable(name) for name in names[:4])
            raise ValueError(f"expected {', '.join(MEMBERS)} in it, got {shown}")
        for entry in entries:
            if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
                raise ValueError(f"expected {entry.filename} as Keras stores it, got it compressed")
        if archive.getinfo("config.json").file_size > MAX_CONFIG:
            raise ValueError(f"expected a config.json of up to {MAX_CONFIG} bytes in it")
        config = json.loads(archive.read("config.json"))
        stored = count_stored(io.BytesIO(archive.read("model.weights.h5")))
    needed, outputs = measure(config, image_size)
    expected = 1 if classes == 2 else classes
    if outputs != expected:
        raise ValueError(f"expected a network of {classes} classes, as config.json says, "
                         f"got one of {outputs} outputs")
    if needed > stored:
        raise ValueError(f"expected the {needed:,} weights of its layers in it, got {stored:,}")


def count_stored(file):
    """The number of values in a weights file, whose bytes must all lie in that file itself."""
    import h5py

    count, waiting, seen = 0, [h5py.File(file, "r")], set()
    while waiting:
        group = waiting.pop()
        for name in group:
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise ValueError(f"weights with a link, {printable(str(name))}, to elsewhere")
            item = group[name]
            place = h5py.h5o.get_info(item.id).addr
            if place in seen:
                raise ValueError(f"weights with {printable(str(name))} under two names")
            seen.add(place)
            if isinstance(item, h5py.Group):
                waiting.append(item)
            elif item.external or item.is_virtual or item.chunks:
                raise ValueError(f"weights with {printable(item.name)} outside the file or packed")
            else:
                if item.id.get_storage_size() != item.size * item.dtype.itemsize:
                    raise ValueError(f"weights without the values of {printable(item.name)}")
                count += item.size
    return count


def measure(config, image_size):
    """The number of weights and of outputs of a network, from its configuration alone."""
    import keras

    if (config["module"], config["class_name"]) != ("keras.src.models.functional", "Functional"):
        raise ValueError(f"expected a functional network, got {_class(config)}")
    first, *layers = config["config"]["layers"]
    _check_parts(first)
    shape = first["config"]["batch_shape"]
    if first["class_name"] != "InputLayer" or len(shape) != 4:
        raise ValueError(f"expected an input of photos, got {_class(first)} of {shape}")
    expected = [None, image_size, image_size, 3]
    if not _fits(shape, expected):
        raise ValueError(f"expected photos of {image_size} px, as config.json says, got {shape}")
    shape, before, count = expected, first["name"], 0
    for entry in layers:
        if entry.get("module") != "keras.layers" or entry["class_name"] not in LAYERS:
            raise ValueError(f"expected the layers of model.py, got {_class(entry)}")
        _check_parts(entry)
        if _sources(entry) != [before] or entry["config"]["name"] != entry["name"]:
            raise ValueError(f"expected a stack of layers, got {printable(entry['name'])} "
                             "elsewhere than on top")
        if entry["config"].get("data_format", "channels_last") != "channels_last":
            raise ValueError(f"expected channels last, got {printable(entry['name'])}")
        build = entry.get("build_config", {"input_shape": shape})
        if set(build) != {"input_shape"} or not _fits(build["input_shape"], shape):
            raise ValueError(f"expected {printable(entry['name'])} for {shape}, got {build}"[:200])
        layer = getattr(keras.layers, entry["class_name"]).from_config(dict(entry["config"]))
        count += _weights(layer, shape)
        shape = list(layer.compute_output_shape(tuple(shape)))
        if math.prod(shape[1:]) > VALUES_PER_PIXEL * image_size**2:
            raise ValueError(f"expected layers of up to {VALUES_PER_PIXEL} values a pixel, "
                             f"got {printable(entry['name'])} of {shape[1:]}")
        before = entry["name"]
    if len(shape) != 2 or config["config"]["output_layers"] != [before, 0, 0]:
        raise ValueError("expected a network that ends in a fully connected layer")
    return count, shape[-1]


def _check_parts(entry):
    """What a layer's configuration names must be of `PARTS`."""
    waiting = [value for key, value in entry.items() if key != "class_name"]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if "class_name" in value and (value.get("module"), value["class_name"]) not in PARTS:
                raise ValueError(f"expected the layers of model.py, got {_class(value)}")
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    if entry.get("registered_name") is not None:
        raise ValueError(f"expected the layers of model.py, got {_class(entry)}")


def _class(entry):
    names = (entry.get("module"), entry.get("registered_name"), entry.get("class_name"))
    return printable(" ".join(str(name) for name in names if name))[:120]


def _fits(shape, expected):
    """Whether the lists are the same where `shape` is not None."""
    return len(shape) == len(expected) and all(
        a in (None, b) for a, b in zip(shape, expected, strict=True))


def _sources(entry):
    """The names of the layers that a layer takes its input from."""
    return [argument["config"]["keras_history"][0]
            for node in entry["inbound_nodes"] for argument in node["args"]]


def _weights(layer, shape):
    match type(layer).__name__:
        case "Conv2D":
            kernel = math.prod(layer.kernel_size) * (shape[-1] // layer.groups)
            return layer.filters * (kernel + layer.use_bias)
        case "Dense":
            return layer.units * (shape[-1] + layer.use_bias)
        case "BatchNormalization":
            return shape[layer.axis] * (2 + layer.center + layer.scale)
    return 0


# --- model.tflite ---------------------------------------------------------------------------------


def check_litert_file(path):
    """Checks a `.tflite` file from outside."""
    check_regular(path)
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(8)
    if start[4:] != b"TFL3" or size > MAX_LITERT:
        raise ValueError("not a LiteRT file")


def check_litert_network(interpreter, file_size, image_size, classes):
    """Checks what a file of `file_size` bytes declares, before any of it is allocated."""
    most = max(file_size, VALUES_PER_PIXEL * image_size**2)
    for tensor in interpreter.get_tensor_details():
        size = math.prod(map(int, tensor["shape"]))
        if not 0 <= size <= most:
            raise ValueError(f"a tensor of {size:,} values")
    runner = interpreter.get_signature_runner()
    inputs, outputs = runner.get_input_details(), runner.get_output_details()
    photos = inputs["photos"]["shape"].tolist()
    if set(inputs) != {"photos"} or photos[1:] != [image_size, image_size, 3]:
        raise ValueError(f"expected photos of {image_size} px, as config.json says, got {photos}")
    got = int(outputs["logits"]["shape"][-1])
    if got != (1 if classes == 2 else classes):
        raise ValueError(f"expected a network of {classes} classes, as config.json says, "
                         f"got one of {got} outputs")
