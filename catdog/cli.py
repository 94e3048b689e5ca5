"""What the scripts share at the terminal: `run`, argument types, progress bars, `say`."""

import argparse
import contextlib
import errno
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator

from catdog.errors import UserError

# --- Words for the user ---------------------------------------------------------------------------


def say(*words: object) -> None:
    """Print to stderr: stdout is for results."""
    if "tqdm" in sys.modules:  # a line between the progress bars, not within one
        sys.modules["tqdm"].tqdm.write(" ".join(map(str, words)), file=sys.stderr)
    else:
        print(*words, file=sys.stderr, flush=True)


@contextlib.contextmanager
def blame(argument: str) -> Iterator[None]:
    """Add the command-line `argument` to a `UserError` of the block, unless it has one."""
    try:
        yield
    except UserError as error:
        error.argument = error.argument or argument
        raise


def progress(description: str, unit: str) -> Callable[[int, int | None], None]:
    """Return a function of (done, total) that shows a bar on stderr if that is a terminal.

    `total` is None as long as it is not known.
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


# --- Arguments ------------------------------------------------------------------------------------


def data_arguments(default: str | None = "tmp") -> argparse.ArgumentParser:
    """Return a parent parser of the arguments that say which photos are meant."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--data-dir", default=default, metavar="DIR", help="folder of labelled photos (default: tmp)"
    )
    parser.add_argument(
        "--cache-dir",
        default=default and f"{default}/cache",
        metavar="DIR",
        help="folder for decoded photos (default: tmp/cache)",
    )
    parser.add_argument(
        "--exclude",
        metavar="FILE",
        help="file of photos to leave out, one per line: cat.4085, or a path below the data "
        "folder; # begins a comment",
    )
    return parser


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return an argparse type: a whole number from `least` to `most`."""

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


def number(above: float, most: float) -> Callable[[str], float]:
    """Return an argparse type: a number greater than `above` and at most `most`."""

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


# --- Running --------------------------------------------------------------------------------------


class Terminated(KeyboardInterrupt):
    """SIGTERM, handled like Ctrl-C."""


class _Say(logging.Handler):
    """Shows the warnings of the modules below the scripts."""

    def emit(self, record):
        say(record.getMessage())


def run(main: Callable[[], int], closed_pipe: int = 0) -> None:
    """Run `main()` and exit with the code that it returns.

    0: done; 1: some photos failed; 2: UserError, a line on stderr, or a full disk; 130 and 143:
    interrupted by Ctrl-C or SIGTERM.

    Args:
        closed_pipe: the exit code if the reader of stdout leaves early, as in `| head -1`.
    """
    name = os.path.basename(sys.argv[0])
    _open_closed_streams()

    def terminate(signum, frame):
        raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    logging.getLogger("catdog").addHandler(_Say())
    sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show
    try:
        code = main()
        sys.stdout.flush()
    except UserError as error:
        say(f"{name}: error: {error}")
        code = 2
    except Terminated:
        say(f"{name}: terminated")
        code = 143
    except KeyboardInterrupt:
        say(f"{name}: interrupted")
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = closed_pipe
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        say(f"{name}: error: cannot write: {error.strerror}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 2
    sys.exit(code)


def _open_closed_streams() -> None:
    """Open what was closed, as by `>&-`: the next file to be opened would take its place."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))
