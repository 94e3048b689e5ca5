"""The losses of the first training steps, as JSON: `first_steps.py PHOTOS CACHE WEIGHTS`.

A program, since Keras has one backend per process.
"""

import json
import sys

import numpy as np

import conftest  # noqa: F401  for the path
import data
import model
from catdog.backend import keras
from catdog.training import optimizer
from catdog.training.recipe import MILD
from catdog.training.settings import Settings

# Without dropout, whose random numbers differ between the backends. With seed 2 no rounding decides
# between two values of a ReLU or a pooling; with others, losses differ by 1e-4 (see below).
SETTINGS = Settings(epochs=2, batch_size=16, image_size=32, lr=5e-4, seed=2, **MILD)


def losses(photos_dir, cache_dir, weights, steps=4):
    """Losses of single steps from `weights`, an npz file, which the first to come here makes."""
    dataset = data.load(photos_dir, SETTINGS.score_size, cache_dir)
    # Of fixed weights: the backends round differently, and where that decides between two values
    # of a ReLU or a pooling, the difference grows. Measured at the fourth step, relatively: 1e-4
    # with seed 0, 5e-7 with seed 1, 1e-6 with seed 2; at the first step 1e-6 at most with all.
    keras.utils.set_random_seed(1)
    network = model.build(SETTINGS.arch, len(dataset.classes), None, SETTINGS.dropout)
    optimizer.compile(network, SETTINGS, len(dataset.classes), steps)
    try:
        with np.load(weights) as file:
            network.set_weights([file[f"arr_{i}"] for i in range(len(file.files))])
    except FileNotFoundError:
        np.savez(weights, *network.get_weights())
    found = []
    batches = data.training_batches(dataset, SETTINGS, 0)
    for inputs, targets in (batches[step] for step in range(steps)):
        network.reset_metrics()
        inputs = keras.tree.map_structure(keras.ops.convert_to_tensor, inputs)
        images = data.augment(inputs, SETTINGS, "float32", keras.random.SeedGenerator(0))
        scores = network.train_on_batch(images, targets, return_dict=True)
        found.append(float(scores["loss"]))
    return found


if __name__ == "__main__":
    print(json.dumps(losses(*sys.argv[1:])))
