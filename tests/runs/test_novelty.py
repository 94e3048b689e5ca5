"""How unlike the training photos a photo is: the score, its file, the decision, the figures."""

import dataclasses
import os
import zipfile

import numpy as np
import pytest

from catdog.errors import UserError
from catdog.runs import novelty

WIDTH = 32
NETWORK = "a digest of the network"


def features_of(rng, count, strength=1.0):
    """Features as of photos of one of two classes: each has its half of the channels."""
    labels = rng.integers(2, size=count)
    owners = np.arange(2 * WIDTH) % 2
    scale = np.where(owners == labels[:, None], 2.0, 0.3) * strength
    return (np.abs(rng.normal(1, 0.2, (count, 2 * WIDTH))) * scale).astype(np.float32), labels


@pytest.fixture
def reference():
    rng = np.random.default_rng(0)
    training, _ = features_of(rng, 500)
    validation, _ = features_of(rng, 400)
    return novelty.fit(training, validation, NETWORK)


# --- Score ----------------------------------------------------------------------------------------


def test_photos_like_the_validation_photos_are_rarely_unknown(reference):
    same, _ = features_of(np.random.default_rng(1), 5000)
    share = novelty.is_unknown(reference.novelty(same)).mean()
    assert 0.002 < share < 0.03


def test_one_percent_of_the_validation_photos_are_unknown():
    rng = np.random.default_rng(0)
    validation, _ = features_of(rng, 1000)
    reference = novelty.fit(features_of(rng, 300)[0], validation, NETWORK)
    assert novelty.is_unknown(reference.novelty(validation)).sum() == 10


def test_weak_features_are_novel(reference):
    weak, _ = features_of(np.random.default_rng(1), 50, strength=0.5)
    assert (reference.novelty(weak) == 1).all()


def test_another_combination_of_features_is_novel(reference):
    other, _ = features_of(np.random.default_rng(1), 50)
    assert (reference.novelty(np.roll(other, WIDTH // 4, axis=1)) < 1).any()  # still of a class
    mixed = other[:, np.random.default_rng(2).permutation(2 * WIDTH)]
    assert (reference.novelty(mixed) == 1).mean() > 0.9


def test_strong_features_do_not_hide_another_combination(reference):
    other, _ = features_of(np.random.default_rng(1), 50)
    mixed = other[:, np.random.default_rng(2).permutation(2 * WIDTH)]
    assert (reference.novelty(100 * mixed) == 1).mean() > 0.9


def test_novelty_is_the_share_of_validation_photos_below():
    rng = np.random.default_rng(0)
    validation, _ = features_of(rng, 200)
    reference = novelty.fit(features_of(rng, 300)[0], validation, NETWORK)
    scores = reference.score(validation)
    expected = [(scores < score).mean() for score in scores]
    assert np.allclose(reference.novelty(validation), expected)
    assert reference.novelty(validation).min() == 0


def test_novelty_of_a_photo_does_not_depend_on_its_batch(reference):
    features, _ = features_of(np.random.default_rng(1), 64)
    alone = np.concatenate([reference.score(features[i : i + 1]) for i in range(64)])
    assert np.allclose(reference.score(features), alone, atol=1e-4)


def test_pictures_without_any_feature_have_a_finite_score(reference):
    nothing = np.zeros((2, 2 * WIDTH), np.float32)
    assert np.isfinite(reference.score(nothing)).all()
    assert reference.novelty(nothing).tolist() == [1, 1]


def test_no_photos_have_no_novelty(reference):
    assert reference.novelty(np.zeros((0, 2 * WIDTH), np.float32)).shape == (0,)


def test_features_of_another_width_are_refused(reference):
    with pytest.raises(ValueError, match=r"expected features \(n, 64\), got \(3, 66\)"):
        reference.novelty(np.zeros((3, 66), np.float32))


def test_fewer_than_100_validation_photos_give_no_reference():
    rng = np.random.default_rng(0)
    training, validation = features_of(rng, 300)[0], features_of(rng, 100)[0]
    assert novelty.fit(training, validation[:99], NETWORK) is None
    assert novelty.fit(training[:0], validation, NETWORK) is None
    assert novelty.fit(training, validation, NETWORK) is not None


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


# --- File -----------------------------------------------------------------------------------------


def test_saved_reference_gives_the_same_novelty(reference, tmp_path):
    reference.save(tmp_path / novelty.FILE)
    loaded = novelty.Reference.load(tmp_path / novelty.FILE, NETWORK)
    features, _ = features_of(np.random.default_rng(1), 100, strength=0.9)
    assert np.array_equal(loaded.score(features), reference.score(features))
    assert loaded.network == NETWORK
    assert [path.name for path in tmp_path.iterdir()] == [novelty.FILE]


@pytest.mark.parametrize("classes, most", [(2, 400_000), (10, 700_000), (300, 700_000)])
def test_file_of_many_photos_is_small(classes, most, tmp_path):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), 20_000 // classes)
    chosen = novelty.choose(labels, classes)
    features = rng.random((len(chosen), 512), np.float32)
    novelty.fit(features, rng.random((12_000, 512), np.float32), NETWORK).save(tmp_path / "file")
    assert (tmp_path / "file").stat().st_size <= most
    assert novelty.Reference.load(tmp_path / "file", NETWORK) is not None


def test_more_validation_photos_than_are_kept_give_the_same_limit():
    rng = np.random.default_rng(0)
    validation, _ = features_of(rng, 25_000)
    reference = novelty.fit(features_of(rng, 300)[0], validation, NETWORK)
    assert len(reference.scores) == novelty.MAX_SCORES
    assert abs(novelty.is_unknown(reference.novelty(validation)).mean() - 0.01) < 0.0002


def test_file_of_another_network_is_refused(reference, tmp_path):
    reference.save(tmp_path / "novelty.npz")
    with pytest.raises(UserError, match=r"novelty.npz belongs to another network$"):
        novelty.Reference.load(tmp_path / "novelty.npz", "another digest")


def test_missing_file_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*novelty.npz: No such file or directory"):
        novelty.Reference.load(tmp_path / "novelty.npz", NETWORK)


def test_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "novelty.npz")
    with pytest.raises(UserError, match=r"cannot read .*novelty.npz: not a regular file$"):
        novelty.Reference.load(tmp_path / "novelty.npz", NETWORK)


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9, 0.999])
def test_torn_file_is_a_user_error(reference, tmp_path, share):
    path = tmp_path / "novelty.npz"
    reference.save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"novelty.npz is damaged$"):
        novelty.Reference.load(path, NETWORK)


