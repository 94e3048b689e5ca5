"""The networks by name, each readable from top to bottom.

Input: (batch, height, width, 3), RGB, values 0-255; the pixels are scaled inside the network.
Output: (batch, 1), the logit of class 1, where there are two classes; (batch, classes) beyond.
"""

import keras
from keras import layers


def plain(inputs, outputs, dropout):
    """The default: ten 3x3 convolutions and five poolings, for any image size of 32 and more."""
    x = layers.Rescaling(1 / 127.5, offset=-1)(inputs)  # 0..255 -> -1..1
    # For an input of 128 px:
    x = conv(x, 32, pool=True)  # (batch, 64, 64, 32)
    x = conv(x, 64, pool=True)  # (batch, 32, 32, 64)
    x = conv(x, 128)
    x = conv(x, 128, pool=True)  # (batch, 16, 16, 128)
    x = conv(x, 192)
    x = conv(x, 192, pool=True)  # (batch, 8, 8, 192)
    x = conv(x, 256)
    x = conv(x, 256, pool=True)  # (batch, 4, 4, 256)
    x = conv(x, 256)
    x = conv(x, 256)
    x = layers.GlobalAveragePooling2D()(x)  # (batch, 256)
    x = layers.Dropout(dropout)(x)
    return output(x, outputs)


def conv(x, filters, pool=False):
    """Convolution, batch normalization, ReLU; with max-pooling that halves height and width.

    Pooling stands before the normalization (as in KellerJordan/cifar10-airbench): ReLU and
    max-pooling may change places, and normalizing a quarter of the values makes a whole training
    step of the default network 1.6 times faster in float32 and 2.2 times in bfloat16 (two cores).
    """
    x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
    if pool:
        x = layers.MaxPooling2D()(x)
    x = layers.BatchNormalization(momentum=0.9)(x)
    return layers.ReLU()(x)


def classic(inputs, outputs, dropout):
    """The textbook stack: conv, ReLU, conv, ReLU, pool, ReLU, conv, ReLU, pool, fully connected."""
    x = layers.Rescaling(1 / 127.5, offset=-1)(inputs)  # 0..255 -> -1..1
    # For an input of 128 px:
    x = layers.Conv2D(32, 3, padding="same")(x)  # (batch, 128, 128, 32)
    x = layers.ReLU()(x)
    x = layers.Conv2D(32, 3, padding="same")(x)
    x = layers.ReLU()(x)
    x = layers.MaxPooling2D()(x)  # (batch, 64, 64, 32)
    x = layers.ReLU()(x)
    x = layers.Conv2D(64, 3, padding="same")(x)
    x = layers.ReLU()(x)
    x = layers.MaxPooling2D()(x)  # (batch, 32, 32, 64)
    x = layers.Flatten()(x)  # (batch, 65536)
    x = layers.Dense(128)(x)
    x = layers.ReLU()(x)
    x = layers.Dropout(dropout)(x)
    return output(x, outputs)


def dnn(inputs, outputs, dropout):
    """Fully connected layers only: no layer knows which pixels are neighbours."""
    x = layers.Rescaling(1 / 127.5, offset=-1)(inputs)  # 0..255 -> -1..1
    # For an input of 64 px:
    x = layers.Flatten()(x)  # (batch, 12288)
    x = layers.Dense(256)(x)
    x = layers.ReLU()(x)
    x = layers.Dense(128)(x)
    x = layers.ReLU()(x)
    x = layers.Dropout(dropout)(x)
    return output(x, outputs)


def output(x, outputs):
    """The fully connected output, in float32 whatever the precision of the layers before it."""
    return layers.Dense(outputs, dtype="float32")(x)


ARCHITECTURES = {"plain": plain, "classic": classic, "dnn": dnn}


def build(arch, classes, image_size, dropout=0.0):
    """Builds a network with fresh weights.

    Args:
        arch: a name from `ARCHITECTURES`.
        classes: number of classes, 2 or more.
        image_size: height and width in px of the images, or None for any size (`plain` only).
        dropout: share of the last features that are zeroed in training, 0 to below 1.
    Returns:
        An uncompiled `keras.Model` of plain Keras layers; see the top of this file for its shapes.
    """
    inputs = keras.Input((image_size, image_size, 3))
    outputs = ARCHITECTURES[arch](inputs, 1 if classes == 2 else classes, dropout)
    return keras.Model(inputs, outputs, name=arch)


def for_prediction(network, image_size):
    """The trained network as prediction runs it: at one image size, with named outputs.

    Input: `photos`, (batch, image_size, image_size, 3). Outputs, a dict: `logits`, those of
    `network`, and `evidence`, (batch, height, width, outputs): a logit for every position of the
    last feature map. The logits are the mean of the evidence, as pooling and the output layer are
    linear and may change places. It is missing where the network does not end in these two.
    """
    photos = keras.Input((image_size, image_size, 3), name="photos")
    *_, pooling, dense = (x for x in network.layers if not isinstance(x, layers.Dropout))
    if isinstance(pooling, layers.GlobalAveragePooling2D) and isinstance(dense, layers.Dense):
        evidence = dense(keras.Model(network.inputs, pooling.input)(photos))
        return keras.Model(photos, {"logits": pooling(evidence), "evidence": evidence})
    return keras.Model(photos, {"logits": network(photos)})
