"""The devices that a network is trained on: all of this machine, or of several.

Every device holds the whole network and takes an equal share of each batch, so that the losses are
those of one device. TensorFlow does it with `tf.distribute.MirroredStrategy`, on one machine; JAX
with `keras.distribution.DataParallel`, on one machine or several; PyTorch trains on one device.
With one device, only `keep_freed_memory` changes anything.

The words for several processes are JAX's: the coordinator is the process that the others connect
to, and each has a process index, from 0.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import ctypes
import dataclasses
import functools
import hashlib
import importlib.util
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from catdog import backend, cli
from catdog.backend import index, keras, processes, redirected, tf
from catdog.errors import UserError, is_out_of_memory
from catdog.training.settings import Settings

HEARTBEAT = 20  # seconds of silence after which JAX gives a process up and ends the others
LOST = "lost another process; to continue, use --resume on each machine"
SIGNS = ("gloo", "nccl", "distributed service")  # of that, in errors
SHUTDOWN = 3600  # seconds that processes wait at the end for the first, which scores the network


def flags() -> argparse.ArgumentParser:
    """Return a parent parser of the flags that start several processes."""
    parser = argparse.ArgumentParser(add_help=False)
    add = parser.add_argument
    # fmt: off
    add("--hosts", type=cli.addresses, metavar="HOST:PORT,...",
        help="train on several machines (with KERAS_BACKEND=jax): comma-separated addresses of all "
        "machines, in the same order on each")
    add("--rank", type=cli.whole_number(0, 1023), metavar="N",
        help="which of --hosts this machine is, from 0; only process 0 writes the run directory")
    add("--cluster", action="store_const", const=True,
        help="train on several machines that Slurm, Open MPI, Kubernetes or a TPU pod started")
    # fmt: on
    return parser


@contextlib.contextmanager
def join(addresses: Sequence[str] | None, rank: int | None, cluster: bool) -> Iterator[None]:
    """Connect the processes of a distributed run, before anything is computed; leave at the end.

    Only process 0 says anything from then on.

    Args:
        addresses: HOST:PORT of every process, the coordinator first; None for a single process.
        rank: which of them this is, from 0.
        cluster: let JAX find all this out from Slurm, Open MPI, Kubernetes or a TPU pod.
    Raises:
        UserError: a backend other than JAX, or processes that cannot be connected. TensorFlow's
            `MultiWorkerMirroredStrategy` fails in Keras's `fit` (keras#20585).
    """
    if not addresses and not cluster:
        yield
        return
    # Errors from joining are blamed on the flag, others in the block are not.
    blamed = functools.partial(cli.blame, "--cluster" if cluster else "--hosts")
    with blamed():
        _connect(addresses, rank, cluster)
    keras.utils.set_random_seed(0)  # or Keras would draw a common seed over the network
    try:
        with blamed():
            _check_equal_devices()
            with redirected(1, 2):  # the first message between processors prints a line
                from jax.experimental import multihost_utils

                multihost_utils.sync_global_devices("joined")
        if index() > 0:
            cli.say(f"Process {index()} of {processes()}: process 0 says the rest")
            cli.silence()
        yield
    except BaseException as error:
        # JAX's own exit handler would wait for the other processes, which wait for this one.
        if any(word in str(error).lower() for word in SIGNS) and isinstance(error, Exception):
            reason = " ".join(str(error).split())[:200]
            error = UserError(f"{LOST}: {reason}")
        atexit.register(os._exit, _exit_code(error))
        raise error


def _connect(addresses: Sequence[str] | None, rank: int | None, cluster: bool) -> None:
    if not cluster and rank >= len(addresses):
        raise UserError(
            f"expected a whole number from 0 to {len(addresses) - 1}, as there are "
            f"{len(addresses)} hosts, got {rank}",
            "--rank",
        )
    if keras.backend.backend() != "jax":
        raise UserError(
            f"expected KERAS_BACKEND=jax, got the backend {keras.backend.backend()}, which trains "
            "on one machine"
        )
    import jax

    if not cluster and rank == 0:
        _check_port(addresses[0])
    jax.config.update("jax_enable_preemption_service", False)  # which takes SIGTERM for itself
    try:
        jax.distributed.initialize(
            *([] if cluster else [addresses[0], len(addresses), rank]),
            # Not at all addresses of this machine.
            coordinator_bind_address=None if cluster else addresses[0],
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=SHUTDOWN,
        )
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"JAX cannot connect the processes: {reason}") from None
    if os.name == "posix":
        ctypes.CDLL(None).signal(signal.SIGABRT, _end_instead)


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _end_instead(signum: int) -> None:
    """End with a line of ours: JAX aborts this process, in a thread, after another has ended."""
    time.sleep(2)  # mostly the main thread ends meanwhile, with the reason
    cli.last_line(f"error: {LOST}")
    os._exit(2)


def _check_port(address: str) -> None:
    """Raise UserError if the coordinator cannot listen at its port: JAX may crash then."""
    name, _, port = address.rpartition(":")
    try:
        (family, *_, place), *_ = socket.getaddrinfo(name.strip("[]"), int(port))
        socket.create_server(place[:2], family=family).close()
    except (OSError, UnicodeError) as error:
        raise UserError(f"cannot listen at {address}: {error}") from None


def _check_equal_devices() -> None:
    """Raise UserError unless all processes have as many devices, which JAX takes for granted."""
    import jax

    own, everywhere = jax.local_device_count(), jax.device_count()
    if own * jax.process_count() != everywhere:
        raise UserError(
            f"expected the same number of devices in each of {jax.process_count()} processes, got "
            f"{own} of {everywhere} in process {jax.process_index()}"
        )


def _exit_code(error: BaseException) -> int:
    if cli.stopped_by:
        return 128 + cli.stopped_by
    return 2 if isinstance(error, UserError) else 1


def share(count: int) -> slice:
    """Return which of `count` photos, the same in every process, this process reads."""
    own = count // processes()
    return slice(index() * own, (index() + 1) * own)


def keep_freed_memory() -> None:
    """Have the C library keep the memory that a step frees, for the next step.

    By default glibc returns it to the system and gets it back page by page, which makes steps on
    the CPU slower; docs/EXPERIMENTS.md has the figures.
    """
    with contextlib.suppress(OSError, TypeError, AttributeError):  # not glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no block of its own for a large array
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD, in bytes


def devices() -> list[str]:
    """Return the devices to train on, such as `gpu:0`, of all machines: the best kind there is."""
    if keras.backend.backend() == "torch":  # which Keras trains on one device
        return [f"{keras.ops.zeros(()).device.type}:0"]
    return keras.distribution.list_devices()


SEES_A_GPU = {
    "torch": "import torch; assert torch.cuda.is_available() or torch.backends.mps.is_available()",
    "jax": "import jax; assert jax.default_backend() != 'cpu'",
}  # by backend: a program that fails if it sees none


def backend_with_a_gpu() -> str | None:
    """Return an installed backend that sees a GPU here, if the present one sees none.

    TensorFlow has no GPU on native Windows and on Apple silicon, where PyTorch has one.
    """
    apple = platform.system() == "Darwin" and platform.machine() == "arm64"
    if not (apple or shutil.which("nvidia-smi") or Path("/dev/kfd").exists()):
        return None  # before programs are run that take seconds
    for name, program in SEES_A_GPU.items():
        if name != keras.backend.backend() and importlib.util.find_spec(name):
            child = subprocess.run([sys.executable, "-c", program], capture_output=True)
            if child.returncode == 0:
                return name
    return None


@contextlib.contextmanager
def scope() -> Iterator[None]:
    """Build, train and score networks on all devices in this block; all processes enter it."""
    names = devices()
    if len(names) == 1:
        yield
    elif keras.backend.backend() == "tensorflow":
        with tf.distribute.MirroredStrategy([f"/{name}" for name in names]).scope():
            yield
    else:
        # On processors, JAX's collectives print a line, which is not among the results.
        distribution = keras.distribution.DataParallel(devices=names, auto_shard_dataset=False)
        with distribution.scope(), redirected(1, 2):
            yield


def synchronize(network: keras.Model) -> None:
    """Have batch normalization use the mean and variance of a whole batch, not of a share of it.

    JAX computes so anyway.
    """
    if keras.backend.backend() == "tensorflow" and tf.distribute.has_strategy():
        for layer in network.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = True


def divisible(batch_size: int) -> int:
    """Return the largest batch of at most `batch_size` that all devices can share equally."""
    return batch_size - batch_size % len(devices())


def check_batch_size(batch_size: int) -> None:
    """Raise UserError if the devices cannot share a batch equally."""
    count = len(devices())
    if batch_size % count or not batch_size:
        raise UserError(
            f"expected a batch of a multiple of {count} photos, as there are {count} devices, got "
            f"{batch_size}"
        )


@contextlib.contextmanager
def memory_errors_explained(settings: Settings) -> Iterator[None]:
    """Raise UserError, with what helps, if memory does not suffice in this block."""
    try:
        yield
    except Exception as error:
        if cli.stopped_by:
            raise KeyboardInterrupt from None
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"not enough memory to train on {devices()[0]}: try a smaller --batch-size (here "
            f"{settings.batch_size}) or --image-size (here {settings.image_size})"
        ) from error


# --- What all processes know ----------------------------------------------------------------------


def broadcast(content: bytes | None) -> bytes | None:
    """Return to every process the bytes that process 0 gives."""
    if processes() == 1:
        return content
    from jax.experimental.multihost_utils import broadcast_one_to_all

    # Arrays must have one shape everywhere: the length comes first, then the content.
    length = int(broadcast_one_to_all(np.array(-1 if content is None else len(content))))
    if length < 0:
        return None
    data = np.frombuffer(content, np.uint8) if index() == 0 else np.zeros(length, np.uint8)
    return np.asarray(broadcast_one_to_all(data)).tobytes()


@contextlib.contextmanager
def own_copy(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """Yield a folder to read from: `folder` in process 0, a copy of its files in the others.

    Process 0 alone need have the folder; of the files `names`, those that exist are copied.
    """
    if index() == 0:
        for name in names if processes() > 1 else ():
            broadcast((folder / name).read_bytes() if (folder / name).is_file() else None)
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        for name in names:
            content = broadcast(None)
            if content is not None:
                Path(temporary, name).write_bytes(content)
        yield Path(temporary)


def agree(facts: dict[str, object]) -> None:
    """Raise UserError in every process unless all have the same `facts`, named in the message."""
    if processes() == 1:
        return
    from jax.experimental.multihost_utils import process_allgather

    digests = [hashlib.sha256(json.dumps(fact).encode()).digest()[:4] for fact in facts.values()]
    own = np.frombuffer(b"".join(digests), np.int32)
    all_processes = np.asarray(process_allgather(own))  # (processes, facts)
    differing = [
        f"{name} ({fact} in process {index()})"
        for (name, fact), column in zip(facts.items(), all_processes.T, strict=True)
        if len(set(column.tolist())) > 1
    ]
    if differing:
        raise UserError(f"expected the same in all processes, got different {'; '.join(differing)}")


def check_run(settings: Settings, dataset) -> None:
    """Raise UserError unless the devices can share a batch and all processes agree.

    Args:
        dataset: the `data.Dataset` to train on.
    """
    with cli.blame("--batch-size"):
        check_batch_size(settings.batch_size)
    versions = {name: each for name, each in backend.versions().items() if name != "python"}
    with cli.blame("--hosts"):
        agree(
            {
                **versions,
                **dataclasses.asdict(settings),
                **dataset.split_sizes(),
                "digest of the photos": dataset.digest(),
                "device": devices()[0],
            }
        )
