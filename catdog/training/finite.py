"""A run stops, and says why, when its loss or its weights are no longer finite."""

import contextlib
import re
from collections.abc import Iterator, Sequence

import numpy as np

from catdog.errors import UserError


@contextlib.contextmanager
def explained(epoch: int, steps: int, advice: str) -> Iterator[None]:
    """Raise UserError for the error of Keras's `TerminateOnNaN`, with the epoch and the step.

    Args:
        epoch: the epoch that is trained in the block, from 0.
        steps: the number of steps of an epoch.
        advice: lines that end the message.
    """
    try:
        yield
    except RuntimeError as error:
        found = re.search(r"NaN or Inf loss .* at batch (\d+)\. Loss value: (\S+)\.", str(error))
        if not found:
            raise
        raise UserError(
            f"expected a finite loss, got {found[2]} in epoch {epoch + 1} at step "
            f"{int(found[1]) + 1} of {steps}\n{advice}"
        ) from error


def check(arrays: Sequence[np.ndarray], epochs: int, advice: str) -> None:
    """Raise UserError if a weight is not finite after the given number of `epochs`."""
    if not all(np.isfinite(array).all() for array in arrays):
        raise UserError(f"expected finite weights after epoch {epochs}, got nan or inf\n{advice}")
