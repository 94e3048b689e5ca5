"""The photos that a user wants left out: what `--exclude FILE` names."""

from pathlib import Path

from catdog.cli import say
from catdog.errors import UserError
from catdog.files import printable

HELP = ("names of photos to leave out, one a line: cat.4085, or a path below the data folder; "
        "# begins a comment")


def read(path):
    """The names in a file, sorted; none where `path` is None."""
    if path is None:
        return []
    try:
        text = Path(path).read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise UserError(f"--exclude: cannot read {printable(path)}: {error.strerror}") from None
    names = {line.split(" #")[0].strip() for line in text.splitlines()}
    return sorted(name for name in names if name and not name.startswith("#"))


def excluded(found, data_dir, names):
    """The numbers of the photos in a `layouts.Found` that `names` name; says which name none.

    A photo goes by what identifies it (`cat.4085`), by its path below the folder that holds the
    classes (`Cat/4085.jpg`, as predictions.csv has it), and by its path below `data_dir`.
    """
    below = found.root.relative_to(data_dir).as_posix()
    wanted, numbers, known = set(names), [], set()
    for number, (name, path) in enumerate(zip(found.names, found.paths, strict=True)):
        if ways := wanted & {name, path, f"{below}/{path}"}:
            numbers.append(number)
            known |= ways
    if missing := sorted(wanted - known):
        shown = ", ".join(map(printable, missing[:3])) + (", ..." if len(missing) > 3 else "")
        say(f"--exclude: {len(missing)} of {len(wanted)} names match no photo: {shown}")
    return numbers
