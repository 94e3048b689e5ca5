"""Photos on their way to a network or a cache: found, decoded ahead on all cores, in order."""

import glob
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future

from catdog.errors import UserError
from catdog.photos.photo import PhotoError, find_files, load_photo

AHEAD = 256  # photos found but not yet handed on, at most
MAX_AHEAD_BYTES = 64 * 2**20  # decoded photos that wait to be handed on
BATCH = 8  # photos; on two cores one alone is as quick, on many more cores it is not
MAX_PATH_BYTES = 2**16  # no system knows a longer path


def find(arguments: Iterable[str], end: bytes = b"\n") -> Iterator[tuple[str, PhotoError | None]]:
    """Yield (path, None) of every photo, or (path, PhotoError) of a folder that has none.

    Args:
        arguments: files; folders, which are searched with all below them; patterns such as
            `photos/*.jpg`, where no file has that name (shells on Windows expand none); and `-` for
            the paths of files and folders on stdin.
        end: what a path on stdin ends with.
    """
    for argument in arguments:
        if argument == "-":
            empty = True
            for name in _names_on_stdin(end):
                empty = False
                if len(name) > MAX_PATH_BYTES:
                    yield os.fsdecode(name[:64]) + "...", PhotoError("not a possible file name")
                else:
                    yield from _find_below(os.fsdecode(name))
            if empty:
                yield argument, PhotoError("no path on stdin")
        elif glob.has_magic(argument) and not os.path.lexists(argument):
            for path in sorted(glob.iglob(argument, recursive=True)) or [argument]:
                yield from _find_below(path)
        else:
            yield from _find_below(argument)


def _names_on_stdin(end: bytes) -> Iterator[bytes]:
    """Yield the names on stdin; of one that is too long, its beginning."""
    # Not sys.stdin: a thread that still waits for it would hold up the end of the program.
    try:
        with open(0, "rb", closefd=False) as file:
            rest = b""
            while chunk := file.read1(65536):
                *names, last = chunk.split(end)
                if names:
                    names[0] = rest + names[0]
                    yield from filter(None, map(_without_return, names))
                    rest = b""
                rest += last[: MAX_PATH_BYTES + 1 - len(rest)]  # a line may have no end
            if rest := _without_return(rest):
                yield rest
    except OSError as error:
        raise UserError(f"cannot read paths from stdin: {error.strerror}") from None


def _without_return(name: bytes) -> bytes:
    """Remove the carriage return at the end of a name, from a list that Windows wrote."""
    return name[:-1] if name.endswith(b"\r") and not os.path.lexists(name) else name


def _find_below(path: str) -> Iterator[tuple[str, PhotoError | None]]:
    if not os.path.isdir(path):
        yield path, None
        return
    empty = True
    for file in find_files(path):
        empty = False
        yield file, None
    if empty:
        yield path, PhotoError("a folder without images")


class Stream:
    """Decodes photos in threads, while whoever reads `batches` runs the network.

    Args:
        paths: as `find` yields them.
        size: side of the decoded squares, in pixels.
        decode: function of (path, size) that returns what `batches` yields.
    Attributes:
        found: how many photos there are so far.
        complete: whether these are all.
    """

    def __init__(
        self,
        paths: Iterable[tuple[str, PhotoError | None]],
        size: int,
        decode: Callable[[str, int], object] = load_photo,
    ):
        self.found, self.complete = 0, False
        threads = os.cpu_count() or 1
        ahead = min(AHEAD, MAX_AHEAD_BYTES // (3 * size * size))
        self._in_order = queue.Queue(max(ahead, 2 * threads))
        self._jobs = queue.SimpleQueue()
        self._stopped = threading.Event()
        # Not a ThreadPoolExecutor: at Ctrl-C, the end of the program would wait for all its jobs.
        threading.Thread(target=self._feed, args=[paths, threads], daemon=True).start()
        for _ in range(threads):
            threading.Thread(target=self._work, args=[decode, size], daemon=True).start()

    def _feed(self, paths, threads):
        """Give the paths to the threads, at most `AHEAD` before they are handed on."""
        path = None
        try:
            for path, error in paths:
                if self._stopped.is_set():
                    break
                self.found += 1
                self._give(path, error)
        except Exception as error:  # `batches` raises it
            self._give(path, error)
        self.complete = True
        self._hand_on(None)
        for _ in range(threads):
            self._jobs.put(None)

    def _give(self, path, error):
        future = Future()
        if error is None:
            self._jobs.put((path, future))
        else:
            future.set_exception(error)
        self._hand_on((path, future))

    def _work(self, decode, size):
        while job := self._jobs.get():
            path, future = job
            if self._stopped.is_set():
                continue
            try:
                future.set_result(decode(path, size))
            except BaseException as error:
                future.set_exception(error)

    def _hand_on(self, item):
        while not self._stopped.is_set():
            try:
                return self._in_order.put(item, timeout=0.5)
            except queue.Full:
                pass

    def batches(self) -> Iterator[list[tuple[str, object]]]:
        """Yield lists of (path, uint8 (size, size, 3) or PhotoError), in the order of the paths.

        Up to `BATCH` photos, but never one that would have to be waited for while others are ready:
        who pipes in one path at a time gets one answer at a time.
        """
        try:
            yield from self._batches()
        finally:  # all have been read, or Ctrl-C: then the photos that are left are not decoded
            self._stopped.set()

    def _batches(self):
        batch = []
        while True:
            try:
                item = self._in_order.get(block=not batch)
            except queue.Empty:
                yield batch
                batch = []
                continue
            if batch and (item is None or len(batch) == BATCH or not item[1].done()):
                yield batch
                batch = []
            if item is None:
                return
            path, future = item
            try:
                batch.append((path, future.result()))
            except PhotoError as error:
                batch.append((path, error))
