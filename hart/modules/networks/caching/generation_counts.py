"""Counting one generation while it runs.

From shapes and decisions alone: no tensor is looked at, so no device is waited for.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

from .config import SITES
from .decisions import COMPUTE, Action
from .multiply_adds import TransformerShape, attention_macs, key_value_macs, mlp_macs

CALLS = ("computed", "reused", "stored", "not_eligible")
"""The fields of :class:`SiteCounts` that count module calls."""


@dataclass
class SiteCounts:
    """Module calls of one site at one stage, summed over layers and generations.

    Attributes:
        computed: calls that computed the module.
        reused: calls that took the interpolated output instead.
        stored: outputs kept for the next stage.
        not_eligible: those of the computed calls that could not reuse whatever the similarity,
            because of the configuration or because caching is off.
        pruned: those of the computed calls that left out tokens.
        multiply_adds_computed: in the computed calls, over all rows of the batch.
        multiply_adds_saved: what the same calls would have cost more with everything computed;
            besides reused calls and left-out tokens that is attention to keys that nobody added,
            and the rows without text after the end of guidance.
    """

    computed: int = 0
    reused: int = 0
    stored: int = 0
    not_eligible: int = 0
    pruned: int = 0
    multiply_adds_computed: int = 0
    multiply_adds_saved: int = 0

    @property
    def reuse_rate(self) -> float:
        """Share of the calls that reused; 0 without calls."""
        calls = self.reused + self.computed
        return self.reused / calls if calls else 0.0

    def add(self, other: SiteCounts) -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "reuse_rate": self.reuse_rate}


class AdaptedThreshold(NamedTuple):
    """The threshold of one stage in one generation; see ``decisions.adapted_threshold``."""

    calibrated: float
    measured: float
    effective: float


def no_counts(shape: TransformerShape) -> list[dict[str, SiteCounts]]:
    """A zero for every stage index and site."""
    return [{site: SiteCounts() for site in SITES} for _ in shape.patch_nums]


def no_layer_counts(shape: TransformerShape) -> dict[str, list[list[int]]]:
    """A zero for every site, stage index and layer."""
    return {site: [[0] * shape.depth for _ in shape.patch_nums] for site in SITES}


class GenerationCounts:
    """Counts of one generation.

    Args:
        shape: sizes of the model.

    Attributes:
        stages: per stage index and site.
        thresholds: the adapted threshold per stage index, where there is one.
        reused_by_layer: per site, stage index and layer the calls that reused.
        held_bytes, peak_bytes: size of the stored outputs now, and the largest so far.
        held_keys, peak_keys: tokens in the key/value cache, summed over rows and layers.
    """

    def __init__(self, shape: TransformerShape) -> None:
        self.shape = shape
        self.stages = no_counts(shape)
        self.thresholds: dict[int, AdaptedThreshold] = {}
        self.reused_by_layer = no_layer_counts(shape)
        self.held_bytes = 0
        self.peak_bytes = 0
        self.held_keys = 0
        self.peak_keys = 0
        self._halves_left_out = 0
        self._keys = [0] * shape.depth
        self._keys_without_reuse = [0] * shape.depth

    def count(
        self,
        layer: int,
        si: int,
        site: str,
        action: Action,
        eligible: bool,
        rows: int,
        tokens: int,
        *,
        computed_tokens: int | None = None,
        added_keys: int = 0,
        projected_keys: int = 0,
    ) -> None:
        """Count one module call.

        Args:
            layer, si, site: which module at which stage index.
            action: what it did.
            eligible: whether the configuration allows reuse here, see ``decisions.is_eligible``.
            rows, tokens: size of its output, (rows, tokens, C).
            computed_tokens: tokens that were not left out; by default all, none if it was reused.
            added_keys: keys that the attention added for other tokens than those.
            projected_keys: those of them that had to be computed.
        """
        if computed_tokens is None:
            computed_tokens = 0 if action.reuse else tokens
        if site == "attn":
            self._keys_without_reuse[layer] += tokens
            self._keys[layer] += computed_tokens + added_keys
            self._hold_keys(rows * (computed_tokens + added_keys))
            whole = attention_macs(self.shape, tokens, self._keys_without_reuse[layer])
            computed = attention_macs(self.shape, computed_tokens, self._keys[layer])
            computed += key_value_macs(self.shape, projected_keys)
        else:
            whole = mlp_macs(self.shape, tokens)
            computed = mlp_macs(self.shape, computed_tokens)
        counts = self.stages[si][site]
        counts.computed += not action.reuse
        counts.reused += action.reuse
        self.reused_by_layer[site][si][layer] += action.reuse
        counts.stored += action.store
        counts.not_eligible += not (action.reuse or eligible)
        counts.pruned += 0 < computed_tokens < tokens
        counts.multiply_adds_computed += rows * computed
        counts.multiply_adds_saved += rows * (whole * (1 + self._halves_left_out) - computed)

    def count_uncached(self, si: int, rows: int, tokens: int) -> None:
        """Count all modules of a stage, or of a chunk of it, with caching off."""
        for layer in range(self.shape.depth):
            for site in SITES:
                self.count(layer, si, site, COMPUTE, False, rows, tokens)

    def hold(self, change_bytes: int) -> None:
        """Note that the stored outputs grew, or shrank."""
        self.held_bytes += change_bytes
        self.peak_bytes = max(self.peak_bytes, self.held_bytes)

    def stop_guidance(self) -> None:
        """Note that from now on the rows are half of those that guidance would need."""
        self._halves_left_out = 1
        self.held_keys //= 2

    def _hold_keys(self, more: int) -> None:
        self.held_keys += more
        self.peak_keys = max(self.peak_keys, self.held_keys)
