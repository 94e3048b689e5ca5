"""Run a short form of all benchmarks, one after another; each has a long form of its own.

python -m benchmarks
"""

import argparse
import subprocess
import sys
import time

from benchmarks import measuring
from catdog import cli
from catdog.errors import UserError
from catdog.runs.run import WEIGHTS

NAMES = ("accuracy", "step", "pipeline", "growth", "predict")
SECONDS = 400  # of all; loading Keras again and again may take as long on a slow machine


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Run a short form of all benchmarks in less than ten minutes.",
    )
    parser.add_argument(
        "--data-dir", metavar="DIR", help="labelled photos (default: tmp, or drawings if none)"
    )
    args = parser.parse_args(argv)
    data_dir, *_ = measuring.find_photos(args.data_dir)
    names = [name for name in NAMES if name != "predict" or WEIGHTS.is_dir()]
    end = time.perf_counter() + SECONDS
    for number, name in enumerate(names):
        seconds = int(max(1, end - time.perf_counter()) / (len(names) - number)) or 1
        print(f"## {name}\n", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{name}", "--quick"]
        command += ["--seconds", str(seconds), "--data-dir", str(data_dir.resolve())]
        process = subprocess.run(command, cwd=measuring.ROOT, env=measuring.environment())
        if process.returncode != 0:
            raise UserError(f"exit code {process.returncode} of benchmarks.{name}")
        print(flush=True)
    return 0


if __name__ == "__main__":
    cli.run(main)
