"""The devices that a network is trained on: all of this machine, or of several.

Every device holds the whole network and takes an equal share of each batch, so that the losses are
those of one device. With TensorFlow it is `tf.distribute.MirroredStrategy`, on one machine; with
JAX it is `keras.distribution.DataParallel`, on one machine or several (see hosts.py). Where there
is one device, nothing here changes anything.
"""

import contextlib
import os
import sys

import data
from catdog.backend import keras, tf
from catdog.errors import UserError


def check_backend():
    """Raises `UserError` where --hosts is not for the backend.

    TensorFlow's `MultiWorkerMirroredStrategy` fails in Keras's `fit` (keras#20585).
    """
    if keras.backend.backend() != "jax":
        raise UserError(f"--hosts: expected KERAS_BACKEND=jax, got the backend "
                        f"{keras.backend.backend()}, which trains on one machine")


def initialize(team):
    """Connects the JAX of every process, before anything is computed."""
    if len(team.hosts) == 1:
        return
    # Keras would draw a common seed over the network, and needs none.
    keras.utils.set_random_seed(0)
    try:
        keras.distribution.initialize(",".join(team.hosts), len(team.hosts), team.rank)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--hosts: JAX cannot connect to {team.hosts[0]}: {reason}") from None


def devices():
    """The devices to train on, such as `gpu:0`, of all machines: the best kind that there is."""
    return keras.distribution.list_devices()


def of_this_machine():
    """How many devices this process has, and of which kind; JAX needs as many in every process."""
    kind = devices()[0].split(":")[0]
    if keras.backend.backend() != "jax":
        return f"{len(devices())} {kind}"
    import jax  # Keras lists those of all machines

    return f"{jax.local_device_count()} {kind}"


@contextlib.contextmanager
def scope(team):
    """In this block networks are built, trained and scored on all devices; all processes enter it.

    They do so together: Gloo, which connects processors for JAX, waits for 30 seconds at first.
    """
    team.meet()
    names = devices()
    if len(names) == 1:
        yield
    elif keras.backend.backend() == "tensorflow":
        with tf.distribute.MirroredStrategy([f"/{name}" for name in names]).scope():
            yield
    else:
        # Each process reads its own share of a batch; Keras would have each read all of it.
        parallel = keras.distribution.DataParallel(devices=names, auto_shard_dataset=False)
        with parallel.scope(), _stdout_to_stderr():
            yield


@contextlib.contextmanager
def _stdout_to_stderr():
    """Keeps what JAX's collectives say, a line of Gloo's, out of the results."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def share():
    """(i, n): this process takes the i-th of n equal parts of every batch."""
    parallel = keras.distribution.distribution()
    return (parallel.data_shard_id, parallel.num_processes) if parallel else (0, 1)


def evaluation_batches(dataset, members, batch_size, size):
    """`data.evaluation_batches`, in equal shares where there are several devices."""
    if keras.distribution.distribution() or tf.distribute.has_strategy():
        return data.shared_evaluation_batches(dataset, members, batch_size, size, share())
    return data.evaluation_batches(dataset, members, batch_size, size)


def synchronize(network):
    """Has batch normalization take its mean and variance over all of a batch, not a share of it.

    JAX computes so anyway.
    """
    if tf.distribute.has_strategy():
        for layer in network.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = True


def divisible(batch_size):
    """The largest batch of at most so many photos that all devices have an equal share of."""
    return batch_size - batch_size % len(devices())


def check_batch_size(batch_size, flag):
    """Raises `UserError` where the devices cannot have equal shares of a batch."""
    count = len(devices())
    if batch_size % count or not batch_size:
        raise UserError(f"{flag}: expected batches of a multiple of {count} photos, as there are "
                        f"{count} devices, got {batch_size}")
