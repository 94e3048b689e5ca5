"""What the scripts share at the terminal: `run`, argument types, progress bars, `say`."""

import argparse
import contextlib
import errno
import logging
import math
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from catdog import files
from catdog.errors import UserError, is_out_of_memory, printable

# A full disk, a quota, a limit on sizes, or on names.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENAMETOOLONG)

# --- Words for the user ---------------------------------------------------------------------------


silent = False  # see `silence`


def silence() -> None:
    """Have `say` print nothing from now on: of several processes, the first says it."""
    global silent
    silent = True


def say(*lines: object) -> None:
    """Print lines to stderr: stdout is for results. If nobody reads stderr, the work goes on.

    Args:
        lines: may hold names and other text from anywhere: they become `printable`.
    """
    if not silent:
        _print(*(printable(str(line)) for line in lines))


def _print(*lines):
    try:
        if "tqdm" in sys.modules:  # a line between the progress bars, not within one
            sys.modules["tqdm"].tqdm.write("\n".join(lines), file=sys.stderr)
        else:
            print(*lines, sep="\n", file=sys.stderr, flush=True)
    except OSError:  # its reader left, or its disk is full
        _discard(sys.stderr)


def _discard(stream: TextIO) -> None:
    """Send what is still written to a stream nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


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

    `total` is None as long as it is not known. predict.py runs without tqdm, then without a bar.
    """
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        return lambda done, total: None

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


def data_arguments(default: str | None = "tmp", said: str = "tmp") -> argparse.ArgumentParser:
    """Return a parent parser of the arguments that say which photos are meant.

    Args:
        default: the value of --data-dir if it is not given.
        said: what `--help` says of it.
    """
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--data-dir",
        default=default,
        metavar="DIR",
        help=f"folder of labelled photos (default: {said})",
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
        "folder, in quotes if it begins with #: such a line is a comment",
    )
    parser.add_argument(
        "--relabel",
        metavar="FILE",
        help="file of right labels, one photo per line: a name as for --exclude, a tab, a class",
    )
    return parser


def check_output(
    output: os.PathLike | str | None, data_dir: os.PathLike | str, argument: str = "--output"
) -> None:
    """Raise UserError if a folder to be made exists, cannot be made, or is among the photos."""
    if output is not None:
        with blame(argument):
            files.check_new(output)
            files.check_outside(output, data_dir)


def check_combinations(
    parser: argparse.ArgumentParser,
    given: list[str],
    excluded: dict[str, list[str]],
    required: dict[str, str] | None = None,
) -> None:
    """Exit with an error message if arguments are given that cannot be combined.

    Args:
        given: the names of the arguments that are.
        excluded: for an argument, those that it cannot be combined with.
        required: for an argument, the one that it needs.
    """
    flags = {action.dest: "/".join(action.option_strings) for action in parser._actions}
    for name, other in (required or {}).items():
        if name in given and other not in given:
            parser.error(f"argument {flags[name]}: requires {flags[other]}")
    for name, others in excluded.items():
        for other in others:
            if name in given and other in given:
                parser.error(f"argument {flags[name]}: cannot be combined with {flags[other]}")


def whole_number(least: int, most: float = math.inf) -> Callable[[str], int]:
    """Return an argparse type: a whole number from `least` to `most`."""
    limits = f"of {least} or more" if most == math.inf else f"from {least} to {most}"
    return _number(int, lambda value: least <= value <= most, f"a whole number {limits}")


def number(above: float, most: float) -> Callable[[str], float]:
    """Return an argparse type: a number greater than `above` and at most `most`."""
    expected = f"a number above {above:g} and at most {most:g}"
    return _number(float, lambda value: above < value <= most, expected)


def _number(kind, is_good, expected):
    def parse(text):
        with contextlib.suppress(ValueError):
            if is_good(value := kind(text)):
                return value
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")

    return parse


