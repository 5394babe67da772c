"""What a selection costs, module by module: multiply-adds, or seconds on one machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from hart.modules.networks.caching.multiply_adds import (
    TransformerShape,
    attention_macs,
    mlp_macs,
)
from hart.modules.networks.caching.plan import kept_tokens
from hart.modules.networks.caching.plan_format import require_keys
from hart.tuning.selection import Selection
from hart.utils.fields import Number

COST = Number(0)
"""What a cost in a file may be."""


class Costs(Protocol):
    """Costs add up: ``rest`` and those of all modules."""

    def rest(self, selection: Selection) -> float:
        """Of everything that no module does."""

    def module(self, selection: Selection, module: int) -> float:
        """Of one module in all stages."""


def total(costs: Costs, selection: Selection) -> float:
    """Of a whole generation."""
    modules = range(len(selection.reused))
    return costs.rest(selection) + sum(costs.module(selection, m) for m in modules)


@dataclass(frozen=True)
class MultiplyAdds:
    """Multiply-adds of one image's rows, as the model's statistics count them."""

    shape: TransformerShape

    def rest(self, selection: Selection) -> float:
        return 0.0

    def module(self, selection: Selection, module: int) -> float:
        stages = len(self.shape.patch_nums)
        reused, pruned = selection.reuses_from(module, stages), selection.pruned(stages)
        keys, macs = 0, 0
        for si, tokens in enumerate(self.shape.new_tokens):
            if si in reused:
                continue
            kept = kept_tokens(tokens, pruned.get(si, 0.0))
            rows = 1 if si >= stages - selection.unguided else 2
            if module % 2:
                macs += rows * mlp_macs(self.shape, kept)
            else:
                keys += kept
                macs += rows * attention_macs(self.shape, kept, keys)
        return float(macs)


@dataclass(frozen=True)
class Seconds:
    """Seconds per image on one machine, fitted to timed draws; see ``timed.py``.

    Attributes:
        other_s: what no stage does: text, decoding.
        base_s: per stage, of everything but the modules.
        attn_s, mlp_s: per stage, of one module.
        pruned_s: per stage, what a pruned module needs beside its tokens' share.
        unguided: per stage, the share of its seconds that it needs without guidance.
        batch_size: of the timed draws.
    """

    other_s: float
    base_s: tuple[float, ...]
    attn_s: tuple[float, ...]
    mlp_s: tuple[float, ...]
    pruned_s: tuple[float, ...]
    unguided: tuple[float, ...]
    batch_size: int = 1

    def _guidance(self, selection: Selection, si: int) -> float:
        return self.unguided[si] if si >= len(self.base_s) - selection.unguided else 1.0

    def rest(self, selection: Selection) -> float:
        stages = enumerate(self.base_s)
        return self.other_s + sum(s * self._guidance(selection, si) for si, s in stages)

    def module(self, selection: Selection, module: int) -> float:
        stages = len(self.base_s)
        reused, pruned = selection.reuses_from(module, stages), selection.pruned(stages)
        seconds = 0.0
        for si, whole in enumerate(self.mlp_s if module % 2 else self.attn_s):
            if si in reused:
                continue
            share = pruned.get(si, 0.0)
            own = whole * (1 - share) + (self.pruned_s[si] if share else 0.0)
            seconds += own * self._guidance(selection, si)
        return seconds

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any, stages: int) -> Seconds:
        """The inverse of :meth:`to_dict`; ValueError names what is not allowed."""
        require_keys(values, tuple(cls.__dataclass_fields__))
        checked: dict[str, Any] = {}
        for name, value in values.items():
            numbers = value if isinstance(value, list) else [value]
            is_list = name not in ("other_s", "batch_size")
            right = len(numbers) == (stages if is_list else 1) and all(map(COST.allows, numbers))
            if not right:
                raise ValueError(f"{name} of seconds must be numbers from 0, got {value!r:.80}")
            checked[name] = tuple(numbers) if is_list else value
        return cls(**checked)


def shape_to_dict(shape: TransformerShape) -> dict[str, Any]:
    """JSON-able."""
    return {**asdict(shape), "patch_nums": list(shape.patch_nums)}


def shape_from_dict(values: Mapping[str, Any]) -> TransformerShape:
    """The inverse of :func:`shape_to_dict`; ValueError names what is not allowed."""
    require_keys(dict(values), tuple(TransformerShape.__dataclass_fields__))
    for name, value in values.items():
        numbers = value if isinstance(value, list) and name == "patch_nums" else [value]
        if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in numbers):
            raise ValueError(f"{name} of shape must be whole numbers from 0, got {value!r:.80}")
    return TransformerShape(**{**values, "patch_nums": tuple(values["patch_nums"])})
