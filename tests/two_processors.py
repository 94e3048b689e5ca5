"""`train.py` where TensorFlow takes the processor for two devices."""

import conftest  # noqa: F401  for the path
import tensorflow as tf

from catdog import cli as terminal
import train

processor = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
terminal.run(train.main)
