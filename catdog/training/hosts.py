"""The processes of a run on several machines: who they are, what they agree on, how they end.

JAX trains over connections of its own; these are for what it lacks. A process that fails ends all
others at once with one line that says which failed and why. JAX by itself lets them wait for 100
seconds and aborts them with a stack trace.

Rank 0 calls every other process at its HOST:PORT; on the port of rank 0 listens JAX. A message is
a kind, a length and so many bytes; nothing that is received is ever executed.
"""

import argparse
import atexit
import contextlib
import json
import os
import queue
import shutil
import socket
import struct
import sys
import tempfile
import threading
import time
from pathlib import Path

from catdog.cli import Terminated, say
from catdog.errors import UserError
from catdog.files import printable

WAIT = 300  # seconds for the others to be started
PULSE = 2  # seconds between signs of life
SILENCE = 60  # seconds after which a process that gives none is lost; one that ends is at once

LIFE, MESSAGE, STOPPED, DONE = KINDS = b"L", b"M", b"S", b"D"
EXIT_CODES = {UserError: 2, Terminated: 143, KeyboardInterrupt: 130}


def addresses(text):
    """An argparse type: the HOST:PORT of every process, as a list."""
    addresses = text.split(",")
    for address in addresses:
        name, _, port = address.rpartition(":")
        if not (name and port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
            raise argparse.ArgumentTypeError(
                f"expected HOST:PORT,HOST:PORT,... with ports from 1 to 65535, got {address!r}")
    if len(addresses) < 2 or len(set(addresses)) < len(addresses):
        raise argparse.ArgumentTypeError(
            f"expected two or more addresses, each once, got {text!r}")
    return addresses


@contextlib.contextmanager
def join(hosts=None, rank=0):
    """Gives the `Team` of the processes at `hosts`, of which this is number `rank`.

    Whatever ends the block ends it in all processes; they leave it together. Without `hosts` it
    is a team of one, for which everything here does nothing.

    Raises:
        UserError: a port in use, a process that does not answer or was given other hosts.
    """
    team = Team(hosts or [None], rank)
    try:
        if hosts:
            team.connect()
        yield team
        team.finish()
    except BaseException as error:
        team.fail(error)
        raise
    finally:
        team.clean()


class Team:
    """hosts: HOST:PORT of every process; rank: the number of this one; leads: whether it is 0."""

    def __init__(self, hosts, rank):
        self.hosts, self.rank, self.leads = hosts, rank, rank == 0
        self.advice = None  # what else to tell the user when another process is lost
        self._links = []  # of rank 0 to all others, of these to rank 0
        self._folder = None
        self._ending = threading.Lock()

    def connect(self):
        own = _listen(self.hosts[self.rank])
        threading.Thread(target=self._give_signs_of_life, daemon=True).start()
        with own:
            if not self.leads:
                self._be_called(own)
        if self.leads:  # on whose port, closed again, JAX will listen
            deadline = time.monotonic() + WAIT
            for rank, host in enumerate(self.hosts[1:], 1):
                self._call(rank, host, deadline)
        self.agree({"hosts": ",".join(self.hosts)})

    def _call(self, rank, host, deadline):
        """Rank 0 calls another."""
        name, attempts = f"rank {rank} at {host}", 0
        while True:
            try:
                connection = socket.create_connection(_endpoint(host), timeout=5)
                # A port that nobody listens on may be given to the caller, who then hears itself.
                if connection.getsockname() != connection.getpeername():
                    break
                connection.close()
            except socket.gaierror as error:
                raise UserError(f"--hosts: cannot find {host}: {error.strerror}") from None
            except OSError as error:
                if time.monotonic() > deadline:
                    reason = error.strerror or error
                    raise UserError(f"--hosts: expected {name} to answer within {WAIT} seconds: "
                                    f"{reason}") from None
            if attempts == 0:
                say(f"Waiting for {name}")
            attempts += 1
            time.sleep(1)
        link = Link(connection, name)
        link.send(MESSAGE, json.dumps({"rank": rank}).encode())
        self._add(link)

    def _be_called(self, own):
        """Another waits for the call of rank 0."""
        name = f"rank 0 at {self.hosts[0]}"
        say(f"Waiting for {name}")
        deadline = time.monotonic() + WAIT
        while not self._links:
            own.settimeout(max(0.1, deadline - time.monotonic()))
            try:
                connection, _ = own.accept()
            except TimeoutError:
                raise UserError(
                    f"--hosts: expected a call of {name} within {WAIT} seconds") from None
            link = Link(connection, name)
            try:
                called = json.loads(link.receive()[1])["rank"]
            except (OSError, ValueError, TypeError, KeyError):  # somebody else, such as a scanner
                connection.close()
                continue
            self._add(link)
            if called != self.rank:
                raise UserError(
                    f"--rank: expected {called} at {self.hosts[self.rank]}, got {self.rank}")

    def _add(self, link):
        self._links.append(link)
        threading.Thread(target=self._watch, args=[link], daemon=True).start()

    def _watch(self, link):
        """Hears what `link` has to say, and ends this process when it falls silent."""
        try:
            while True:
                kind, content = link.receive()
                if kind == STOPPED:
                    return self._end(link, f"{link.name} stopped: {printable(content)}")
                if kind != LIFE:
                    link.inbox.put(content)
                if kind == DONE:
                    return None
        except TimeoutError:
            self._end(link, f"lost {link.name}: no sign of life for {SILENCE} seconds")
        except OSError as error:
            self._end(link, f"lost {link.name}: {error.strerror or error}")

    def _end(self, link, reason):
        """Tells the others and the user, and ends the process, whatever it is waiting for."""
        if not self._ending.acquire(blocking=False):
            return
        self._tell_all(reason, but=link)
        say(f"{os.path.basename(sys.argv[0])}: error: --hosts: {reason}")
        if self.advice:
            say(self.advice)
        self._leave(2)

    def _leave(self, code):
        self.clean()
        os._exit(code)

    def _tell_all(self, reason, but=None):
        for link in self._links:
            if link is not but:
                with contextlib.suppress(OSError):
                    link.send(STOPPED, reason.encode("utf-8", "surrogateescape"))

    def _give_signs_of_life(self):
        while True:
            for link in self._links:
                with contextlib.suppress(OSError):  # for `_watch` to notice
                    link.send(LIFE)
            time.sleep(PULSE)

    def share(self, content=None):
        """Returns to every process the bytes that rank 0 gives."""
        if not self.leads:
            return self._links[0].inbox.get()
        for link in self._links:
            link.send(MESSAGE, content)
        return content

    def agree(self, facts):
        """Raises `UserError` unless all processes give the same dict of JSON's values."""
        text = json.dumps(facts)
        expected = json.loads(self.share(text.encode()))
        got = json.loads(text)
        if differing := [key for key in got if got[key] != expected.get(key)]:
            raise UserError("--hosts: expected the same as rank 0, " + "; ".join(
                f"{key} {expected.get(key)}, got {got[key]}" for key in differing))
        self.meet()

    def meet(self):
        """Waits until every process has come here."""
        if self.leads:
            for link in self._links:
                link.inbox.get()
            self.share(b"")
        else:
            self._links[0].send(MESSAGE)
            self.share()

    def own_copy(self, run):
        """The run directory to read from: `run` for rank 0, a copy of its files for the others.

        Of `run`, rank 0 alone need have it.
        """
        names = ("config.json", "checkpoint.npz", "metrics.json")
        if self.leads:
            for name in names if self._links else ():
                path = run / name
                self.share(path.read_bytes() if path.exists() else b"")
            return run
        self._folder = Path(tempfile.mkdtemp())
        for name in names:
            if content := self.share():
                (self._folder / name).write_bytes(content)
        return self._folder

    def finish(self):
        """Waits until rank 0 is done: JAX lets the processes go together or not at all."""
        if not self.leads:
            self._links[0].inbox.get()
        for link in self._links:
            link.send(DONE)
        for link in self._links if self.leads else ():
            link.inbox.get()

    def fail(self, error):
        """Tells the others that this process ends, and why."""
        if not self._links:
            return
        if isinstance(error, Exception) and not isinstance(error, UserError):
            # Where another process ended, this error is but its echo, and `_watch` will say so.
            now = time.monotonic()
            while any(link.heard < now + PULSE for link in self._links):
                time.sleep(0.1)
        if not self._ending.acquire(blocking=False):
            time.sleep(SILENCE)  # `_end` is about to end the process
        reason = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
        self._tell_all(" ".join((reason or type(error).__name__).split())[:500])
        code = next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), 1)
        atexit.register(self._leave, code)  # before JAX's own, which would wait for the others

    def clean(self):
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)


