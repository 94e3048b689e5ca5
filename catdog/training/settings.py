"""The settings of a training run, each said once: default, limits, help and flag.

The flags of train.py, the checks of `config.json` and the table in docs/training.md come from here.
`from __future__ import annotations` must not stand here: `is_good` compares types, not text.
"""

import argparse
import dataclasses
import math
from collections.abc import Callable

import catdog
from catdog.errors import UserError

SMALLEST_START = 48  # px in the first epochs: smaller images show too little of an animal


def setting(
    default: object,
    about: str,
    least: float = -math.inf,
    most: float = math.inf,
    above: float = -math.inf,
    choices: tuple = (),
    flag: str | None = None,
):
    """Return a field of `Settings`.

    Args:
        about: what it is, in words for `--help` and docs.
        least, most, above: limits of a number, or of each number of several.
        choices: the values that it may have, if they are few.
        flag: what `--help` calls the value of its flag; "" if nothing needs to be said; None for a
            setting without a flag.
    """
    limits = {"least": least, "most": most, "above": above}
    return dataclasses.field(
        default=default, metadata={"about": about, **limits, "choices": choices, "flag": flag}
    )


@dataclasses.dataclass(frozen=True)
class Settings:
    """Every setting of a training run, as `config.json` of the run keeps it.

    Raises:
        UserError: a setting of another type or outside of its limits.
    """

    # fmt: off
    recipe: str = setting("full", "the recipe that the other settings come from")
    arch: str = setting("plain", "the network, a function in model.py")
    epochs: int = setting(64, "passes over the training photos", 1, 10_000, flag="N")
    batch_size: int = setting(128, "photos per step, fewer if there are few photos", 2, 65_536,
        flag="N")
    lr: float = setting(0.005, "peak learning rate, that of the convolutions", above=0, most=10,
        flag="RATE")
    adam_lr_ratio: float = setting(0.4, "learning rate of everything else, as a share of lr",
        0, 100)
    image_size: int = setting(160, "height and width of the photos in the last epochs, in pixels",
        8, 1024, flag="PX")
    stages: tuple[float, ...] = setting((0.4, 0.6, 0.8, 1.0),
        "image sizes, one after another for equally many epochs, as shares of image_size",
        above=0, most=1)
    score_scale: float = setting(1.25, "size in scoring and prediction, in multiples of image_size",
        1, 1.25)
    seed: int = setting(0, "seed for the initial weights, the shuffling and the augmentation",
        0, 2**31 - 1, flag="N")
    fold: int = setting(0, "use a different split: shift which photos are held out by this many "
        "tenths of the data", 0, 9, flag="I")
    weight_decay: float = setting(0.05, "weight decay", 0, 10)
    label_smoothing: float = setting(0.05, "share of each target that is spread over all classes",
        0, 0.99)
    dropout: float = setting(0.2, "share of the last features that are zeroed in training",
        0, 0.99)
    warmup: float = setting(0.15, "share of all steps in which the learning rate rises", 0, 1)
    crop_area: float = setting(0.3, "smallest share of the photo that a random crop keeps",
        0.01, 1)
    aspect: float = setting(0.2, "largest logarithm of width over height of a crop", 0, 2)
    mirror: bool = setting(True, "use mirror images in training and in scoring; they swap left and "
        "right", flag="")
    brightness: float = setting(0.3, "largest change of brightness and of contrast", 0, 1)
    erase: float = setting(0.4, "largest side of the square that is erased, as a share of the "
        "photo's", 0, 1)
    rotation: float = setting(0.2, "share of the photos that are turned by a random angle", 0, 1)
    corruption: float = setting(0.25, "share of the photos that may be made grey, dark, noisy "
        "or blurred", 0, 1)
    mild_end: float = setting(0.1, "share of the epochs, the last ones, with mild augmentation",
        0, 1)
    precision: str = setting("float32", "Keras's dtype policy in training; chosen by the device",
        choices=("float32", "mixed_bfloat16"))
    class_weight: str | None = setting(None, "give all classes the same weight in the loss, "
        "however many photos they have", choices=(None, "balanced"), flag="")
    init: str | None = setting(None, "start from the weights of this run directory (for example "
        "`weights`) instead of from scratch; recommended for few photos", flag="RUN")
    # fmt: on

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not is_good(field, value):
                raise UserError(f"expected {field.name} to be {expected(field)}, got {value!r}")
        object.__setattr__(self, "stages", tuple(self.stages))

    @classmethod
    def from_dict(cls, settings: dict) -> "Settings":
        """Return the settings of `config.json`, without those that this release does not have."""
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in settings.items() if name in names})

    @classmethod
    def to_resume(cls, config: dict) -> "Settings":
        """Return the settings in the `config.json` of a run that is to be trained further.

        Raises:
            UserError: another release wrote them, and trained in another way.
        """
        settings = config["settings"]
        if settings.keys() != {field.name for field in dataclasses.fields(cls)}:
            release = config.get("versions", {}).get("catdog", "0.1.0")
            raise UserError(
                f"expected a run of version {catdog.__version__} of this program, got one whose "
                f"settings are of version {release}, which can resume it"
            )
        return cls.from_dict(settings)

    @property
    def score_size(self) -> int:
        """Height and width in pixels of the photos in the cache, in scoring and in prediction."""
        return self.score_size_after(self.image_size)

    def score_size_after(self, image_size: int) -> int:
        """Return the size in pixels to score at after training at `image_size`.

        Random crops show the animals larger than whole photos do, and a larger size in scoring
        makes up for it (FixRes, Touvron et al. 2019).
        """
        if self.score_scale == 1:
            return image_size
        return max(image_size, round(image_size * self.score_scale / 8) * 8)

    def image_sizes(self) -> list[int]:
        """Return the image size in pixels of every epoch: small at first, then stage by stage."""
        smallest = min(SMALLEST_START, self.image_size)
        sizes = [max(smallest, round(self.image_size * part / 8) * 8) for part in self.stages]
        sizes[-1] = self.image_size
        # Counted from the end, so that the last epoch has the last size even if there are few.
        stages_left = (len(sizes) * left // self.epochs for left in reversed(range(self.epochs)))
        return [sizes[-1 - stages] for stages in stages_left]


def is_good(field: dataclasses.Field, value: object) -> bool:
    """Return whether a setting may have this value."""
    about, kind = field.metadata, field.type
    if about["choices"]:
        return value in about["choices"]
    if kind == tuple[float, ...]:
        several = isinstance(value, list | tuple) and 0 < len(value) <= 100
        return several and all(_is_number(about, each, (int, float)) for each in value)
    if kind in (int, float):
        return _is_number(about, value, (int, float) if kind is float else (int,))
    return isinstance(value, kind)


def _is_number(about, value, kinds) -> bool:  # NaN is in no range
    in_range = type(value) in kinds and about["least"] <= value <= about["most"]
    return in_range and value > about["above"]


def expected(field: dataclasses.Field) -> str:
    """Return in words which values a setting may have."""
    about, kind = field.metadata, field.type
    if about["choices"]:
        return f"one of {', '.join(map(str, about['choices']))}"
    if kind is bool:
        return "true or false"
    words = {int: "a whole number", float: "a number"}.get(kind, "numbers")
    if about["above"] > -math.inf:
        return f"{words} above {about['above']:g} and at most {about['most']:g}"
    if about["most"] < math.inf:
        return f"{words} from {about['least']:g} to {about['most']:.10g}"
    return "text"


def add_flags(parser: argparse.ArgumentParser, defaults: Callable[[str], str]) -> None:
    """Add the flags of the settings that have one; what is not given is None.

    Args:
        defaults: from the name of a setting, returns what `--help` says of its default values.
    """
    for field in dataclasses.fields(Settings):
        about, flag = field.metadata, "--" + field.name.replace("_", "-")
        if about["flag"] is None:
            continue
        options = {"help": about["about"].replace("%", "%%") + defaults(field.name)}
        if field.type is bool:
            flag = f"--no-{flag[2:]}"
            options |= {"dest": field.name, "action": "store_const", "const": False}
            options["help"] = f"do not {about['about']}"
        elif about["choices"]:
            options["choices"] = [each for each in about["choices"] if each is not None]
        else:
            options |= {"type": _parser(field), "metavar": about["flag"]}
        parser.add_argument(flag, **options)


def _parser(field):
    kind = field.type if field.type in (int, float) else str

    def parse(text):
        try:
            if is_good(field, value := kind(text)):
                return value
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"expected {expected(field)}, got {text!r}")

    return parse
