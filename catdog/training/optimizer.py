"""The training loop's parts: optimizer, loss, averaged weights, and `fit`, which joins them."""

import contextlib
import math
import platform
import time
from pathlib import Path

import keras
import numpy as np
from tqdm import tqdm

import data
from catdog.training import devices as distribution
from catdog.training import guards
import model as networks
from catdog.training import normalization
from catdog.training import recipe
from catdog.runs import run as runs
from catdog.errors import UserError
from catdog.files import printable


def best_precision(device):
    """The quickest dtype policy that loses no accuracy: bfloat16 where the chip multiplies in it.

    Measured on two cores with AMX: a training step of the default network in bfloat16 takes 0.6 of
    its time in float32. A processor without such instructions emulates bfloat16 and is slower.
    """
    if not device.startswith("cpu"):
        return "mixed_bfloat16"
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return "float32"
    fast = platform.machine() == "x86_64" and ("avx512_bf16" in flags or "amx_bf16" in flags)
    return "mixed_bfloat16" if fast else "float32"


def make_optimizer(settings, steps_per_epoch):
    """Muon and AdamW, at a rate that rises to `lr` in the warm-up and falls along a half cosine."""
    steps = settings.epochs * steps_per_epoch
    warmup = int(settings.warmup * steps)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, steps - warmup, warmup_target=settings.lr, warmup_steps=warmup
    )
    optimizer = ConvolutionMuon(
        schedule,
        weight_decay=settings.weight_decay,
        adam_weight_decay=settings.weight_decay,
        adam_lr_ratio=settings.adam_lr_ratio,
        ns_steps=3,  # as in KellerJordan/cifar10-airbench
        precision="bfloat16" if settings.precision == "mixed_bfloat16" else "float32",
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "beta", "gamma"])
    return optimizer


class ConvolutionMuon(keras.optimizers.Muon):
    """Muon (Jordan et al. 2024) for the kernels of convolutions, AdamW for everything else.

    Keras's own takes Muon steps on matrices alone and leaves convolutions to AdamW. As in the
    original, a kernel counts as a matrix with a column for each filter.
    """

    def __init__(self, *args, precision="float32", **kwargs):
        super().__init__(*args, **kwargs)
        self.precision = precision  # of the large products; bfloat16 is enough, says the original

    def _should_use_adamw(self, variable):
        return len(variable.shape) != 4

    def zeropower_via_newtonschulz5(self, x, steps):
        """Newton-Schulz on the Gram matrix of the filters.

        Every iteration multiplies the kernel X (rows, filters) from the right with a polynomial of
        X'X. These are gathered and multiplied with X once, at the end: the same result from half
        the operations, as most kernels have nine times as many rows as filters.
        """
        matmul, transpose = keras.ops.matmul, keras.ops.transpose
        kernel = keras.ops.reshape(x, (-1, x.shape[-1]))
        kernel = keras.ops.cast(kernel / (keras.ops.norm(kernel) + 1e-7), self.precision)
        gram = keras.ops.cast(matmul(transpose(kernel), kernel), "float32")  # (filters, filters)
        product = identity = keras.ops.eye(x.shape[-1])
        for _ in range(steps):
            square = matmul(gram, gram)
            factor = self.muon_a * identity + self.muon_b * gram + self.muon_c * square
            product = matmul(product, factor)
            gram = matmul(factor, matmul(gram, factor))
        update = matmul(kernel, keras.ops.cast(product, self.precision))
        return keras.ops.cast(keras.ops.reshape(update, x.shape), "float32")

    def lr_adjust(self, x):
        rows, columns = math.prod(x.shape[:-1]), x.shape[-1]
        return x * (max(rows, columns) ** 0.5 * self.rms_rate)


def compile_network(network, settings, classes, steps_per_epoch):
    """Compiles with cross-entropy on logits; the targets are those of `data.targets_of`."""
    smoothing = settings.label_smoothing
    if classes == 2:
        loss = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=smoothing)
        accuracy = keras.metrics.BinaryAccuracy("accuracy", threshold=0.0)  # logit above 0
    else:
        loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)
        accuracy = keras.metrics.CategoricalAccuracy("accuracy")
    metrics = [guards.LargestShare(classes)]
    # Weighted, for `data.shared_evaluation_batches`; without weights, it is the same as `metrics`.
    network.compile(make_optimizer(settings, steps_per_epoch), loss, metrics=metrics,
                    weighted_metrics=[accuracy])


