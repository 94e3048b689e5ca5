"""What the three programs share at the terminal: argument types, one-line errors, signals."""

import argparse
import contextlib
import errno
import os
import signal
import sys
import unicodedata

NAME = os.path.basename(sys.argv[0])
QUIET = "TF_CPP_MIN_LOG_LEVEL" not in os.environ
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

for _number, _name in enumerate(("stdin", "stdout", "stderr")):
    try:
        os.fstat(_number)
    except OSError:  # closed, as by `>&-`: the next file to be opened would take its place
        os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, which is this one
        setattr(sys, _name, os.fdopen(_number, "r" if _number == 0 else "w", closefd=False))


@contextlib.contextmanager
def quiet():
    """Hides what TensorFlow prints while it is imported, six lines that say nothing to a user.

    It prints them before it looks at TF_CPP_MIN_LOG_LEVEL; whoever sets that variable sees them.
    """
    if not QUIET:
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def say(*words):
    """Prints to stderr: stdout is for results."""
    if "tqdm" in sys.modules:  # a line between the progress bars, not within one
        sys.modules["tqdm"].tqdm.write(" ".join(map(str, words)), file=sys.stderr)
    else:
        print(*words, file=sys.stderr, flush=True)


def whole_number(least, most=None):
    """An argparse type: a whole number from `least` to `most`."""

    def parse(text):
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or value < least or (most is not None and value > most):
            limit = f"from {least} to {most}" if most is not None else f"of {least} or more"
            raise argparse.ArgumentTypeError(f"expected a whole number {limit}, got {text!r}")
        return value

    return parse


def number(above, most):
    """An argparse type: a number greater than `above` and at most `most`."""

    def parse(text):
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not above < value <= most:
            raise argparse.ArgumentTypeError(
                f"expected a number above {above:g} and at most {most:g}, got {text!r}"
            )
        return value

    return parse


class UserError(Exception):
    """What the user can mend, such as a mistake in the command; one line, exit code 2."""


def printable(path: str | bytes | os.PathLike) -> str:
    r"""Returns a path as text for one output line, always fit for UTF-8.

    Control characters (`\n`, `\t`, `\x1b`), invisible ones (`\u202e`) and bytes that are no text
    (`\xff`) are escaped; all other characters stay, spaces and backslashes among them.
    """
    text = os.fsdecode(path)
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    if "\udc80" <= character <= "\udcff":  # how os.fsdecode keeps a byte that is no text
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def some_names(names, most=10):
    """The names for one output line; of more than `most`, the first and the last few."""
    shown = [printable(name) for name in names]
    if len(shown) <= most:
        return ", ".join(shown)
    return f"{', '.join(shown[:3])} ... {', '.join(shown[-2:])} ({len(shown):,} in all)"


def progress(description, unit):
    """A function of (done, total) that shows a bar on stderr where that is a terminal.

    total: None as long as it is not known.
    """
    from tqdm import tqdm

    bar = None

    def show(done, total):
        nonlocal bar
        if bar is None:
            bar = tqdm(desc=description, unit=unit, unit_scale=True, disable=None, leave=False)
        bar.total = total
        bar.update(done - bar.n)
        if total is not None and done >= total:
            bar.close()
            bar = None

    return show


def _stop_importing(signum, frame):
    os.write(2, f"{NAME}: interrupted\n".encode(errors="replace"))
    os._exit(130)


# Until `run_program`, Ctrl-C ends one of our scripts at once: a KeyboardInterrupt amid the imports
# of NumPy or TensorFlow would be a traceback.
_script = getattr(sys.modules["__main__"], "__file__", None) or ""
_own = os.path.dirname(os.path.abspath(_script)) == os.path.dirname(os.path.abspath(__file__))
if _own and signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored
    signal.signal(signal.SIGINT, _stop_importing)


class Terminated(KeyboardInterrupt):
    """SIGTERM, handled like Ctrl-C."""


def run_program(main, closed_pipe=0):
    """Runs `main()` and exits with the code it returns; a `UserError` becomes one line and 2.

    closed_pipe: the code where whoever reads the output leaves early, as in `| head -1`.
    """

    def terminate(signum, frame):
        raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    if signal.getsignal(signal.SIGINT) is _stop_importing:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show
    try:
        code = main()
        sys.stdout.flush()
    except UserError as error:
        say(f"{NAME}: error: {error}")
        code = 2
    except Terminated:
        say(f"{NAME}: terminated")
        code = 143
    except KeyboardInterrupt:
        say(f"{NAME}: interrupted")
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = closed_pipe
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        say(f"{NAME}: error: cannot write: {error.strerror}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 2
    sys.exit(code)
