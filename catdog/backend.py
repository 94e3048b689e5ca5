"""Keras and TensorFlow, loaded at first use and without their noise.

Loading takes four to six seconds, so they are loaded only if needed:

    from catdog.backend import keras, layers, tf    costs nothing
    keras.Input(...)                                loads Keras
"""

import contextlib
import functools
import importlib
import importlib.metadata
import os
import platform
import sys
import types
from collections.abc import Iterator

from catdog.errors import UserError

LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
ASKED_FOR = LOG_LEVEL in os.environ  # whoever sets it wants to see what TensorFlow says


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide what libraries print to stderr while they are loaded, unless `ASKED_FOR`.

    TensorFlow prints six lines before it looks at its log level.
    """
    if ASKED_FOR:
        yield
        return
    os.environ[LOG_LEVEL] = "3"
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@functools.cache
def _load(name: str) -> types.ModuleType:
    try:
        with quiet():
            module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] not in ("keras", "tensorflow"):
            raise _cannot_load(error) from None
        raise UserError(
            f"this needs {error.name}, which is not installed: pip install -r requirements.txt"
        ) from None
    except (ImportError, ValueError) as error:
        raise _cannot_load(error) from None
    if name == "tensorflow" and keras.backend.backend() != "tensorflow":
        module.config.set_visible_devices([], "GPU")  # its memory is for the other backend
    return module


def _cannot_load(error: Exception) -> UserError:
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    return UserError(f"cannot load Keras, with KERAS_BACKEND={backend}: {error}")


class _Lazy(types.ModuleType):
    """A module that is loaded when something of it is asked for."""

    def __getattr__(self, name: str):
        return getattr(_load(self.__name__), name)


keras = _Lazy("keras")
layers = _Lazy("keras.layers")
tf = _Lazy("tensorflow")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that training depends on."""
    packages = dict.fromkeys(("keras", "tensorflow", "numpy", "pillow", keras.backend.backend()))
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
        "backend": keras.backend.backend(),
    }
