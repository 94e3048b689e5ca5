"""How unlike the training photos a photo is: constants, layer, promise, decision, figures."""

import numpy as np
import pytest

from catdog.errors import UserError
from catdog.runs import novelty

WIDTH = 32


def features_of(rng, count, strength=1.0):
    """Features as of photos of one of two classes: each has its half of the channels."""
    labels = rng.integers(2, size=count)
    owners = np.arange(2 * WIDTH) % 2
    scale = np.where(owners == labels[:, None], 2.0, 0.3) * strength
    return (np.abs(rng.normal(1, 0.2, (count, 2 * WIDTH))) * scale).astype(np.float32)


def layer_of(validation=1000):
    """Return the layer `answer` with constants fitted to such features, as a function of them."""
    from catdog.runs.answer import Answer

    rng, zero = np.random.default_rng(0), np.zeros((1, 1), np.float32)
    layer = Answer(photos=500, scores=min(validation, novelty.MAX_SCORES))
    known = features_of(rng, validation)
    layer(zero, known[:1])
    layer.set(directions=novelty.directions(features_of(rng, 500)))

    def run(features, **options):
        logits = np.zeros((len(features), 1), np.float32)
        return {name: np.asarray(x) for name, x in layer(logits, features, **options).items()}

    layer.set(**novelty.fit(run(known, fitting=True)["parts"], layer.scores))
    return lambda features: run(features)["novelty"], known


@pytest.fixture(scope="module")
def fitted():
    return layer_of()


# --- The layer ------------------------------------------------------------------------------------


def test_photos_like_the_validation_photos_are_rarely_unknown(fitted):
    same = features_of(np.random.default_rng(1), 5000)
    assert 0 < novelty.is_unknown(fitted[0](same)).mean() < 0.015


def test_novelty_is_told_by_the_validation_photos_as_unlike(fitted):
    answer, known = fitted
    expected = novelty.table(1000)
    # The scores themselves are among those that are as high: 1 to 1,000 of them.
    got = np.sort(answer(known))[::-1]
    np.testing.assert_allclose(got[:950], expected[1:951], atol=2e-3)  # the others have one score


@pytest.mark.parametrize("strength", [0.5, 0.0])
def test_weak_features_are_as_novel_as_can_be(fitted, strength):
    weak = features_of(np.random.default_rng(1), 50, strength)
    np.testing.assert_allclose(fitted[0](weak), novelty.highest(1000), atol=1e-5)


def test_another_combination_of_features_is_novel(fitted):
    other = features_of(np.random.default_rng(1), 50)
    assert (fitted[0](np.roll(other, WIDTH // 4, axis=1)) < 0.99).any()  # still of a class
    mixed = other[:, np.random.default_rng(2).permutation(2 * WIDTH)]
    for strength in (1, 100):  # strong features do not hide it
        assert novelty.is_unknown(fitted[0](strength * mixed)).mean() > 0.9


def test_novelty_of_a_photo_does_not_depend_on_its_batch(fitted):
    features = features_of(np.random.default_rng(1), 64)
    alone = np.concatenate([fitted[0](features[i : i + 1]) for i in range(64)])
    np.testing.assert_allclose(fitted[0](features), alone, atol=2e-3)


def test_more_validation_photos_than_are_kept_give_the_same_limit():
    answer, known = layer_of(25_000)
    share = novelty.is_unknown(answer(known)).mean()
    assert abs(share - 0.0084) < 0.0005  # of 10,000 scores, the upper limit of 84 is 0.0099


# --- The promise ----------------------------------------------------------------------------------


def test_at_most_1_percent_are_unknown_in_19_of_20_runs():
    """Draws validation photos again and again; scores are uniform, so that shares are known."""
    rng, broken = np.random.default_rng(0), 0
    for _ in range(1000):
        scores = np.sort(rng.random(500))[::-1]
        as_high = int((novelty.table(500) >= novelty.DEFAULT_LIMIT).sum()) - 1
        limit = scores[as_high]  # a photo above it has at most `as_high` scores as high
        broken += 1 - limit > 0.01
    assert 0.02 < broken / 1000 <= 0.065


def test_0_99_takes_299_validation_photos():
    assert novelty.highest(298) < 0.99 <= novelty.highest(299)
    assert novelty.table(299)[0] == pytest.approx(novelty.highest(299))
    assert novelty.highest(0) == 0 and round(novelty.highest(100), 2) == 0.97
    assert novelty.table(5)[-1] == 0 and (np.diff(novelty.table(2000)) < 0).all()


def test_a_limit_that_a_run_cannot_reach_is_refused_with_one_that_it_can():
    for good in (None, 0.97, 1, 0):
        novelty.check_limit(good, 100)
    with pytest.raises(UserError, match=r"at most 0.97, or 1, as the run has 100 validation"):
        novelty.check_limit(0.99, 100)
    with pytest.raises(UserError, match="expected a run with novelty"):
        novelty.check_limit(0.5, 0)


# --- Photos to compare with -----------------------------------------------------------------------


@pytest.mark.parametrize("classes, most", [(2, 500), (4, 500), (10, 200), (1000, 2)])
def test_photos_are_chosen_evenly_from_every_class(classes, most):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(classes), 2500))
    chosen = novelty.choose(labels, classes)
    assert (np.diff(chosen) > 0).all()
    assert (np.bincount(labels[chosen], minlength=classes) == most).all()
    assert abs(chosen.mean() / len(labels) - 0.5) < 0.05


def test_classes_of_few_or_no_photos_are_chosen_whole():
    chosen = novelty.choose(np.array([1, 0, 1, 1, 3]), 4)
    assert chosen.tolist() == [0, 1, 2, 3, 4]


# --- Decision and figures -------------------------------------------------------------------------


def test_limit_of_1_calls_nothing_unknown():
    shares = np.array([0, 0.98, 0.99, 1])
    assert novelty.is_unknown(shares).tolist() == [False, False, True, True]
    assert novelty.is_unknown(shares, 0.5).tolist() == [False, True, True, True]
    assert not novelty.is_unknown(shares, 1).any()


def test_refused_photos_do_not_count_for_accuracy():
    labels, predicted = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
    score = novelty.refusal_score(labels, predicted, np.array([0.2, 0.995, 0.3, 0.4]))
    assert score == {
        "limit": 0.99,
        "refused": 1,
        "share_refused": 0.25,
        "accuracy_of_the_others": 1.0,
    }


def test_all_photos_refused_leave_no_accuracy():
    score = novelty.refusal_score(np.array([0]), np.array([0]), np.array([1.0]))
    assert score["accuracy_of_the_others"] is None


def test_score_of_outsiders_counts_the_refused():
    score = novelty.outsider_score(np.array([0.0, 0.5, 0.9]), np.array([0.6, 0.99, 1.0, 1.0]))
    assert score["pictures"] == 4
    assert (score["refused"], score["share_refused"]) == (3, 0.75)
    assert score["auroc"] == pytest.approx(11 / 12)
