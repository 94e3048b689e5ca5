"""The command `catdog`, and `python -m catdog`: label photos."""

import argparse

from catdog import Classifier, cli
from catdog.photos import decode
from catdog.runs import lines


def main(argv: list[str] | None = None) -> int:
    """Print one line per photo: path, label, probability and novelty."""
    parser = argparse.ArgumentParser(prog="catdog", description=main.__doc__)
    parser.add_argument(
        "photos", nargs="+", metavar="PHOTO", help="image files, folders, - for paths on stdin"
    )
    parser.add_argument(
        "--model", metavar="RUN", help="a run directory (default: the project's own network)"
    )
    args = parser.parse_args(argv)
    code = 0
    with cli.blame("--model"):
        classifier = Classifier(args.model)
    for found in lines.answered(classifier.batches(decode.find(args.photos))):
        if found.error:
            code = 1
        else:
            print(lines.text(found))
    return code


def command() -> None:
    """Run `main` as a script: errors are one line, the exit code is that of predict.py."""
    cli.run(main)


if __name__ == "__main__":
    command()
