"""Keras and TensorFlow, loaded at first use and without their noise.

Loading takes four to six seconds, so they are loaded only if needed:

    from catdog.backend import keras, layers, tf    costs nothing
    keras.Input(...)                                loads Keras
"""

import contextlib
import functools
import importlib
import importlib.util
import os
import platform
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path

import catdog
from catdog.errors import UserError

LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
REDIRECTING = threading.RLock()  # two threads could restore each other's file descriptors
ASKED_FOR = LOG_LEVEL in os.environ  # whoever sets it wants to see what TensorFlow says


@contextlib.contextmanager
def redirected(descriptor: int, target: int) -> Iterator[None]:
    """Send what libraries write to 1 (stdout) or 2 (stderr) to another file descriptor."""
    stream = {1: sys.stdout, 2: sys.stderr}[descriptor]
    stream.flush()
    kept = os.dup(descriptor)
    os.dup2(target, descriptor)
    try:
        yield
    finally:
        stream.flush()
        os.dup2(kept, descriptor)
        os.close(kept)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide what libraries print to stderr while they are loaded, unless `ASKED_FOR`.

    TensorFlow prints six lines before it looks at its log level.
    """
    if ASKED_FOR:
        yield
        return
    os.environ[LOG_LEVEL] = "3"
    with REDIRECTING, open(os.devnull, "wb") as nowhere, redirected(2, nowhere.fileno()):
        yield


def import_matplotlib() -> None:
    """Import matplotlib without the settings of the user, whose files need not be text.

    It reads ./matplotlibrc and others when it is imported, with the `open` of its first module.
    """
    spec = importlib.util.find_spec("matplotlib")
    if spec and "matplotlib" not in sys.modules:
        module = sys.modules["matplotlib"] = importlib.util.module_from_spec(spec)
        own = os.path.join(os.path.dirname(spec.origin), "")

        def open_own(path, **options):
            return open(path if str(path).startswith(own) else os.devnull, **options)

        module.open = open_own
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules["matplotlib"]
            raise
        del module.open


@functools.cache
def _load(name: str) -> types.ModuleType:
    # JAX compiles each image size for up to half a minute on a GPU; later runs find the programs.
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "catdog" / "jax"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    try:
        with quiet():
            if name.startswith("keras"):
                import_matplotlib()  # or Keras would do it
            module = importlib.import_module(name)
    except (ImportError, ValueError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name in ("keras", "tensorflow"):
            raise  # `cli.run` says how to install it
        backend = os.environ.get("KERAS_BACKEND", "tensorflow")
        raise UserError(f"cannot load Keras, with KERAS_BACKEND={backend}: {error}") from None
    if name.startswith("keras"):  # whatever ~/.keras/keras.json says
        sys.modules["keras"].config.set_image_data_format("channels_last")
        sys.modules["keras"].config.set_floatx("float32")
    if name == "tensorflow" and keras.backend.backend() != "tensorflow":
        module.config.set_visible_devices([], "GPU")  # its memory is for the other backend
    return module


class _Lazy(types.ModuleType):
    """A module that is loaded when something of it is asked for."""

    def __getattr__(self, name: str):
        return getattr(_load(self.__name__), name)


keras = _Lazy("keras")
layers = _Lazy("keras.layers")
tf = _Lazy("tensorflow")


def processes() -> int:
    """Return the number of processes that train together."""
    jax = sys.modules.get("jax")  # only `devices.join` can have made them more than one
    return jax.process_count() if jax and jax.distributed.is_initialized() else 1


def index() -> int:
    """Return the index of this process; only process 0 writes and prints the results."""
    return sys.modules["jax"].process_index() if processes() > 1 else 0


def versions() -> dict[str, str]:
    """Return the versions of this program, of Python and of the packages that training uses."""
    backend = keras.backend.backend()
    # Asked of the modules, as the package of TensorFlow has several names, such as tensorflow-cpu.
    names = dict.fromkeys(("keras", "numpy", backend))
    return {
        "catdog": catdog.__version__,
        "python": platform.python_version(),
        **{name: _load(name).__version__ for name in names},
        "pillow": _load("PIL").__version__,
        "backend": backend,
    }
