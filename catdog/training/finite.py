"""A run stops, and says why, when its loss or its weights are no longer finite."""

from collections.abc import Sequence

import numpy as np

from catdog.errors import UserError
from catdog.training.settings import Settings

LIKELY_CAUSES = """\
Likely causes: a learning rate that is too high (--lr, here {lr:g}); a batch of very few photos
(--batch-size, here {batch_size}). --resume would repeat the same steps. Start a new run instead."""


def check(loss: float, arrays: Sequence[np.ndarray], epochs: int, settings: Settings) -> None:
    """Raise UserError if the loss or a weight is not finite after the given number of `epochs`.

    Looked at once per epoch: to look at each step would make the device wait for it.

    Args:
        loss: mean of the epoch.
        arrays: all that the checkpoint of the epoch would hold.
    """
    finite = np.isfinite(loss) and all(np.isfinite(array).all() for array in arrays)
    if not finite:
        advice = LIKELY_CAUSES.format(lr=settings.lr, batch_size=settings.batch_size)
        raise UserError(
            f"expected a finite loss and finite weights, got nan or inf in epoch {epochs}",
            advice=advice,
        )
