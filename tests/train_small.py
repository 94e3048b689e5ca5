"""`train.py` with the small settings of `first_steps`, in float32 whatever the processor is.

    python train_small.py one|keras-norm|two [arguments of train.py]

keras-norm: with Keras's own batch normalization, which several devices use; two: where TensorFlow
takes the processor for two devices.
"""

import sys

import conftest  # noqa: F401  for the path
import first_steps
import train
from catdog import cli
from catdog.training import normalization, optimizer
from catdog.training.recipe import RECIPES

kind = sys.argv.pop(1)
RECIPES["full"] = first_steps.SETTINGS
optimizer.best_precision = lambda device: "float32"
if kind == "keras-norm":
    normalization.fuse = lambda network: network
elif kind == "two":
    import tensorflow as tf

    processor = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        processor, [tf.config.LogicalDeviceConfiguration()] * 2
    )
cli.run(train.main)