def test_changed_bytes_never_raise_anything_but_a_user_error(reference, tmp_path):
    path, rng = tmp_path / "novelty.npz", np.random.default_rng(0)
    small = dataclasses.replace(reference, photos=reference.photos[:3], scores=reference.scores[:5])
    small.save(path)
    content = path.read_bytes()
    for _ in range(1000):
        changed = bytearray(content)
        for place in rng.integers(len(content), size=rng.integers(1, 4)):
            changed[place] = rng.integers(256)
        path.write_bytes(changed)
        try:
            novelty.Reference.load(path, NETWORK).novelty(np.ones((2, 2 * WIDTH), np.float32))
        except UserError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    "changes",
    [
        {"photos": np.zeros((0, WIDTH), np.uint8)},
        {"photos": np.zeros((5, WIDTH), np.float32)},
        {"photos": np.zeros(WIDTH, np.uint8)},
        {"mean": np.zeros(3)},
        {"mean": np.full(2, np.nan)},
        {"deviation": np.zeros(2)},
        {"scores": np.zeros(0)},
        {"scores": np.array([2.0, 1.0])},
        {"scores": np.array(["1", "2"])},
        {"scores": np.array([{}], object)},
    ],
)
def test_impossible_arrays_are_refused(reference, tmp_path, changes):
    path = tmp_path / "novelty.npz"
    arrays = {**dataclasses.asdict(reference), "version": novelty.VERSION, **changes}
    np.savez(path, **arrays)
    with pytest.raises(UserError, match=r"novelty.npz is damaged$"):
        novelty.Reference.load(path, NETWORK)


def test_file_of_another_version_is_refused(reference, tmp_path):
    path = tmp_path / "novelty.npz"
    np.savez(path, version=novelty.VERSION + 1, **dataclasses.asdict(reference))
    with pytest.raises(UserError, match=r"another version"):
        novelty.Reference.load(path, NETWORK)


def test_file_that_unpacks_to_very_much_is_refused(tmp_path):
    path = tmp_path / "novelty.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("photos.npy", bytes(2**28))
    assert path.stat().st_size < 2**20
    with pytest.raises(UserError, match=r"is damaged$"):
        novelty.Reference.load(path, NETWORK)


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
