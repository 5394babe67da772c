"""Plans in files: what a model does module by module, where that comes from and what it gave.

Files are JSON. Reading checks everything: an error names the file, what was expected and found.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from hart.utils.files import make_folder, read_limited, write_json
from hart.utils.json_files import parse_json

from .config import SITES
from .plan_format import config_from_dict, require_format, require_keys, require_object
from .tuned_config import TunedConfig

FORMAT_NAME, FORMAT_VERSION = "hart-plan", 1
MAX_FILE_BYTES = 1 << 24
"""Largest file that is read, 16 MiB; corrections of 64 blocks of width 4096 need 5."""

PLAN_FOLDER = "plans"
"""Name of the folder beside a model that holds its plans."""

_KEYS = ("format", "format_version", "plan", "origin", "predicted", "measured")
Self = TypeVar("Self", bound="StoredPlan")


class PlanFileError(ValueError):
    """A plan file is unusable; the message names it, what was expected and what was found."""


@dataclass(frozen=True)
class PlanOrigin:
    """Where a plan comes from.

    Attributes:
        fingerprint: of the model's weights, None if unknown.
        prompts: how many it was found with.
        seed: of the first of their images.
        library_version: that wrote it.
        settings: what was asked for, and how images were drawn.
    """

    fingerprint: str | None = None
    prompts: int = 0
    seed: int = 0
    library_version: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StoredPlan:
    """What a model does, and what is known about that.

    Attributes:
        config: what it does; ``model.set_cache_config`` takes it.
        origin: where it comes from.
        predicted: figures by name, from measurements of its parts.
        measured: the same figures of pictures drawn with it that it was not found with.
    """

    config: TunedConfig
    origin: PlanOrigin = PlanOrigin()
    predicted: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)

    def require(self, model: Any) -> None:
        """Refuse a model that the plan was not made for.

        Raises:
            ValueError: it has other stages, another depth or other weights.
        """
        self.config.require(model.schedule, model.depth)
        known, here = self.origin.fingerprint, model.weight_fingerprint()
        if known is not None and here not in (known, None):
            raise ValueError(
                f"the plan is for the weights {known[:12]}; this model's are {here[:12]}"
            )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it as JSON, beside its place and renamed; folders are created.

        Raises:
            OSError: the file cannot be written.
        """
        path = Path(path)
        make_folder(path.parent)
        write_json(path, self.to_dict(), durable=True)
        return path

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "format": FORMAT_NAME,
            "format_version": FORMAT_VERSION,
            **self.config.to_dict(),
            "origin": {each.name: getattr(self.origin, each.name) for each in fields(PlanOrigin)},
            "predicted": dict(self.predicted),
            "measured": dict(self.measured),
        }

    @classmethod
    def load(cls: type[Self], path: str | os.PathLike[str], model: Any = None) -> Self:
        """Read a plan, for a model if one is given.

        Raises:
            PlanFileError: the file is damaged, or the plan is not for the model.
            OSError: it cannot be read.
        """
        path = Path(path)
        try:
            plan = cls.from_dict(parse_json(read_limited(path, MAX_FILE_BYTES)))
            if model is not None:
                plan.require(model)
        except ValueError as error:
            raise PlanFileError(f"{path}: {error}") from error
        return plan

    @classmethod
    def from_dict(cls: type[Self], document: Any) -> Self:
        """The inverse of :meth:`to_dict`.

        Raises:
            ValueError: a key is missing or unknown, or a value is not allowed.
        """
        require_format(document, FORMAT_NAME, FORMAT_VERSION, _KEYS)
        for key in ("predicted", "measured"):
            require_object(document[key], key)
        config = config_from_dict(document["plan"])
        return cls(config, _origin(document["origin"]), document["predicted"], document["measured"])

    def with_figures(self: Self, **figures: Any) -> Self:
        """With other ``predicted`` or ``measured`` figures."""
        return replace(self, **figures)

    def __str__(self) -> str:
        return "\n".join(plan_lines(self))


def plan_folder_of(checkpoint: Path) -> Path:
    """Where a checkpoint's own plans are: in its folder, or beside its file under the file's name.

    As ``similarity_file_of`` says of tables.
    """
    if checkpoint.is_file():
        return checkpoint.with_name(f"{checkpoint.stem}.{PLAN_FOLDER}")
    return checkpoint / PLAN_FOLDER


def _origin(values: Any) -> PlanOrigin:
    kinds: dict[str, Any] = {
        "fingerprint": (str, type(None)),
        "prompts": int,
        "seed": int,
        "library_version": (str, type(None)),
        "settings": dict,
    }
    require_keys(values, tuple(kinds))
    for key, kind in kinds.items():
        if not isinstance(values[key], kind) or isinstance(values[key], bool):
            raise ValueError(f"{key} of origin has the type {type(values[key]).__name__}")
    return PlanOrigin(**values)


# --- for a screen -----------------------------------------------------------------------------

_LETTERS = {(False, False): ".", (True, False): "a", (False, True): "m", (True, True): "#"}
"""Of a block: whether its attention and its MLP are reused."""

FIGURES = {
    "speedup": "{:.2f}x",
    "saved_share": "{:.1%}",
    "ssim": "{:.4f}",
    "psnr_db": "{:.2f}",
    "map_error": "{:.3g}",
    "seconds": "{:.3f}",
}
"""Names of figures, and how they are written; a spread is added where there is one."""


def plan_lines(plan: StoredPlan) -> list[str]:
    """What a plan does, layer by stage, and its figures; fits a screen."""
    config, lengths = plan.config, plan.config.schedule.lengths
    pruned = dict(config.prune_stages)
    stop = config.guidance_stop_stage
    lines = [
        str(config),
        "stage     layers 0 to "
        f"{config.depth - 1} (a attention, m MLP, # both reused)  left out  guidance",
    ]
    for si, length in enumerate(lengths[1:], 1):
        letters = (config.letters(si, site) for site in SITES)
        cells = "".join(_LETTERS[a == "r", m == "r"] for a, m in zip(*letters, strict=True))
        share = f"{pruned[length]:.0%}" if pruned.get(length) else "-"
        guided = "-" if stop is not None and length >= stop else "yes"
        if set(cells) != {"."} or share != "-" or guided == "-":
            lines.append(f"{length:>5}     {cells}  {share:>4}  {guided}")
    return lines + figure_lines(plan)


def figure_lines(plan: StoredPlan) -> list[str]:
    """Predicted beside measured, one figure per line; none if nothing is known."""
    names = [name for name in FIGURES if name in plan.predicted or name in plan.measured]
    if not names:
        return []
    rows = [f"{'':<12}{'predicted':>12}{'measured':>20}"]
    for name in names:
        cells = (_figure(name, values) for values in (plan.predicted, plan.measured))
        predicted, measured = cells
        rows.append(f"{name:<12}{predicted:>12}{measured:>20}")
    return rows


def _figure(name: str, values: Mapping[str, Any]) -> str:
    value, spread = values.get(name), values.get(f"{name}_spread")
    if not isinstance(value, int | float):
        return "-"
    text = FIGURES[name].format(value)
    return f"{text} +-{spread:.2g}" if isinstance(spread, int | float) else text
