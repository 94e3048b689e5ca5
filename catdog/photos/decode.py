"""Photos on their way to the network: found, decoded ahead on all cores, batched, in order."""

import os
import queue
import threading
from concurrent.futures import Future

from catdog.photos import photo as photos
from catdog.photos.photo import PhotoError
from catdog.errors import UserError

AHEAD = 256  # photos found but not yet handed on; bounds the memory
BATCH = 8  # photos; on two cores one alone is as quick, on many more cores it is not


def find(arguments, end=b"\n"):
    """Yields (path, None) of every photo, or (path, PhotoError) of a folder that has none.

    arguments: files, folders, which are searched with all below them, and `-` for the paths of
    files and folders on stdin; end: what a path on stdin ends with.
    """
    for argument in arguments:
        if argument == "-":
            empty = True
            for name in _names_on_stdin(end):
                empty = False
                yield from _find_below(os.fsdecode(name))
            if empty:
                yield argument, PhotoError("no path on stdin")
        else:
            yield from _find_below(argument)


def _names_on_stdin(end):
    # Not sys.stdin: a thread that still waits for it would hold up the end of the program.
    try:
        with open(0, "rb", closefd=False) as file:
            rest = b""
            while chunk := file.read1(65536):
                *names, rest = (rest + chunk).split(end)
                yield from filter(None, map(_without_return, names))
            if rest := _without_return(rest):
                yield rest
    except OSError as error:
        raise UserError(f"-: cannot read paths from stdin: {error.strerror}") from None


def _without_return(name):
    """A name from a list that Windows wrote loses the carriage return at its end."""
    if name.endswith(b"\r") and not os.path.lexists(name):
        return name[:-1]
    return name


def _find_below(path):
    if not os.path.isdir(path):
        yield path, None
        return
    empty = True
    for file in photos.find_files(path):
        empty = False
        yield file, None
    if empty:
        yield path, PhotoError("a folder without images")


class Stream:
    """Decodes photos in threads, while whoever reads `batches` runs the network.

    found: how many photos there are so far; complete: whether these are all.
    """

    def __init__(self, paths, size):
        """paths: an iterable of (path, None or PhotoError), as `find` gives; size: in px."""
        self.found, self.complete = 0, False
        self._size = size
        self._jobs = queue.SimpleQueue()
        self._in_order = queue.Queue(AHEAD)
        # Daemons: Ctrl-C does not wait for the photos that they are decoding.
        threading.Thread(target=self._feed, args=[paths], daemon=True).start()
        for _ in range(os.cpu_count() or 1):
            threading.Thread(target=self._decode, daemon=True).start()

    def _feed(self, paths):
        try:
            for path, error in paths:
                self.found += 1
                future = Future()
                if error is None:
                    self._jobs.put((path, future))
                else:
                    future.set_exception(error)
                self._in_order.put((path, future))
        except Exception as error:
            future = Future()
            future.set_exception(error)
            self._in_order.put((None, future))
        self.complete = True
        self._in_order.put(None)

    def _decode(self):
        while True:
            path, future = self._jobs.get()
            try:
                future.set_result(photos.load_photo(path, self._size))
            except Exception as error:
                future.set_exception(error)

    def batches(self):
        """Yields lists of (path, uint8 (size, size, 3) or PhotoError), in the order of the paths.

        Up to `BATCH` photos, but never one that would have to be waited for while others are
        ready: who pipes in a path at a time gets an answer at a time.
        """
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
