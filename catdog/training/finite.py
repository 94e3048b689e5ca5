"""A run stops, and says why, when its loss or its weights are no longer finite."""

from collections.abc import Sequence

import numpy as np

from catdog.errors import UserError


def check(loss: float, arrays: Sequence[np.ndarray], epochs: int, advice: str) -> None:
    """Raise UserError if the loss or a weight is not finite after the given number of `epochs`.

    Looked at once per epoch: to look at each step would make the device wait for it.

    Args:
        loss: mean of the epoch.
        arrays: all that the checkpoint of the epoch would hold.
        advice: lines that end the message.
    """
    finite = np.isfinite(loss) and all(np.isfinite(array).all() for array in arrays)
    if not finite:
        raise UserError(
            f"expected a finite loss and finite weights, got nan or inf in epoch {epochs}\n{advice}"
        )
