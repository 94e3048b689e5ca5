"""The settings of a training run, checked where they are made, and the recipes: tables of them."""

import dataclasses
import math

from catdog.errors import UserError

ARCHITECTURES = ("plain", "classic", "dnn")  # the networks of model.py
ANY_SIZE = ("plain",)  # globally pooled, so that one set of weights fits every image size
FIXED_SIZE = 64  # px, of the other networks: their parameters grow with the number of pixels
SMALLEST_SIZE = 32  # px; five poolings leave nothing of a smaller image
SMALLEST_START = 48  # px in the first epochs: smaller images show too little of an animal

# The values that a setting may have: a tuple of choices, or a type with the least and the most.
LIMITS = {
    "recipe": (str,),
    "arch": ARCHITECTURES,
    "epochs": (int, 1, 10_000),
    "batch_size": (int, 2, 65_536),
    "lr": (float, 0, 10),
    "adam_lr_ratio": (float, 0, 100),
    "image_size": (int, 8, 1024),
    "seed": (int, 0, 2**31 - 1),
    "fold": (int, 0, 9),
    "weight_decay": (float, 0, 10),
    "label_smoothing": (float, 0, 0.99),
    "dropout": (float, 0, 0.99),
    "warmup": (float, 0, 1),
    "crop_area": (float, 0.01, 1),
    "aspect": (float, 0, 2),
    "brightness": (float, 0, 1),
    "erase": (float, 0, 1),
    "rotation": (float, 0, 1),
    "corruption": (float, 0, 1),
    "sharpness": (float, 0, 10),
    "precision": ("float32", "mixed_bfloat16", "mixed_float16"),
    "class_weight": (None, "balanced"),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Every setting of a training run, as `config.json` of the run keeps it.

    Raises:
        UserError: a setting of another type or outside of its limits.
    """

    recipe: str = "full"
    arch: str = "plain"
    epochs: int = 48
    batch_size: int = 128  # photos
    lr: float = 0.005  # peak learning rate of the convolutions
    adam_lr_ratio: float = 0.4  # learning rate of everything else, as a share of `lr`
    image_size: int = 160  # px, height and width in the last of the `stages`
    stages: tuple[float, ...] = (0.4, 0.6, 0.8, 1.0)  # shares of `image_size`, for equal times
    seed: int = 0
    fold: int = 0  # tenths by which the split is shifted
    weight_decay: float = 0.05
    label_smoothing: float = 0.05
    dropout: float = 0.2
    warmup: float = 0.15  # share of all steps in which the learning rate rises
    crop_area: float = 0.3  # smallest share of the photo that a random crop keeps
    aspect: float = 0.2  # largest logarithm of width over height of a crop
    brightness: float = 0.3  # largest change of brightness and of contrast
    erase: float = 0.4  # largest side of the square that is erased, as a share of the photo's
    rotation: float = 0.0  # share of the photos that are turned by a random angle
    corruption: float = 0.0  # share of the photos that are made grey, dark, noisy or blurred
    sharpness: float = 0.0  # radius of sharpness-aware minimization; 0: none
    precision: str = "float32"  # Keras's name of the dtype policy in training
    class_weight: str | None = None  # "balanced": a photo of a rare class counts for more
    init: str | None = None  # the run whose weights this one starts from

    def __post_init__(self):
        for name, allowed in LIMITS.items():
            _check(name, getattr(self, name), allowed)
        object.__setattr__(self, "stages", _checked_stages(self.stages))
        if not isinstance(self.init, str | None):
            raise UserError(f"expected init to be a path, got {self.init!r}")
        if self.arch in ANY_SIZE and self.image_size < SMALLEST_SIZE:
            raise UserError(
                f"expected an image size of {SMALLEST_SIZE} or more for the network {self.arch}, "
                f"got {self.image_size}"
            )

    @classmethod
    def from_dict(cls, settings: object) -> "Settings":
        """Return the settings that `config.json` holds; raise UserError if they are damaged."""
        try:
            return cls(**settings)
        except TypeError as error:
            raise UserError(f"expected the settings of a run, got {error}") from None

    @property
    def score_size(self) -> int:
        """Height and width in pixels of the photos in the cache, in scoring and in prediction."""
        return self.score_size_after(self.image_size)

    def score_size_after(self, image_size: int) -> int:
        """Return the size in pixels to score at after training at `image_size`: a quarter above.

        Random crops show the animals larger than whole photos do, and a larger size in scoring
        makes up for it (FixRes, Touvron et al. 2019).
        """
        if self.arch not in ANY_SIZE:
            return image_size
        return max(image_size, round(image_size * 1.25 / 8) * 8)

    @property
    def fixed_size(self) -> int | None:
        """The one image size in pixels that the network takes, or None if it takes any."""
        return None if self.arch in ANY_SIZE else self.image_size

    def image_sizes(self) -> list[int]:
        """Return the image size in pixels of every epoch: small at first, then stage by stage."""
        if self.arch not in ANY_SIZE:
            return [self.image_size] * self.epochs
        smallest = min(SMALLEST_START, self.image_size)
        sizes = [max(smallest, round(self.image_size * part / 8) * 8) for part in self.stages]
        sizes[-1] = self.image_size
        # Counted from the end, so that the last epoch has the last size even if there are few.
        ahead = reversed(range(self.epochs))
        return [sizes[-1 - len(sizes) * epochs // self.epochs] for epochs in ahead]


def _check(name: str, value: object, allowed: tuple) -> None:
    kind = allowed[0]
    if not isinstance(kind, type):
        if value not in allowed:
            raise UserError(
                f"expected {name} to be one of {', '.join(map(str, allowed))}, got {value!r}"
            )
        return
    kinds = (int, float) if kind is float else kind
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise UserError(f"expected {name} to be of type {kind.__name__}, got {value!r}")
    if len(allowed) == 3 and not allowed[1] <= value <= allowed[2]:  # not so for NaN either
        raise UserError(f"expected {name} from {allowed[1]} to {allowed[2]}, got {value!r}")


def _checked_stages(stages: object) -> tuple[float, ...]:
    good = isinstance(stages, list | tuple) and 0 < len(stages) <= 100
    if not good or not all(
        isinstance(part, int | float) and math.isfinite(part) and 0 < part <= 1 for part in stages
    ):
        raise UserError(f"expected stages to be shares of the image size, got {stages!r}")
    return tuple(stages)


# Strong augmentation and dropout pay in long runs. Measured on 200 drawings per class, 12 epochs at
# 48 px: 62% of other drawings right with those of `full`, 77% with these.
MILD = {"crop_area": 0.35, "brightness": 0.2, "erase": 0.0, "dropout": 0.0}
SHORT_RUN = 2500  # steps
THREE_STAGES = (0.5, 0.75, 1.0)

RECIPES = {
    # Highest accuracy.
    "full": Settings(),
    # 94% on Dogs vs. Cats in the shortest time.
    "fast": Settings(
        recipe="fast", epochs=6, batch_size=64, lr=0.004, warmup=0.25, image_size=64,
        stages=(0.75, 0.75, 0.75, 0.875, 0.875, 1.0), **{**MILD, "crop_area": 0.5},
    ),
    # From the weights of another run.
    "tune": Settings(recipe="tune", epochs=20, image_size=128, stages=THREE_STAGES, lr=0.001),
    # Continues from the weights of `full`, with photos that are turned and corrupted.
    "long": Settings(
        recipe="long", epochs=36, lr=0.004, warmup=0.05, stages=(0.6, 0.8, 1.0, 1.0),
        crop_area=0.25, brightness=0.35, rotation=0.2, corruption=0.25,
    ),
    # On from the weights of `long`, with fewer such photos.
    "polish": Settings(
        recipe="polish", epochs=6, lr=0.0015, warmup=0.1, stages=(1.0,),
        rotation=0.05, corruption=0.12, **MILD,
    ),
    # Continues from the weights of any run, with sharpness-aware minimization.
    "sharp": Settings(
        recipe="sharp", epochs=24, lr=0.003, warmup=0.08, stages=(0.8, 1.0),
        erase=0.3, rotation=0.1, corruption=0.15, sharpness=0.1,
    ),
    # The drawings of --demo.
    "demo": Settings(recipe="demo", epochs=5, batch_size=64, image_size=48, stages=(1,), **MILD),
}  # fmt: skip


def fit_to_size(settings: Settings, photos: int, batch_size: int | None = None) -> Settings:
    """Return the settings for the given number of training photos.

    Few photos get small batches, so that an epoch has at least sixteen steps (unless a `batch_size`
    is asked for). A run of few steps gets the `MILD` augmentation, unless its own is mild.
    """
    batch_size = batch_size or min(settings.batch_size, max(8, photos // 16))
    settings = dataclasses.replace(settings, batch_size=min(batch_size, photos))
    if settings.erase and settings.epochs * photos < SHORT_RUN * settings.batch_size:
        settings = dataclasses.replace(settings, **MILD)
    return settings
