"""Runs a short form of all benchmarks, one after another; the long forms are in each of them.

    python -m benchmarks
"""

import argparse
import subprocess
import sys

from benchmarks import measuring
from catdog import cli as terminal
from catdog.cli import say
from catdog.errors import UserError
from catdog.runs import run as runs

NAMES = ("step", "pipeline", "growth", "predict", "accuracy")


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Runs a short form of all benchmarks in less than ten minutes.")
    parser.add_argument("--data-dir", metavar="DIR",
                        help="labelled photos (default: tmp, or drawings if none)")
    args = parser.parse_args(argv)
    data_dir, *_ = measuring.find_photos(args.data_dir)
    for name in NAMES:
        if name == "predict" and not runs.WEIGHTS.is_dir():
            say("predict: left out, there are no weights/")
            continue
        print(f"## {name}\n", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--data-dir", data_dir]
        process = subprocess.run(command, cwd=measuring.ROOT, env=measuring.environment())
        if process.returncode != 0:
            raise UserError(f"exit code {process.returncode} of benchmarks.{name}")
        print(flush=True)
    return 0


if __name__ == "__main__":
    terminal.run(main)
