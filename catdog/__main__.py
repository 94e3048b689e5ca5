"""The command `catdog`, and `python -m catdog`: label photos with the project's own network."""

import argparse
import sys

from catdog import Classifier, cli
from catdog.files import printable
from catdog.photos import decode


def main(argv: list[str] | None = None) -> int:
    """Print one line per photo: path, label and probability, or "unknown" and novelty."""
    parser = argparse.ArgumentParser(prog="catdog", description=main.__doc__)
    parser.add_argument(
        "photos", nargs="+", metavar="PHOTO", help="image files, folders, - for paths on stdin"
    )
    args = parser.parse_args(argv)
    classifier, names = Classifier(), []

    def photos():
        for path, error in decode.find(args.photos):
            names.append(path)
            yield error or path

    code = 0
    for place, found in enumerate(classifier.stream(photos())):
        name = printable(names[place])
        if found.error:
            cli.say(f"{name}: {found.error}")
            code = 1
        elif found.unknown:
            print(f"{name}\tunknown\t{found.novelty:.4f}")
        else:
            print(f"{name}\t{printable(found.label)}\t{found.probability:.4f}")
        sys.stdout.flush()
    return code


def command() -> None:
    """Run `main` as a script: errors are one line, the exit code is that of predict.py."""
    cli.run(main)


if __name__ == "__main__":
    command()
