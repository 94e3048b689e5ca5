"""A script with `two_convolutions` as network, the small settings of `first_steps`, and float32.

    python train_small.py one|keras-norm|two train.py|evaluate.py [arguments of the script]

keras-norm: with Keras's own batch normalization, which several devices use; two: where TensorFlow
takes the processor for two devices.
"""

import importlib
import sys

import conftest
import first_steps
import model
from catdog import cli
from catdog.training import normalization, optimizer
from catdog.training.recipe import RECIPES

kind, script = sys.argv.pop(1), sys.argv.pop(1)
model.ARCHITECTURES["plain"] = conftest.two_convolutions
RECIPES["full"] = first_steps.SETTINGS
optimizer.best_precision = lambda device: "float32"  # whatever the processor is
if kind == "keras-norm":
    normalization.fuse = lambda network: network
elif kind == "two":
    import tensorflow as tf

    processor = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        processor, [tf.config.LogicalDeviceConfiguration()] * 2
    )
cli.run(importlib.import_module(script.removesuffix(".py")).main)
