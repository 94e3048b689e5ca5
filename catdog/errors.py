"""The errors that a user can do something about, and names as text that can be printed."""

import os
import re
import unicodedata

# How Python, the three backends and their libraries say that memory does not suffice.
_NO_MEMORY = re.compile(
    "out of memory|oom when|resource.?exhausted|bad_alloc|alloc_failed|allocate memory", re.I
)
# The joiners within words of Persian and Hindi, and within emoji, belong to how these are written.
_JOINER_OR_OTHER = re.compile("(?<=[^\0-\x7f])[\u200c\u200d](?=[^\0-\x7f])|(.)", re.DOTALL)


class UserError(Exception):
    r"""A mistake in the command or its input. Scripts print it as one line and exit with 2.

    Args:
        message: may hold names and other text from anywhere: it becomes `printable`.
        argument: the command-line argument to blame, such as `--data-dir`, or None. Scripts set it
            (see `cli.blame`); the modules below them say only what is wrong.
        advice: further lines of help.
    """

    def __init__(self, message: str, argument: str | None = None, advice: str = ""):
        super().__init__(printable(message))
        self.argument, self.advice = argument, advice

    def __str__(self) -> str:
        message = super().__str__()
        blamed = f"argument {self.argument}: {message}" if self.argument else message
        return f"{blamed}\n{self.advice}" if self.advice else blamed


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error, of any backend, says that memory does not suffice."""
    return isinstance(error, MemoryError) or bool(_NO_MEMORY.search(str(error)))


def printable(path: str | bytes | os.PathLike) -> str:
    r"""Return a path as text for one output line that any UTF-8 terminal can show.

    Control characters (`\n`, `\t`, `\x1b`), invisible ones (`\u202e`) and bytes that are no text
    (`\xff`) are escaped; all other characters stay, spaces and backslashes among them.
    """
    text = os.fsdecode(path)
    return text if text.isprintable() else _JOINER_OR_OTHER.sub(_escaped, text)


def _escaped(match: re.Match) -> str:
    character = match[0]
    if match[1] is None or character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    if "\udc80" <= character <= "\udcff":  # how os.fsdecode keeps a byte that is no text
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
