"""Ctrl-C while a script still loads its modules, before `cli.run`."""

import _signal as signal  # built in: to load the module signal takes milliseconds
import os
import sys


def end_quietly() -> None:
    """Have Ctrl-C end this process at once, with the exit code 130; a notebook is left as it is."""
    is_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else ignored
    if is_default and "IPython" not in sys.modules:
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
