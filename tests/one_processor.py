"""`train.py` with Keras's own batch normalization, which several devices use, on one device."""

import conftest  # noqa: F401  for the path

import normalization
import terminal
import train

normalization.fuse = lambda network: network
terminal.run_program(train.main)
