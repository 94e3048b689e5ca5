"""A trained network as a classifier: both runtimes, calibration, use from other programs."""

import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

import model
from catdog import Classifier
from catdog.errors import UserError
from catdog.photos import photo
from catdog.runs import calibration
from catdog.runs.classifier import LITERT_BATCH
from catdog.runs.run import WEIGHTS
from conftest import ROOT, draw_photos


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = draw_photos(tmp_path_factory.mktemp("drawn"), 3)
    return sorted(folder.iterdir())


def asked(classifier, images):
    return classifier.outputs(images)["probabilities"]


def test_a_photo_is_named_from_python_in_three_lines(trained, drawn):
    classifier = Classifier(trained[0])
    probabilities = classifier.predict(drawn[0])
    assert max(probabilities, key=probabilities.get) in ("cat", "dog")
    assert sum(probabilities.values()) == pytest.approx(1)
    with pytest.raises(photo.PhotoError):
        classifier.predict(trained[0] / "config.json")


def test_both_runtimes_compute_about_the_same(trained, drawn):
    quick = Classifier(trained[0])
    slow = Classifier(trained[0], model.load, runtime="keras")
    assert (quick.runtime, slow.runtime) == ("LiteRT", "Keras")
    images = np.stack([photo.load_photo(path, quick.score_size) for path in drawn])
    expected = slow.outputs(images)
    for name, values in quick.outputs(images).items():
        np.testing.assert_allclose(values, expected[name], atol=0.2, rtol=0.1)
    logits = expected["evidence"].mean((1, 2))
    temperature = slow.config["temperature"]
    got = calibration.probabilities_from_logits(logits, temperature)
    np.testing.assert_allclose(expected["probabilities"], got, atol=1e-4)
    one = slow.outputs(images[:1])["probabilities"]  # whatever batch a photo is in
    np.testing.assert_allclose(one, expected["probabilities"][:1], atol=1e-5)


def test_an_answer_does_not_depend_on_the_photos_beside_it(trained, drawn):
    classifier = Classifier(trained[0])
    some = np.stack([photo.load_photo(path, classifier.score_size) for path in drawn])
    many = np.concatenate([some] * 5)  # more than LiteRT gets at a time, and not a multiple of it
    assert len(many) > LITERT_BATCH and len(many) % LITERT_BATCH
    alone = np.concatenate([asked(classifier, image[None]) for image in some])
    np.testing.assert_allclose(asked(classifier, many), np.concatenate([alone] * 5), atol=1e-5)


def test_without_the_litert_file_keras_is_used_or_it_is_an_error(trained, tmp_path, caplog):
    folder = shutil.copytree(
        trained[0], tmp_path / "run", ignore=shutil.ignore_patterns("*.tflite")
    )
    with pytest.raises(UserError, match=r"cannot load .*\.tflite is not there"):
        Classifier(folder)
    assert Classifier(folder, model.load).runtime == "Keras"
    assert ".tflite is not there: using Keras" in caplog.text


def test_the_projects_network_still_knows_its_photos(tmp_path):
    classifier = Classifier(WEIGHTS)
    assert classifier.classes == ["cat", "dog"]
    Image.new("RGB", (300, 200), "grey").save(tmp_path / "grey.png")
    assert set(classifier.predict(tmp_path / "grey.png")) == {"cat", "dog"}


def test_a_run_is_read_where_paths_are_not_utf_8(tmp_path):
    shutil.copytree(WEIGHTS, tmp_path / "ä 日本")
    code = "import sys; from catdog import Classifier; print(Classifier(sys.argv[1]).runtime)"
    process = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "ä 日本"],
        cwd=ROOT,
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        text=True,
    )
    assert process.stdout == "LiteRT\n", process.stderr


def test_importing_the_package_loads_nothing_slow():
    code = """if True:
        import sys, catdog
        assert "numpy" not in sys.modules
        from catdog import Classifier
        slow = {"keras", "tensorflow", "scipy", "sklearn", "matplotlib", "tqdm", "h5py"}
        assert not slow & set(sys.modules), slow & set(sys.modules)
        try:
            catdog.nothing
        except AttributeError as error:
            print(error)
    """
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert process.stdout == "module 'catdog' has no attribute 'nothing'\n", process.stderr


# --- Threads and processes ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ours():
    return Classifier(WEIGHTS)


@pytest.fixture(scope="module")
def batches(ours):
    """Batches of one to twelve pictures, each with the answers to it alone."""
    rng, shape = np.random.default_rng(0), (ours.score_size, ours.score_size, 3)
    found = []
    for count in (1, 3, 12, 2, 9, 1):
        levels = rng.integers(0, 256, (count, 1, 1, 3))
        images = (levels + rng.integers(-40, 40, (count, *shape))).clip(0, 255).astype(np.uint8)
        found.append((images, asked(ours, images)))
    return found


def test_threads_that_share_one_get_their_own_answers(ours, batches):
    start = threading.Barrier(8)

    def ask(first):
        start.wait()
        return [asked(ours, batches[(first + k) % 6][0]) for k in range(6)]

    with ThreadPoolExecutor(8) as pool:
        for first, answers in enumerate(pool.map(ask, range(8))):
            for k, answer in enumerate(answers):
                np.testing.assert_allclose(answer, batches[(first + k) % 6][1], atol=1e-5)


def test_threads_that_share_keras_get_their_own_answers(batches):
    slow = Classifier(WEIGHTS, model.load, "keras")
    expected = [asked(slow, images) for images, _ in batches[:2]]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda k: asked(slow, batches[k % 2][0]), range(8)))
    for k, answer in enumerate(answers):
        np.testing.assert_allclose(answer, expected[k % 2], atol=1e-5)


def test_a_child_of_fork_answers_while_the_parent_works(ours, batches):
    images, expected = batches[2]
    stop = threading.Event()

    def work():
        while not stop.is_set():
            asked(ours, images)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(work)  # holds the lock nearly always
        try:
            for _ in range(3):
                _check_child(ours, images, expected)
        finally:
            stop.set()


def _check_child(classifier, images, expected):
    reading, writing = multiprocessing.Pipe(duplex=False)
    child = os.fork()
    if child == 0:
        writing.send(asked(classifier, images))
        os._exit(0)
    try:
        assert reading.poll(30), "no answer in 30 seconds"
        np.testing.assert_allclose(reading.recv(), expected, atol=1e-5)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_a_pickled_classifier_keeps_its_limit():
    classifier = Classifier("weights")
    classifier.call_unknown_at(0.95)
    assert pickle.loads(pickle.dumps(classifier)).unknown_at == 0.95


def test_a_pickled_classifier_answers_from_any_folder(ours, batches, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    content = pickle.dumps(Classifier("weights"))
    assert len(content) < 1000
    monkeypatch.chdir(tmp_path)
    images, expected = batches[1]
    np.testing.assert_allclose(asked(pickle.loads(content), images), expected, atol=1e-5)
