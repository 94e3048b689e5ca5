"""Wrong labels that are planted among drawings, and found by the runs of five folds (slow)."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

import data
import model
import train
from catdog.runs.classifier import Classifier
from catdog.scores import suspects

PHOTOS, WRONG, FOUND, FIRST, SIZE = 1000, 40, 36, 60, 32


def draw(folder):
    """Draw 500 discs and 500 triangles of any colour and place, 40 of them in the other folder.

    Returns:
        The names of the 40.
    """
    rng, wrong = np.random.default_rng(0), set()
    planted = set(rng.choice(PHOTOS, WRONG, replace=False).tolist())
    for number in range(PHOTOS):
        shape = ("disc", "triangle")[number % 2]
        ground, colour = rng.integers(0, 110, 3), rng.integers(145, 256, 3)
        if rng.random() < 0.5:
            ground, colour = colour, ground
        image = Image.new("RGB", (SIZE, SIZE), tuple(ground.tolist()))
        x, y, radius = *rng.uniform(12, 20, 2), rng.uniform(7, 11)
        pen, colour = ImageDraw.Draw(image), tuple(colour.tolist())
        if shape == "disc":
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
        else:
            pen.polygon(
                [(x - radius, y + radius), (x + radius, y + radius), (x, y - radius)], colour
            )
        label = ("disc", "triangle")[(number + (number in planted)) % 2]
        (folder / label).mkdir(parents=True, exist_ok=True)
        image.save(folder / label / f"{number}.png")
        if number in planted:
            wrong.add(f"{label}/{number}.png")
    return wrong


@pytest.mark.slow
def test_planted_wrong_labels_are_ranked_first(tmp_path, no_export):
    wrong = draw(tmp_path / "photos")
    places = ("--data-dir", tmp_path / "photos", "--cache-dir", tmp_path / "cache")
    small = ("--arch", "classic", "--image-size", SIZE, "--epochs", 5, "--batch-size", 32)
    arguments = ("--folds", 5, "--output", tmp_path / "runs", *places, *small)
    assert train.main([str(argument) for argument in arguments]) == 0
    runs = []
    for folder in sorted((tmp_path / "runs").glob("fold-*")):
        classifier = Classifier(folder, model.load)
        fold = classifier.config["settings"]["fold"]
        dataset = data.load(
            tmp_path / "photos", classifier.score_size, tmp_path / "cache", fold=fold
        )
        runs.append((classifier, dataset))
    assert len(runs) == 5
    ranking = suspects.rank(runs)
    assert len(ranking.members) == PHOTOS
    first = {ranking.dataset.names[i] for i in ranking.members[:FIRST]}
    assert len(first & wrong) >= FOUND
    assert abs(ranking.wrong() - WRONG) <= 15
