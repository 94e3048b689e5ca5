"""Optimizer, loss and metrics: what one training step does."""

from __future__ import annotations

import math
import os
import platform
from pathlib import Path

from catdog.backend import keras
from catdog.training.settings import Settings


def best_precision(device: str) -> str:
    """Return the quickest dtype policy that loses no accuracy: bfloat16 where the chip has it.

    Measured on two cores with AMX: a training step of the default network in bfloat16 takes 0.6 of
    its time in float32. A processor without such instructions emulates bfloat16 and is slower.
    """
    if device.startswith("mps"):
        return "float32"  # not every Mac has bfloat16, and none was at hand to measure
    if not device.startswith("cpu"):
        return "mixed_bfloat16"
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return "float32"
    fast = platform.machine() == "x86_64" and ("avx512_bf16" in flags or "amx_bf16" in flags)
    # The newest instructions that TensorFlow's convolutions may use, such as AVX512_CORE.
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper()
    allowed = limit in ("ALL", "DEFAULT") or any(name in limit for name in ("BF16", "AMX", "AVX10"))
    return "mixed_bfloat16" if fast and allowed else "float32"


def compile(network: keras.Model, settings: Settings, classes: int, steps_per_epoch: int) -> None:
    """Compile with cross-entropy on logits; the targets are those of `data.targets_of`."""
    options = {"from_logits": True, "label_smoothing": settings.label_smoothing}
    if classes == 2:
        loss = keras.losses.BinaryCrossentropy(**options)
        entropy = keras.metrics.BinaryCrossentropy("cross_entropy", **options)
        accuracy = keras.metrics.BinaryAccuracy("accuracy", threshold=0.0)  # logit above 0
    else:
        loss = keras.losses.CategoricalCrossentropy(**options)
        entropy = keras.metrics.CategoricalCrossentropy("cross_entropy", **options)
        accuracy = keras.metrics.CategoricalAccuracy("accuracy")
    network.compile(
        make(settings, steps_per_epoch),
        loss,
        metrics=[LargestShare(classes)],
        # `data.evaluation_batches` fills up its last batch with photos of weight 0. Keras's loss,
        # a mean over batches, would count that batch for more than its photos.
        weighted_metrics=[accuracy, entropy],
    )
    network.optimizer.build(network.trainable_variables)


def make(settings: Settings, steps_per_epoch: int) -> ConvolutionMuon:
    """Return Muon and AdamW, at a rate that rises to `lr` and falls along a half cosine to 0."""
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
    original, a kernel counts as a matrix with one column per filter.
    """

    def __init__(self, *args, precision: str = "float32", **kwargs):
        super().__init__(*args, **kwargs)
        self.precision = precision  # of the large products; bfloat16 is enough in the original

    def _should_use_adamw(self, variable):
        return len(variable.shape) != 4

    def zeropower_via_newtonschulz5(self, x, steps):
        """Return the nearest orthogonal matrix, by Newton-Schulz on the Gram matrix of the filters.

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


class LargestShare(keras.metrics.Metric):
    """The share of the most frequently predicted class, 0 to 1; 1 if it is the only one."""

    def __init__(self, classes: int, name: str = "largest_share"):
        super().__init__(name=name)
        self.counts = self.add_variable((classes,), initializer="zeros", name="counts")

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Count the predictions; y_pred: logits, (batch, 1) or (batch, classes)."""
        if y_pred.shape[-1] == 1:
            predicted = keras.ops.cast(y_pred[:, 0] > 0, "int32")
        else:
            predicted = keras.ops.argmax(y_pred, axis=-1)
        classes = self.counts.shape[0]
        self.counts.assign_add(keras.ops.sum(keras.ops.one_hot(predicted, classes), axis=0))

    def result(self):
        return keras.ops.max(self.counts) / keras.ops.maximum(keras.ops.sum(self.counts), 1)