def addresses(text: str) -> list[str]:
    """Return the HOST:PORT of every process; an argparse type."""
    addresses = text.split(",")
    for address in addresses:
        name, _, port = address.rpartition(":")
        if not (name and port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
            raise argparse.ArgumentTypeError(
                f"expected HOST:PORT,HOST:PORT,... with ports from 1 to 65535, got {address!r}"
            )
    if len(addresses) < 2 or len(set(addresses)) < len(addresses):
        raise argparse.ArgumentTypeError(f"expected two or more addresses, each once, got {text!r}")
    return addresses


# --- Running --------------------------------------------------------------------------------------


# The signal that is ending this script, SIGINT or SIGTERM; 0 for none. The handler raises
# KeyboardInterrupt, which TensorFlow may swallow, or turn into another error (once a TypeError).
stopped_by = 0


class _Say(logging.Handler):
    """Shows the warnings of the modules below the scripts."""

    def emit(self, record):
        say(record.getMessage())


def run(main: Callable[[], int], closed_pipe: int = 0) -> None:
    """Run `main()` and exit with the code that it returns.

    0: done; 1: some photos failed; 2: UserError, a line on stderr, or a full disk, or too little
    memory; 130 and 143: interrupted by Ctrl-C or SIGTERM.

    Args:
        closed_pipe: the exit code if the reader of stdout leaves early, as in `| head -1`.
    """
    global stopped_by
    _open_closed_streams()
    handler, before = _Say(), _catch_signals()
    logging.getLogger("catdog").addHandler(handler)
    if hasattr(sys.stdout, "reconfigure"):  # not so in a notebook
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show
    try:
        code = _ended(main, closed_pipe)
    finally:  # argparse ends by SystemExit
        if "IPython" in sys.modules:  # a notebook goes on
            stopped_by = 0
            logging.getLogger("catdog").removeHandler(handler)
            sys.unraisablehook = sys.__unraisablehook__
            for number, each in before.items():
                signal.signal(number, each)
    if code or "IPython" not in sys.modules:
        sys.exit(code)


def _ended(main, closed_pipe):
    """Return the exit code of `main()`, after saying why it is not 0."""
    code, message = 2, None
    try:
        _check_current_folder()
        with _temporary_folder():
            code = main()
        if stopped_by:
            raise KeyboardInterrupt
        sys.stdout.flush()
    except BaseException as error:
        if stopped_by or isinstance(error, KeyboardInterrupt):
            code = 128 + (stopped_by or signal.SIGINT)
            message = "terminated" if stopped_by == signal.SIGTERM else "interrupted"
        elif isinstance(error, UserError):
            message = f"error: {error}"
        elif isinstance(error, ModuleNotFoundError):
            command = "pip install -r requirements.txt"
            message = f"error: this needs {error.name}, which is not installed: {command}"
        elif isinstance(error, BrokenPipeError):
            _discard(sys.stdout)
            code = closed_pipe
        elif getattr(error, "errno", None) in NO_ROOM:
            _discard(sys.stdout)
            message = f"error: cannot write: {error.strerror}"
        elif is_out_of_memory(error):
            reason = " ".join(str(error).split()) or type(error).__name__
            message = f"error: not enough memory: {printable(reason)[:200]}"
        else:
            raise
    if message:
        last_line(message)
    return code


def last_line(message: str) -> None:
    """Print why this script ends."""
    _print(f"{os.path.basename(sys.argv[0])}: {message}")


def _catch_signals() -> dict:
    """Turn SIGTERM into an exception as Ctrl-C is; the second of the two ends at once.

    Returns:
        What handled the two signals before.
    """
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}

    def stop(signum, frame):
        global stopped_by
        stopped_by = signum
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, lambda *_: os._exit(128 + signum))
        raise KeyboardInterrupt

    def send_again(ignored):
        # Python ignores an exception in a destructor, also this one.
        if issubclass(ignored.exc_type, KeyboardInterrupt) and stopped_by:
            signal.signal(stopped_by, stop)
            threading.Timer(0.1, os.kill, (os.getpid(), stopped_by)).start()
        else:
            sys.__unraisablehook__(ignored)

    sys.unraisablehook = send_again
    signal.signal(signal.SIGTERM, stop)
    if before[signal.SIGINT] != signal.SIG_IGN:
        signal.signal(signal.SIGINT, stop)
    return before


@contextlib.contextmanager
def _temporary_folder() -> Iterator[None]:
    """Give this process and its children a folder of their own for temporary files.

    TensorFlow leaves some there when it is killed: the next script removes them.
    """

    def point_to(folder):
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)

    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # a full disk: who needs such files fails later
            home = tempfile.gettempdir()
            files.remove_leftovers(home, "catdog")
            own = stack.enter_context(files.temporary_folder(Path(home, "catdog")))
            stack.callback(point_to, home)
            point_to(own)
        yield


def _check_current_folder() -> None:
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UserError("the current folder no longer exists") from None


def _open_closed_streams() -> None:
    """Open what was closed, as by `>&-`: the next file to be opened would take its place."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))
