"""Adding a network and a recipe: one file of a copy of the project is touched for each."""

import shutil
import subprocess
import sys

from conftest import ROOT, draw_photos, users_environment

NETWORK = """
@network(smallest=16)
def tiny(inputs, outputs, dropout):
    x = layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    x = conv(x, 8, pool=True)
    x = conv(x, 16)
    x = layers.GlobalAveragePooling2D()(x)
    return output(x, outputs)


def output("""
RECIPE = """    "quick": ("the quickest", dict(epochs=2, image_size=32, stages=(1,), **MILD)),
    "demo": ("""
USED = """
import model, predict, train
from catdog.training import progress

photos = ["--data-dir", "photos", "--cache-dir", "cache"]
new = ["--arch", "tiny", "--recipe", "quick"]
say = progress.say

def stop(*lines):
    say(*lines)
    if lines[0].startswith("epoch   1/"):
        raise KeyboardInterrupt

progress.say = stop
try:
    train.main([*photos, *new, "--output", "run"])
except KeyboardInterrupt:
    progress.say = say
assert train.main(["--resume", "run"]) == 0
assert train.main([*photos, *new, "--init", "run", "--epochs", "1", "--output", "next"]) == 0
assert model.main(["--export", "litert", "--model", "next", *photos]) == 0
photo = "photos/train/cat.0.png"
assert predict.main(["--model", "next", "--explain", "explained", photo]) == 0
assert predict.main(["--model", "next", "--layers", "layers", photo]) == 0
"""


def test_a_new_network_and_a_new_recipe_are_known_everywhere(tmp_path):
    project = tmp_path / "project"
    shutil.copytree(ROOT / "catdog", project / "catdog")
    for script in ROOT.glob("*.py"):
        shutil.copy(script, project)
    for name, place, added in (
        ("model.py", "\ndef output(", NETWORK),
        ("catdog/training/recipe.py", '    "demo": (', RECIPE),
    ):
        text = (project / name).read_text()
        assert text.count(place) == 1
        (project / name).write_text(text.replace(place, added))
    draw_photos(project / "photos/train", 40)
    process = subprocess.run(
        [sys.executable, "-c", USED], cwd=project, env=users_environment(), capture_output=True,
        text=True,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert "Network  tiny, " in process.stderr and "Recipe   quick, 2 epochs" in process.stderr
    assert "Resuming at epoch 2 of 2" in process.stderr
    assert "starting from run" in process.stderr
    for picture in ("explained/cat.0.jpg", "layers/cat.0.png"):
        assert (project / picture).is_file()
