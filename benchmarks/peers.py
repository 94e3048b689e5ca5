"""Two programs that a user would pick instead, each written anew from its published description.

`keras`: the example of the Keras documentation, with the settings under which its training log was
published (https://keras.io/examples/vision/image_classification_from_scratch/, 2022): a small
Xception, 180 px, batches of 128, Adam at 0.001, mirror images and rotations.

`tutorial`: the network of the most copied tutorial (F. Chollet, Deep Learning with Python, 2017,
section 5.2): 150 px, four Conv-ReLU-Pool, dense 512, batches of 32, RMSprop at 0.0001. Its
ImageDataGenerator, which Keras no longer advises, is replaced by the layers that took its place,
without the shear: that makes it faster than it was.

    python -m benchmarks.peers keras FOLDER --steps 4        images a second, training and scoring
    python -m benchmarks.peers tutorial FOLDER --minutes 3   and accuracy by the clock

FOLDER holds train/<class>/* and validation/<class>/*. Prints a line of JSON.
"""

import argparse
import time
from pathlib import Path

from catdog.backend import quiet
from catdog.cli import number, run_program, whole_number
from catdog.scores import metrics as report

STARTED = time.perf_counter()
with quiet():  # the clock runs meanwhile, as for train.py
    import keras
    import tensorflow as tf
    from keras import layers

# Validation accuracy after each epoch, as published with the example.
KERAS_PUBLISHED = [
    0.4957, 0.4957, 0.4957, 0.7520, 0.8545, 0.8825, 0.9135, 0.9227, 0.9178, 0.9107, 0.8768, 0.8419,
    0.8456, 0.9417, 0.9406, 0.9054, 0.9378, 0.9432, 0.8904, 0.9182, 0.8751, 0.9551, 0.9299, 0.9575,
    0.8710,
]
TUTORIAL_PUBLISHED = 0.82  # after 100 epochs on 2,000 photos


def small_xception():
    """The network of the Keras example, for 180 px, compiled."""
    inputs = keras.Input((180, 180, 3))
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.Conv2D(128, 3, strides=2, padding="same")(x)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU()(x)
    for filters in (256, 512, 728):
        shortcut = layers.Conv2D(filters, 1, strides=2, padding="same")(x)
        for _ in range(2):
            x = layers.ReLU()(x)
            x = layers.SeparableConv2D(filters, 3, padding="same")(x)
            x = layers.BatchNormalization()(x)
        x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
        x = layers.Add()([x, shortcut])
    x = layers.SeparableConv2D(1024, 3, padding="same")(x)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU()(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(0.5)(x)
    network = keras.Model(inputs, layers.Dense(1, activation="sigmoid")(x))
    network.compile(keras.optimizers.Adam(1e-3), "binary_crossentropy", metrics=["accuracy"])
    return network


def four_convolutions():
    """The network of the tutorial, for 150 px, compiled."""
    inputs = keras.Input((150, 150, 3))
    x = layers.Rescaling(1 / 255)(inputs)
    for filters in (32, 64, 128, 128):
        x = layers.Conv2D(filters, 3, activation="relu")(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Flatten()(x)
    x = layers.Dropout(0.5)(x)
    x = layers.Dense(512, activation="relu")(x)
    network = keras.Model(inputs, layers.Dense(1, activation="sigmoid")(x))
    network.compile(keras.optimizers.RMSprop(1e-4), "binary_crossentropy", metrics=["accuracy"])
    return network


PEERS = {  # network, px, batch size, augmentation
    "keras": (small_xception, 180, 128, [
        (layers.RandomFlip, "horizontal"), (layers.RandomRotation, 0.1)]),
    "tutorial": (four_convolutions, 150, 32, [
        (layers.RandomFlip, "horizontal"), (layers.RandomRotation, 40 / 360),
        (layers.RandomTranslation, 0.2, 0.2), (layers.RandomZoom, 0.2)]),
}


def photos_of(folder, size, batch_size, augmentation=None):
    """Batches of the photos in a folder of folders, as both programs stream them."""
    batches = keras.utils.image_dataset_from_directory(
        folder, image_size=(size, size), batch_size=batch_size, seed=1337, verbose=False)
    if augmentation:
        augment = keras.Sequential([layer(*arguments) for layer, *arguments in augmentation])
        batches = batches.map(lambda images, labels: (augment(images, training=True), labels),
                              num_parallel_calls=tf.data.AUTOTUNE)
    return batches.prefetch(tf.data.AUTOTUNE)


class Clock(keras.callbacks.Callback):
    """The time of every step, and of every epoch with its validation accuracy."""

    def __init__(self, minutes):
        super().__init__()
        self.minutes = minutes
        self.steps, self.points = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append(time.perf_counter())

    def on_epoch_end(self, epoch, logs=None):
        seconds = time.perf_counter() - STARTED
        self.points.append([seconds, logs["val_accuracy"]])
        self.model.stop_training = seconds > 60 * self.minutes


def measure(name, folder, steps=None, minutes=0.0):
    """Trains one of `PEERS`: `steps`, or whole epochs until so many minutes are over.

    Returns:
        A dict: images_per_second of training, without the first step; scored_per_second; points,
        [seconds since the start, validation accuracy] after each epoch.
    """
    make, size, batch_size, augmentation = PEERS[name]
    network = make()
    training = photos_of(folder / "train", size, batch_size, augmentation)
    validation = photos_of(folder / "validation", size, batch_size)
    clock = Clock(minutes)
    scored = validation.take(2) if steps else validation
    network.fit(training.repeat() if steps else training, steps_per_epoch=steps, verbose=0,
                epochs=1 if steps else 1000, validation_data=scored, callbacks=[clock])
    first = len(clock.steps) if steps else len(clock.steps) // len(clock.points)  # one epoch alone
    seconds = clock.steps[first - 1] - clock.steps[0]
    images = sum(len(labels) for _, labels in scored)
    started = time.perf_counter()
    network.evaluate(scored, verbose=0)  # by now it is compiled
    return {"images_per_second": (first - 1) * batch_size / seconds,
            "scored_per_second": images / (time.perf_counter() - started),
            "parameters": network.count_params(), "points": clock.points}


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description="Trains a program of somebody else's.")
    add = parser.add_argument
    add("peer", choices=PEERS)
    add("folder", metavar="FOLDER", type=Path, help="with train/<class>/*, validation/<class>/*")
    add("--steps", type=whole_number(2), metavar="N", help="train N steps, to measure the rate")
    add("--minutes", type=number(0, 600), default=3.0, metavar="M",
        help="without --steps: train whole epochs until M minutes are over (default: 3)")
    args = parser.parse_args(argv)
    print(report.to_json(measure(args.peer, args.folder, args.steps, args.minutes)))
    return 0


if __name__ == "__main__":
    run_program(main)
