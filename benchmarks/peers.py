"""Two programs that a user would pick instead, each written anew from its published description.

`keras`: the example of the Keras documentation, with the settings under which its training log was
published (https://keras.io/examples/vision/image_classification_from_scratch/, 2022): a small
Xception, 180 px, batches of 128, Adam at 0.001, mirror images and rotations.

`tutorial`: the network of the most copied tutorial (F. Chollet, Deep Learning with Python, 2017,
section 5.2): 150 px, four Conv-ReLU-Pool, dense 512, batches of 32, RMSprop at 0.0001. Its
ImageDataGenerator, which Keras no longer advises, is replaced by the layers that took its place,
without the shear: that makes it faster than it was.

    python -m benchmarks.peers keras FOLDER --seconds 60

FOLDER holds train/<class>/* and validation/<class>/*. Prints a line of JSON.
"""

import argparse
import statistics
import time
from itertools import pairwise
from pathlib import Path

from catdog import cli
from catdog.backend import keras, layers, tf
from catdog.files import to_json


def small_xception() -> keras.Model:
    """Return the network of the Keras example, for 180 px, compiled."""
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


def four_convolutions() -> keras.Model:
    """Return the network of the tutorial, for 150 px, compiled."""
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


PEERS = {  # network, px, batch size, augmentation: layers with their arguments
    "keras": (small_xception, 180, 128, {"RandomFlip": ("horizontal",), "RandomRotation": (0.1,)}),
    "tutorial": (
        four_convolutions,
        150,
        32,
        {
            "RandomFlip": ("horizontal",),
            "RandomRotation": (40 / 360,),
            "RandomTranslation": (0.2, 0.2),
            "RandomZoom": (0.2,),
        },
    ),
}


def photos_of(
    folder: Path, size: int, batch_size: int, augmentation: dict | None = None
) -> tf.data.Dataset:
    """Stream the photos in a folder of folders, as both programs do."""
    batches = keras.utils.image_dataset_from_directory(
        folder, image_size=(size, size), batch_size=batch_size, seed=1337, verbose=False
    )
    if augmentation:
        augment = keras.Sequential([getattr(layers, k)(*args) for k, args in augmentation.items()])
        batches = batches.map(
            lambda images, labels: (augment(images, training=True), labels),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
    return batches.prefetch(tf.data.AUTOTUNE)


def measure(name: str, folder: Path, seconds: float, batch_size: int | None) -> dict:
    """Train one of `PEERS` for `seconds` after its first step, and for two steps at least.

    Returns:
        A dict. images_per_second: of training; scored_per_second: of validation; points: [seconds
        since the start, validation accuracy] after each epoch and at the end.
    """
    started = time.perf_counter()
    make, size, published, augmentation = PEERS[name]
    batch_size = batch_size or published
    steps, validations, points = [], [], []

    class Clock(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            steps.append(time.perf_counter())
            self.model.stop_training = len(steps) > 1 and steps[-1] - steps[0] >= seconds

        def on_test_begin(self, logs=None):
            validations.append(-time.perf_counter())

        def on_test_end(self, logs=None):
            validations[-1] += time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            points.append([time.perf_counter() - started, logs["val_accuracy"]])

    network = make()
    network.fit(
        photos_of(folder / "train", size, batch_size, augmentation),
        epochs=1000,
        shuffle=False,  # the stream is shuffled
        verbose=0,
        validation_data=photos_of(folder / "validation", size, batch_size),
        callbacks=[Clock()],
    )
    scored = sum(path.is_file() for path in (folder / "validation").glob("*/*"))
    return {
        # The median, as validation comes between some of the steps.
        "images_per_second": batch_size / statistics.median(b - a for a, b in pairwise(steps)),
        "scored_per_second": scored / min(validations),
        "parameters": network.count_params(),
        "points": points,
    }


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description="Train a program written by others."
    )
    add = parser.add_argument
    add("peer", choices=PEERS)
    add("folder", metavar="FOLDER", type=Path, help="with train/<class>/*, validation/<class>/*")
    add("--seconds", type=cli.number(0, 36_000), default=60.0, metavar="N", help="default: 60")
    add("--batch-size", type=cli.whole_number(1), metavar="N", help="default: as published")
    args = parser.parse_args(argv)
    print(to_json(measure(args.peer, args.folder, args.seconds, args.batch_size)))
    return 0


if __name__ == "__main__":
    cli.run(main)
