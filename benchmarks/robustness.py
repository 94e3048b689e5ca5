"""Measure how well a network knows photos that are small, blurred, dark, noisy or turned.

    python -m benchmarks.robustness --model RUN [RUN ...]

Every photo of the test split is changed with Pillow in one way, and scored. The picture that is
written shows one drawing in each form.
"""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont

import data
import model
from benchmarks import measuring
from catdog import cli
from catdog.photos import drawings
from catdog.runs.classifier import Classifier
from catdog.runs.run import Run

BLUR = 3  # pixels, of the standard deviation, at 200 px
NOISE = 25  # of 255, of the standard deviation


def small(photo: Image.Image) -> Image.Image:
    return photo.resize((32, 32), Image.Resampling.BILINEAR).resize(
        photo.size, Image.Resampling.BILINEAR
    )


def blurred(photo: Image.Image) -> Image.Image:
    return photo.filter(ImageFilter.GaussianBlur(BLUR * photo.width / 200))


def compressed(photo: Image.Image) -> Image.Image:
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=10)
    return Image.open(file).convert("RGB")


def grey(photo: Image.Image) -> Image.Image:
    return photo.convert("L").convert("RGB")


def dark(photo: Image.Image) -> Image.Image:
    return ImageEnhance.Brightness(photo).enhance(1 / 3)


def noisy(photo: Image.Image) -> Image.Image:
    pixels = np.asarray(photo, np.float32)
    noise = np.random.default_rng(int(pixels.sum())).normal(0, NOISE, pixels.shape)
    return Image.fromarray((pixels + noise).round().clip(0, 255).astype(np.uint8))


FORMS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "as it is": lambda photo: photo,
    "32 px and back": small,
    "blurred": blurred,
    "JPEG quality 10": compressed,
    "grey": grey,
    "a third of the brightness": dark,
    "noise": noisy,
    "turned by 90 degrees": lambda photo: photo.transpose(Image.Transpose.ROTATE_90),
    "upside down": lambda photo: photo.transpose(Image.Transpose.ROTATE_180),
}


def accuracy(classifier: Classifier, dataset: data.Dataset, form: Callable, members) -> float:
    """Return the accuracy, 0 to 1, on photos that `form` changes."""
    right = 0
    for start in range(0, len(members), 64):
        batch = members[start : start + 64]
        changed = [np.asarray(form(Image.fromarray(dataset.images[i]))) for i in batch]
        answers = classifier.outputs(np.stack(changed))["probabilities"].argmax(1)
        right += int((answers == dataset.labels[batch]).sum())
    return right / len(members)


def forms_picture(path: Path, side: int = 200) -> None:
    """Write a PNG of one drawing in each form."""
    photo = drawings.draw(0, np.random.default_rng(4), side)
    gap, text = 8, 24
    sheet = Image.new("RGB", (3 * (side + gap) + gap, 3 * (side + gap + text) + gap), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for place, (name, form) in enumerate(FORMS.items()):
        left = gap + place % 3 * (side + gap)
        top = gap + place // 3 * (side + gap + text)
        sheet.paste(form(photo), (left, top))
        draw.text((left, top + side + 2), name, fill="#1f2933", font=font)
    sheet.save(path)


def main(argv=None):
    parser = measuring.parser(__doc__.splitlines()[0], "robustness")
    parser.add_argument(
        "--model", nargs="+", metavar="RUN", help="run directories (default: weights)"
    )
    parser.add_argument("--cache-dir", default="tmp/cache", metavar="DIR")
    args = parser.parse_args(argv)
    folder, _, words = measuring.find_photos(args.data_dir)
    result = {}
    for name in args.model or [str(Run())]:
        with cli.blame("--model"):
            classifier = Classifier(name, model.load)
        dataset = data.load(str(folder), classifier.score_size, args.cache_dir)
        members = dataset.splits["test"][: 100 if args.quick else None]
        result[name] = {}
        for form, change in FORMS.items():
            result[name][form] = accuracy(classifier, dataset, change, members)
            cli.say(f"{name}: {form}: {result[name][form]:.2%}")
        corrupted = list(result[name].values())[1:]
        result[name]["mean of the changed"] = sum(corrupted) / len(corrupted)
    forms = next(iter(result.values()))
    rows = [[form, *(f"{scores[form]:.2%}" for scores in result.values())] for form in forms]
    text = [
        f"{len(members):,} test photos of {words}",
        measuring.table(["photos", *result], rows),
    ]
    measuring.write("robustness", args, text, {"accuracy": result}, forms_picture)
    return 0


if __name__ == "__main__":
    cli.run(main)
