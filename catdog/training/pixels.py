"""What is done to the pixels of a batch of photos on the device, written in `keras.ops`.

`sample` is all that evaluation does; the others are parts of the augmentation, see `data.augment`.
"""

from __future__ import annotations  # or the annotations would load Keras

from catdog.backend import keras


def sample(photos, rows, columns, dtype: str, contrast=1.0):
    """Return photos sampled at rows and columns.

    Sampling an axis is a product with a matrix, which processors and GPUs do faster than gathering.

    Args:
        photos: (batch, height, width, 3), 0-255, height and width alike.
        rows, columns: float32 (batch, size), see `data.positions`.
        dtype: the type of products and result. Whole numbers up to 256 are exact in bfloat16.
        contrast: what the result is multiplied by: 1, or (batch, 1, 1).
    Returns:
        (batch, size, size, 3), in 0-255 unless there is a `contrast`.
    """
    ops, pixels = keras.ops, keras.ops.shape(photos)[1]
    images = ops.cast(photos, dtype)
    for matrix in (sampling_matrix(rows, pixels), sampling_matrix(columns, pixels) * contrast):
        # Each turn samples the first axis of the photos, then exchanges their two axes.
        size, others = ops.shape(matrix)[1], ops.shape(images)[2]
        flat = ops.reshape(images, (-1, pixels, others * 3))
        flat = ops.matmul(ops.cast(matrix, dtype), flat)  # (batch, size, others * 3)
        images = ops.transpose(ops.reshape(flat, (-1, size, others, 3)), (0, 2, 1, 3))
    return images


def sampling_matrix(positions, pixels):
    """Return (batch, size, pixels): how much a position takes of each pixel; the rows sum to 1.

    This is bilinear interpolation: a triangle around the position. Where a photo gets smaller, the
    triangle is wider, so that fine fur does not turn into a pattern: it reaches 0.7 of the step
    between positions to each side. A whole step, as in `tf.image.resize`, blurs too much: val_loss
    0.24 and 0.21 instead of 0.19 and 0.16 (drawings of the demo, two seeds).
    """
    ops = keras.ops
    step = ops.abs(positions[:, 1:2] - positions[:, :1])
    width = ops.maximum(0.7 * step, 1.0)[:, :, None]
    distance = ops.abs(positions[:, :, None] - ops.arange(pixels, dtype="float32"))
    triangle = ops.maximum(0.0, 1.0 - distance / width)
    return triangle / ops.maximum(ops.sum(triangle, axis=-1, keepdims=True), 1e-6)


def turn(photos, angle):
    """Turn photos by angles in radians, (batch,). Empty corners get a mirror image of the photo."""
    ops, centre = keras.ops, (photos.shape[1] - 1) / 2
    cos, sin, zero = ops.cos(angle), ops.sin(angle), ops.zeros_like(angle)
    # Output pixel (x, y) is sampled at (a0 x + a1 y + a2, b0 x + b1 y + b2) of the photo.
    rows = [cos, -sin, centre * (1 - cos + sin), sin, cos, centre * (1 - sin - cos), zero, zero]
    return ops.image.affine_transform(
        ops.cast(photos, "float32"), ops.stack(rows, axis=1), "bilinear", "reflect"
    )


def corrupt(images, grey, dark, noise, small, seed: keras.random.SeedGenerator):
    """Make photos grey, dark or noisy, as drawn; scale half of them down and up again."""
    ops, half = keras.ops, keras.ops.shape(images)[0] // 2
    shrunk = shrink(images[:half], ops.maximum(small[:half, :, 0, 0], 1))
    shrunk = ops.where(small[:half] > 0, shrunk, images[:half])
    images = ops.concatenate([shrunk, images[half:]])
    without_colours = ops.mean(images, axis=-1, keepdims=True)
    images = (images + grey * (without_colours - images)) * dark
    normal = keras.random.normal(ops.shape(images), dtype=images.dtype, seed=seed)
    return ops.clip(images + noise * normal, 0, 255)


def shrink(images, small):
    """Scale images down to `small` px, (batch, 1), at most half their size, and up again."""
    ops, size = keras.ops, keras.ops.shape(images)[1]
    small = ops.cast(small, "float32")
    scale = ops.cast(size, "float32") / small
    # Shapes are fixed: `down` has size // 2 positions, but `up` reads only the first `small`.
    down = (ops.arange(size // 2, dtype="float32") + 0.5) * scale - 0.5
    up = ops.clip((ops.arange(size, dtype="float32") + 0.5) / scale - 0.5, 0, small - 1)
    return sample(sample(images, down, down, images.dtype), up, up, images.dtype)


def erase(images, row, column, reach):
    """Make a square grey: the network must not rely on one part of the animal.

    Method: cutout, DeVries and Taylor 2017.
    """
    ops, size = keras.ops, keras.ops.shape(images)[1]
    position = (ops.arange(size, dtype="float32") + 0.5) / ops.cast(size, "float32")
    rows = ops.abs(position - row[:, None]) < reach[:, None]
    columns = ops.repeat(ops.abs(position - column[:, None]) < reach[:, None], 3, axis=1)
    # With three equal columns per pixel: a third of the time of a mask that is broadcast.
    flat = ops.reshape(images, (-1, size, 3 * size))
    flat = ops.where(rows[:, :, None] & columns[:, None, :], ops.cast(127.5, images.dtype), flat)
    return ops.reshape(flat, (-1, size, size, 3))
