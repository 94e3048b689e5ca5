"""Names the animal in photos: a line for each, path, label and probability of that label.

    python predict.py --model runs/2026-01-31-120000 photo.jpg [more.jpg ...]
"""

import argparse

import photos
import runs
import terminal
from terminal import printable, say


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description="Names what is in photos.")
    add = parser.add_argument
    add("photos", nargs="+", metavar="PHOTO", help="image files: JPEG, PNG, GIF, BMP or WebP")
    add("--model", required=True, metavar="RUN", help="a run directory that train.py wrote")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_arguments(argv)
    classifier = runs.Classifier(args.model)
    failed = 0
    for path in args.photos:
        try:
            image = photos.load_photo(path, classifier.image_size)
        except photos.PhotoError as error:
            say(f"{printable(path)}: {error}")
            failed += 1
            continue
        probabilities = classifier.probabilities(image[None])[0]
        best = probabilities.argmax()
        label = classifier.classes[best]
        print(f"{printable(path)}\t{label}\t{probabilities[best]:.4f}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    terminal.run_program(main)
