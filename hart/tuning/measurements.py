"""What was measured of a model: the error of every option by itself, and what things cost.

A JSON file, of which several about one model add up. It is read as strictly as plans are.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from hart.modules.networks.caching.multiply_adds import TransformerShape
from hart.modules.networks.caching.plan_format import require_format, require_keys, require_object
from hart.modules.networks.caching.stages import StageSchedule
from hart.tuning.costs import COST, MultiplyAdds, Seconds, shape_from_dict, shape_to_dict
from hart.tuning.plan import TunedPlan
from hart.tuning.selection import Selection, options
from hart.tuning.targets import solve
from hart.utils.fields import Number
from hart.utils.files import make_folder, read_limited, write_json
from hart.utils.json_files import parse_json
from hart.version import __version__

FORMAT_NAME, FORMAT_VERSION = "hart-plan-measurements", 1
MAX_FILE_BYTES = 1 << 24
MAX_IMAGES = 10**9
_KEYS = (
    *("format", "format_version", "library_version", "shape", "fingerprint", "settings"),
    *("errors", "pictures", "seconds", "memory_bytes"),
)
_PICTURE_KEYS = ("predicted_error", "map_error", "ssim", "psnr_db", "images")


class MeasurementsError(ValueError):
    """A file of measurements is unusable; the message names it, what was expected and found."""


@dataclass(frozen=True)
class ErrorSum:
    """Mean squared changes of final feature maps, summed over images.

    Attributes:
        images: how many.
        total, squares: sum of the changes and of their squares.
    """

    images: int = 0
    total: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, errors: Sequence[float]) -> ErrorSum:
        """Of some images' changes."""
        return cls(len(errors), math.fsum(errors), math.fsum(error * error for error in errors))

    def __add__(self, other: ErrorSum) -> ErrorSum:
        return ErrorSum(
            self.images + other.images, self.total + other.total, self.squares + other.squares
        )

    @property
    def mean(self) -> float:
        return self.total / self.images

    @property
    def spread(self) -> float:
        """Standard error of the mean; infinite for a single image."""
        if self.images < 2:
            return math.inf
        variance = max(0.0, self.squares / self.images - self.mean**2)
        return math.sqrt(variance / (self.images - 1))

    def to_list(self) -> list[float]:
        return [self.images, self.total, self.squares]


@dataclass(frozen=True)
class PictureError:
    """What pictures of one plan were like, beside what its parts predict.

    Attributes:
        predicted_error: sum of the parts' errors.
        map_error: mean squared change of the final feature map.
        ssim, psnr_db: of the pictures, against those without caching.
        images: how many.
    """

    predicted_error: float
    map_error: float
    ssim: float
    psnr_db: float
    images: int


