"""Takes one step of sharpness-aware minimization by hand and by Keras; prints both."""

import json

import numpy as np

from catdog.backend import keras, layers
from catdog.training import sharpness

RADIUS, RATE = 0.3, 0.1


def steps() -> tuple[list, list]:
    """Return weights, loss and mean absolute error after a step by hand and after one by Keras."""
    rng = np.random.default_rng(0)
    x, y, weights = rng.normal(size=(8, 3)), rng.normal(size=(8, 1)), rng.normal(size=(3, 1))
    inputs = keras.Input((3,))
    network = keras.Model(inputs, layers.Dense(1, use_bias=False)(inputs))
    network.set_weights([weights])
    network = sharpness.aware(network, RADIUS)
    network.compile(keras.optimizers.SGD(RATE), "mse", metrics=["mae"])

    def gradient(at, x, y):
        return 2 * x.T @ (x @ at - y) / len(x)

    of_a_quarter = gradient(weights, x[:2], y[:2])
    uphill = weights + RADIUS * of_a_quarter / np.linalg.norm(of_a_quarter)
    errors = x @ uphill - y
    stepped = weights - RATE * gradient(uphill, x, y)
    by_hand = [*stepped.flat, np.mean(errors**2), np.abs(errors).mean()]
    logs = network.fit(x, y, batch_size=8, shuffle=False, verbose=0).history
    by_keras = [*network.get_weights()[0].flat, logs["loss"][0], logs["mae"][0]]
    return [float(value) for value in by_hand], [float(value) for value in by_keras]


if __name__ == "__main__":
    print(json.dumps(steps()))
