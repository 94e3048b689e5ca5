"""The tables of settings: what a training run does when."""

import dataclasses

ARCHITECTURES = ("plain", "classic", "dnn")  # the networks of model.py
ANY_SIZE = ("plain",)  # globally pooled, so that one set of weights fits every image size
FIXED_SIZE = 64  # px, of the other networks: their parameters grow with the number of pixels
SMALLEST_SIZE = 32  # px; five poolings leave nothing of a smaller image
SMALLEST_START = 48  # px; what training starts with at least: less shows too little of an animal


@dataclasses.dataclass(frozen=True)
class Settings:
    """Every setting of a training run, as `config.json` of the run keeps it."""

    recipe: str = "full"
    arch: str = "plain"
    epochs: int = 48
    batch_size: int = 128  # photos
    lr: float = 0.005  # peak learning rate of the convolutions
    adam_lr_ratio: float = 0.4  # learning rate of everything else, as a share of `lr`
    image_size: int = 160  # px, height and width in the last of the `stages`
    stages: tuple = (0.4, 0.6, 0.8, 1.0)  # shares of `image_size`, each for as many epochs
    seed: int = 0
    weight_decay: float = 0.05
    label_smoothing: float = 0.05
    dropout: float = 0.2
    warmup: float = 0.15  # share of all steps in which the learning rate rises
    crop_area: float = 0.3  # smallest share of the photo that a random crop keeps
    aspect: float = 0.2  # largest logarithm of width over height of a crop
    brightness: float = 0.3  # largest change of brightness and of contrast
    erase: float = 0.4  # largest side of the square that is erased, as a share of the photo's
    precision: str = "float32"  # Keras's name of the dtype policy in training
    class_weight: str | None = None  # "balanced": a photo of a rare class counts for more
    init: str | None = None  # the run whose weights this one starts from

    @property
    def score_size(self):
        """Height and width in px of the photos in the cache, in scoring and in prediction."""
        return self.score_size_after(self.image_size)

    def score_size_after(self, image_size):
        """The size in px to score at after training at `image_size`, a quarter above it.

        Random crops show the animals larger than whole photos do, and a larger size in scoring
        makes up for it (FixRes, Touvron et al. 2019).
        """
        if self.arch not in ANY_SIZE:
            return image_size
        return max(image_size, round(image_size * 1.25 / 8) * 8)

    def image_sizes(self):
        """The image size in px of every epoch: small at first, then one stage after another."""
        if self.arch not in ANY_SIZE:
            return [self.image_size] * self.epochs
        smallest = min(SMALLEST_START, self.image_size)
        sizes = [max(smallest, round(self.image_size * part / 8) * 8) for part in self.stages]
        sizes[-1] = self.image_size
        # Counted from the end, so that the last epoch has the last size even where there are few.
        ahead = reversed(range(self.epochs))
        return [sizes[-1 - len(sizes) * epochs // self.epochs] for epochs in ahead]


# Strong augmentation and dropout pay in long runs. Measured on 200 drawings a class, 12 epochs at
# 48 px: 62% of other drawings right with those of `full`, 77% with these.
MILD = {"crop_area": 0.35, "brightness": 0.2, "erase": 0.0, "dropout": 0.0}
SHORT_RUN = 2500  # steps
THREE_STAGES = (0.5, 0.75, 1.0)

RECIPES = {
    # The best accuracy.
    "full": Settings(),
    # 94% on Dogs vs. Cats in the least time.
    "fast": Settings(recipe="fast", epochs=9, image_size=80, stages=THREE_STAGES, **MILD),
    # From the weights of another run.
    "tune": Settings(recipe="tune", epochs=20, image_size=128, stages=THREE_STAGES, lr=0.001),
    # The drawings of --demo.
    "demo": Settings(recipe="demo", epochs=8, batch_size=64, image_size=48, stages=(1,), **MILD),
}


def fit_to_size(settings, photos, batch_size=None):
    """The settings for so many training photos.

    Where there are few, batches are smaller, so that an epoch has sixteen steps at least (unless a
    `batch_size` is asked for), and a run of few steps gets the `MILD` augmentation.
    """
    batch_size = batch_size or min(settings.batch_size, max(8, photos // 16))
    settings = dataclasses.replace(settings, batch_size=min(batch_size, photos))
    if settings.epochs * photos < SHORT_RUN * settings.batch_size:
        settings = dataclasses.replace(settings, **MILD)
    return settings
