"""The running average of the weights."""

import numpy as np

import model
from catdog.training.average import WeightAverage


def test_average_holds_batch_norm_statistics_too_and_is_gone_after_validation(monkeypatch):
    network = model.build("plain", 2, None)
    average = WeightAverage(network, steps_per_epoch=8)
    start = network.get_weights()
    network.set_weights([w + 1 for w in start])
    for batch in range(8):
        average.on_train_batch_end(batch)
    raw, shown = network.get_weights(), []

    def evaluate(batches, **options):
        shown.extend(network.get_weights())
        return {"loss": 1.5, "batches": batches, **options}

    monkeypatch.setattr(network, "evaluate", evaluate)
    scores = average.evaluate(["a", "b", "c"])
    assert scores["loss"] == 1.5 and scores["batches"] == ["a", "b", "c"] and scores["steps"] == 3
    for before, weight, after in zip(start, shown, network.get_weights(), strict=True):
        assert ((weight > before) & (weight <= before + 1)).all()
        np.testing.assert_allclose(after, before + 1, rtol=1e-6)
    assert len(raw) == len(network.weights) > len(network.trainable_weights)