class Link:
    """A connection to another process, its `name`, when it was last `heard`, and its `inbox`."""

    def __init__(self, connection, name):
        connection.settimeout(SILENCE)
        self.name = name
        self.heard = time.monotonic()
        self.inbox = queue.SimpleQueue()
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, kind, content=b""):
        with self._lock:
            self._connection.sendall(struct.pack("!cQ", kind, len(content)) + content)

    def receive(self):
        """(kind, content) of the next message."""
        kind, length = struct.unpack("!cQ", self._read(9))
        if kind not in KINDS:
            raise ConnectionError("it is not train.py")
        content = self._read(length)
        self.heard = time.monotonic()
        return kind, content

    def _read(self, length):
        parts = []
        while length:
            part = self._connection.recv(min(length, 1 << 20))
            if not part:
                raise ConnectionError("it ended without a word")
            parts.append(part)
            length -= len(part)
        return b"".join(parts)


def _endpoint(host):
    name, _, port = host.rpartition(":")
    return name.strip("[]"), int(port)


def _listen(host):
    """A server at the port of `host`, on all networks of this machine."""
    port = _endpoint(host)[1]
    six = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if six else socket.AF_INET
    try:
        return socket.create_server(("", port), family=family, dualstack_ipv6=six)
    except OSError as error:
        raise UserError(f"--hosts: cannot use port {port}, for {host}: {error.strerror}") from None