@dataclass
class Measurements:
    """What is known about the options of one model.

    Attributes:
        shape: sizes of the model.
        fingerprint: of its weights.
        settings: how the images were drawn.
        errors: by name of the option, see ``selection.options``.
        pictures: of whole plans.
        seconds: what things cost on one machine; None if nothing was timed.
        memory_bytes: peak of drawing without caching, None if unknown.
    """

    shape: TransformerShape
    fingerprint: str | None
    settings: dict[str, Any]
    errors: dict[str, ErrorSum] = field(default_factory=dict)
    pictures: list[PictureError] = field(default_factory=list)
    seconds: Seconds | None = None
    memory_bytes: int | None = None

    @cached_property
    def schedule(self) -> StageSchedule:
        return StageSchedule(self.shape.patch_nums)

    @cached_property
    def options(self) -> dict[str, Selection]:
        """All options of the model, measured or not."""
        return options(self.schedule, self.shape.depth)

    @property
    def measured(self) -> dict[str, Selection]:
        """The options whose error is known."""
        known = ((name, self.errors.get(name)) for name in self.options)
        return {name: self.options[name] for name, error in known if error and error.images}

    @property
    def multiply_adds(self) -> MultiplyAdds:
        return MultiplyAdds(self.shape)

    @property
    def images(self) -> int:
        """Images that every option was measured on, at least."""
        return min(self.errors.get(name, ErrorSum()).images for name in self.options)

    def differs_in(self, other: Measurements) -> str | None:
        """The attribute that tells that others are of another model or drawn otherwise, if any."""
        names = ("shape", "fingerprint", "settings")
        return next((n for n in names if getattr(self, n) != getattr(other, n)), None)

    def merged(self, other: Measurements) -> Measurements:
        """The measurements of both; their images must differ.

        Raises:
            ValueError: they are about different weights, or images drawn otherwise.
        """
        name = self.differs_in(other)
        if name is not None:
            mine, theirs = getattr(self, name), getattr(other, name)
            raise ValueError(f"measurements of another {name}: {theirs!r}, not {mine!r}")
        errors = {
            name: self.errors.get(name, ErrorSum()) + other.errors.get(name, ErrorSum())
            for name in {**self.errors, **other.errors}
        }
        return replace(
            self,
            errors=errors,
            pictures=[*self.pictures, *other.pictures],
            seconds=self.seconds or other.seconds,
            memory_bytes=self.memory_bytes or other.memory_bytes,
        )

    def solve(self, **target: float) -> TunedPlan:
        """The best plan for a budget, without drawing anything; see ``targets.solve``."""
        return solve(self, **target)[0]

    def require(self, model: Any) -> None:
        """Refuse another model than was measured, by ValueError."""
        if model.transformer_shape != self.shape:
            raise ValueError("the measurements are of a model of other sizes")
        here = model.weight_fingerprint()
        if None not in (here, self.fingerprint) and here != self.fingerprint:
            raise ValueError("the measurements are of other weights than this model's")

    # --- files --------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write them as JSON; folders are created. Raises OSError."""
        path = Path(path)
        make_folder(path.parent)
        document = {
            "format": FORMAT_NAME,
            "format_version": FORMAT_VERSION,
            "library_version": __version__,
            "shape": shape_to_dict(self.shape),
            "fingerprint": self.fingerprint,
            "settings": self.settings,
            "errors": {name: error.to_list() for name, error in self.errors.items()},
            "pictures": [vars(each) for each in self.pictures],
            "seconds": None if self.seconds is None else self.seconds.to_dict(),
            "memory_bytes": self.memory_bytes,
        }
        write_json(path, document, durable=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Measurements:
        """Read a file.

        Raises:
            MeasurementsError: it is damaged.
            OSError: it cannot be read.
        """
        try:
            return _decoded(parse_json(read_limited(Path(path), MAX_FILE_BYTES)))
        except (ValueError, TypeError) as error:
            raise MeasurementsError(f"{path}: {error}") from error


def _decoded(document: Any) -> Measurements:
    require_format(document, FORMAT_NAME, FORMAT_VERSION, _KEYS)
    for key in ("shape", "settings", "errors"):
        require_object(document[key], key)
    if not isinstance(document["fingerprint"], str | None):
        raise ValueError("fingerprint must be a text or null")
    if not isinstance(document["pictures"], list):
        raise ValueError("pictures must be a list")
    memory = document["memory_bytes"]
    if memory is not None and not COST.allows(memory):
        raise ValueError(f"memory_bytes must be a number from 0 or null, got {memory!r:.80}")
    shape = shape_from_dict(document["shape"])
    found = Measurements(shape, document["fingerprint"], document["settings"], memory_bytes=memory)
    found.errors = _errors(document["errors"], found.options)
    found.pictures = [_picture(each) for each in document["pictures"]]
    if document["seconds"] is not None:
        found.seconds = Seconds.from_dict(document["seconds"], len(shape.patch_nums))
    return found


def _errors(values: Mapping[str, Any], known: Mapping[str, Selection]) -> dict[str, ErrorSum]:
    errors = {}
    for name, numbers in values.items():
        if name not in known:
            raise ValueError(f"errors names {name[:80]!r}, which is no option of this model")
        right = isinstance(numbers, list) and len(numbers) == 3 and all(map(COST.allows, numbers))
        if not (right and isinstance(numbers[0], int) and numbers[0] <= MAX_IMAGES):
            raise ValueError(f"errors of {name} must be images, sum and sum of squares")
        errors[name] = ErrorSum(*numbers)
    return errors


def _picture(values: Any) -> PictureError:
    require_keys(values, _PICTURE_KEYS)
    for name, value in values.items():
        if not Number().allows(value):
            raise ValueError(f"{name} of pictures must be a number, got {value!r:.80}")
    return PictureError(**values)
