"""`train.py` with Keras's own batch normalization, which several devices use, on one device."""

import conftest  # noqa: F401  for the path

from catdog.training import normalization
from catdog import cli as terminal
import train

normalization.fuse = lambda network: network
terminal.run(train.main)