class WeightAverage(keras.callbacks.Callback):
    """Keeps an exponential moving average of all weights.

    Keras's own `use_ema` averages the trainable weights alone; the batch-norm statistics that
    belong to them have to be averaged along. The average reaches back about one epoch, and its
    decay warms up as in TensorFlow's `ExponentialMovingAverage(num_updates)`, so that it serves
    short runs too. `finish` puts the average in place for good.
    """

    EVERY = 4  # steps between updates

    def __init__(self, steps_per_epoch):
        super().__init__()
        self.every = max(1, min(self.EVERY, steps_per_epoch // 4))
        self.decay = 1 - self.every / max(steps_per_epoch, 2 * self.every)
        self.updates = 0
        self.average = None

    def on_train_begin(self, logs=None):
        if self.average is None:
            self.average = self.model.get_weights()

    def on_train_batch_end(self, batch, logs=None):
        if (batch + 1) % self.every == 0:
            decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
            for average, weight in zip(self.average, self.model.get_weights(), strict=True):
                average += (1 - decay) * (weight - average)
            self.updates += 1

    @contextlib.contextmanager
    def in_place(self):
        """Puts the average in place of the weights for as long as the block runs."""
        raw = self.model.get_weights()
        self.finish()
        yield
        self.model.set_weights(raw)

    def finish(self):
        self.model.set_weights(self.average)


class History(keras.callbacks.Callback):
    """Validates the averaged weights after every epoch and gathers the rows of `history.csv`.

    Keras's own validation in `fit` knows one image size; here it follows that of the epoch, since
    a network that has only seen small images does badly on large ones.
    """

    def __init__(self, settings, dataset, average):
        super().__init__()
        self.settings = settings
        self.dataset = dataset
        self.average = average
        self.rows = []
        self.largest_share = None

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        image_size = self.settings.image_sizes()[epoch]
        validation = distribution.evaluation_batches(
            self.dataset,
            self.dataset.splits["validation"],
            self.settings.batch_size,
            self.settings.score_size_after(image_size),
        )
        with self.average.in_place():
            scores = self.model.evaluate(validation, verbose=0, return_dict=True)
        row = {
            "epoch": epoch + 1,
            "loss": float(logs["loss"]),
            "accuracy": float(logs["accuracy"]),
            "val_loss": scores["loss"],
            "val_accuracy": scores["accuracy"],
            "learning_rate": float(self.model.optimizer.learning_rate),
            "image_size": image_size,
            "seconds": round(time.perf_counter() - self.started, 2),
        }
        self.rows.append(row)
        self.largest_share = scores["largest_share"]


class Checkpoint(keras.callbacks.Callback):
    """Writes after every epoch, in one file, all that a resumed run needs, and reads it back."""

    def __init__(self, run, history, average):
        super().__init__()
        self.run = run
        self.history = history
        self.average = average

    def variables(self):
        return [*self.model.variables, *self.model.optimizer.variables]

    def on_epoch_end(self, epoch, logs=None):
        arrays = [np.asarray(keras.ops.convert_to_numpy(v)) for v in self.variables()]
        arrays += self.average.average
        guards.check_finite(arrays, epoch, self.history.settings)
        state = {"updates": self.average.updates, "history": self.history.rows}
        runs.write_checkpoint(self.run, state, arrays)
        runs.write_history(self.run, self.history.rows)

    def restore(self):
        """Returns the number of epochs that are done; 0 where there is no checkpoint yet."""
        checkpoint = runs.read_checkpoint(self.run)
        if checkpoint is None:
            return 0
        state, arrays = checkpoint
        variables = self.variables()
        for variable, array in zip(variables, arrays, strict=False):
            variable.assign(array)
        self.average.updates = state["updates"]
        self.average.average = [np.array(a) for a in arrays[len(variables) :]]
        self.history.rows = state["history"]
        return len(self.history.rows)


class ProgressBar(keras.callbacks.Callback):
    """A bar for the running epoch on stderr, where that is a terminal."""

    def on_epoch_begin(self, epoch, logs=None):
        self.bar = tqdm(
            total=self.params["steps"], desc=f"epoch {epoch + 1}", unit=" steps",
            disable=None, leave=False,
        )

    def on_train_batch_end(self, batch, logs=None):
        self.bar.update()
        if not self.bar.disable and batch % 10 == 0:
            self.bar.set_postfix(loss=f"{float(logs['loss']):.4f}", refresh=False)

    def on_epoch_end(self, epoch, logs=None):
        self.bar.close()


def fit(settings, dataset, run, callbacks=(), on_epoch=lambda row: None, on_resume=lambda n: None):
    """Trains a network from its `start`, or on from the checkpoint in `run` if there is one.

    Args:
        settings: a `recipe.Settings`.
        dataset: a `data.Dataset` decoded at `settings.score_size`.
        run: path of the run directory, which receives `checkpoint.npz` and `history.csv`.
        callbacks: further `keras.callbacks.Callback`s, to show progress.
        on_epoch: called with the row of `history.csv` after each epoch, once its checkpoint is
            written.
        on_resume: called with the number of epochs done where a checkpoint is found.
    Returns:
        The network with the averaged weights, in float32, and the rows of `history.csv`.
    """
    keras.utils.set_random_seed(settings.seed)
    classes = len(dataset.classes)
    steps = max(1, len(dataset.splits["train"]) // settings.batch_size)
    keras.config.set_dtype_policy(settings.precision)
    try:
        begun = (run / "checkpoint.npz").exists()
        network = build(settings, classes) if begun else start(settings, dataset.classes)
        network = normalization.fuse(network)
    finally:
        keras.config.set_dtype_policy("float32")
    distribution.synchronize(network)
    compile_network(network, settings, classes, steps)
    network.optimizer.build(network.trainable_variables)

    average = WeightAverage(steps)
    history = History(settings, dataset, average)
    checkpoint = Checkpoint(run, history, average)
    for callback in (average, checkpoint):
        callback.set_model(network)
    one_class = guards.OneClassWarning()

    def tell(epoch, logs):
        on_epoch(history.rows[-1])
        if leads():
            one_class.see(history.largest_share, history.rows[-1]["val_accuracy"])

    done = checkpoint.restore()
    if done:
        on_resume(done)
    if done < settings.epochs:
        network.fit(
            data.training_batches(dataset, settings, done, distribution.share()),
            initial_epoch=done,
            epochs=settings.epochs,
            steps_per_epoch=steps,
            callbacks=[guards.FiniteLoss(settings), average, *callbacks, history,
                       *([checkpoint] if leads() else []),
                       keras.callbacks.LambdaCallback(on_epoch_end=tell)],
            class_weight=class_weights(dataset) if settings.class_weight else None,
            shuffle=False,  # the stream is shuffled
            verbose=0,
        )
    average.finish()
    final = build(settings, classes)
    final.set_weights(network.get_weights())
    return final, history.rows


def start(settings, classes):
    """A network to train: with fresh weights, or with those of the run that `settings.init` names.

    Its output layer is fresh all the same, unless that run has the same `classes`, a list of names.
    Raises UserError where that run has no network of this kind.
    """
    network = build(settings, len(classes))
    if settings.init is None:
        return network
    same = runs.read_config(settings.init, "--init")["classes"] == classes
    donor = runs.load_network(Path(settings.init) / "model.keras", "--init")
    kept = len(network.layers) if same else -1
    shapes, got = ([[tuple(w.shape) for w in layer.weights] for layer in each.layers[:kept]]
                   for each in (network, donor))
    if shapes != got:
        size = "" if settings.arch in recipe.ANY_SIZE else f" --image-size {settings.image_size}"
        other = "another size of it" if donor.name == settings.arch else printable(donor.name)
        raise UserError(f"--init: expected a run of --arch {settings.arch}{size}, got {other} in "
                        f"{printable(settings.init)}")
    for layer, trained in zip(network.layers[:kept], donor.layers, strict=False):
        layer.set_weights(trained.get_weights())
    return network


def training_counts(dataset):
    """(classes,) int, the number of training photos of each class."""
    labels = dataset.labels[dataset.splits["train"]]
    return np.bincount(labels, minlength=len(dataset.classes))


def class_weights(dataset):
    """What a photo of each class counts in the loss, {class: weight}, for Keras's `fit`.

    Inverse to the number of its training photos, so that all classes have the same say, and 1 for
    the average photo; scikit-learn calls it "balanced".
    """
    counts = training_counts(dataset)
    return {i: float(counts.sum() / (len(counts) * n)) for i, n in enumerate(counts)}


def leads():
    """Whether this process, of several, is the one that writes and tells."""
    return distribution.share()[0] == 0


def build(settings, classes):
    size = None if settings.arch in recipe.ANY_SIZE else settings.image_size
    return networks.build(settings.arch, classes, size, settings.dropout)
