"""Small convolutional networks that tell cats from dogs, or any other classes.

Five scripts stand above this package: train.py, evaluate.py, predict.py, model.py (the networks)
and data.py (the data set). They call four rooms, none of which imports a script:

    photos/    from a path to decoded pixels on disk
    training/  what a training step and a schedule are, and on which devices
    runs/      a run directory, and the trained network in it as a classifier
    scores/    from labels and probabilities to metrics, tables, plots and pages

    cli.py      what the scripts share at the terminal; early.py: Ctrl-C before that
    backend.py  Keras and TensorFlow, loaded at first use and without their noise
    files.py    files that are written atomically, and damaged ones that are read
    errors.py   UserError, and names as text that can be printed
"""

__version__ = "0.2.0"


def __getattr__(name: str):
    """Load `Classifier` when it is asked for: `from catdog import Classifier`."""
    if name == "Classifier":
        from catdog.runs.classifier import Classifier

        return Classifier
    raise AttributeError(f"module 'catdog' has no attribute {name!r}")
