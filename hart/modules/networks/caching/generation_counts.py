"""Counting one generation while it runs.

From shapes and decisions alone: no tensor is looked at, so no device is waited for.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

from .config import SITES
from .multiply_adds import TransformerShape, attention_macs, mlp_macs
from .plan import Action, kept_tokens

CALLS = ("computed", "reused", "stored", "not_eligible")
"""The fields of :class:`SiteCounts` that count module calls, for every image."""

MULTIPLY_ADDS = "multiply_adds"
"""How the names of its other fields start."""

SAVINGS = ("guidance", "reuse", "pruning")
"""What can save multiply-adds, in the order in which :class:`SiteCounts` attributes them."""


@dataclass
class SiteCounts:
    """Module calls of one site at one stage, summed over layers.

    In one generation a call is one, whatever the number of images; summed over generations, in
    :class:`CacheStatistics`, it counts once for each of its images, so that the sums are the same
    in any batching. Multiply-adds are those of all rows in both.

    What is saved is the difference to computing everything with guidance throughout. Where several
    things together save a product it is attributed to the first of

    1. ``guidance``: all that the rows without text would have cost after its end;
    2. ``reuse``: in the other rows what a reused module would have cost, and a computed
       attention's products with the keys that earlier, reused attentions did not add;
    3. ``pruning``: the rest, which left-out tokens and their keys would have cost.

    Attributes:
        computed: calls that computed the module.
        reused: calls that took the interpolated output instead.
        stored: outputs kept for the next stage.
        not_eligible: those of the computed calls that could not reuse whatever the similarity,
            because of the configuration or because caching is off.
        pruned: those of the computed calls that left out tokens.
        multiply_adds_computed: what was executed.
        multiply_adds_saved_by_guidance, multiply_adds_saved_by_reuse,
            multiply_adds_saved_by_pruning: the parts of what was saved.
    """

    computed: int = 0
    reused: int = 0
    stored: int = 0
    not_eligible: int = 0
    pruned: int = 0
    multiply_adds_computed: int = 0
    multiply_adds_saved_by_guidance: int = 0
    multiply_adds_saved_by_reuse: int = 0
    multiply_adds_saved_by_pruning: int = 0

    @property
    def multiply_adds_saved(self) -> int:
        """The sum of the parts."""
        return sum(self.multiply_adds_saved_by.values())

    @property
    def multiply_adds_saved_by(self) -> dict[str, int]:
        """The parts by name, see :data:`SAVINGS`."""
        return {cause: getattr(self, f"multiply_adds_saved_by_{cause}") for cause in SAVINGS}

    @property
    def reuse_rate(self) -> float:
        """Share of the calls that reused; 0 without calls."""
        calls = self.reused + self.computed
        return self.reused / calls if calls else 0.0

    def add(self, other: SiteCounts, images: int = 1) -> None:
        """Add other counts; their calls as often as they drew ``images``."""
        for field in fields(self):
            times = 1 if field.name.startswith(MULTIPLY_ADDS) else images
            added = times * getattr(other, field.name)
            setattr(self, field.name, getattr(self, field.name) + added)

    def to_dict(self, images: int = 1) -> dict[str, Any]:
        """JSON-able: the calls of one of ``images``, the multiply-adds of all."""
        calls, multiply_adds = {}, {}
        for name, number in asdict(self).items():
            if name.startswith(MULTIPLY_ADDS):
                multiply_adds[name] = number
            else:
                calls[name] = per_image(number, images)
        saved = {"multiply_adds_saved": self.multiply_adds_saved}
        return {**calls, **multiply_adds, **saved, "reuse_rate": self.reuse_rate}


def per_image(number: int, images: int) -> int | float:
    """The mean over images: an integer if it is one, as it is unless images differ."""
    return number // images if number % images == 0 else number / images


class AdaptedThreshold(NamedTuple):
    """The threshold of one stage in one generation; see ``plan.adapted_threshold``."""

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
        # Per layer: keys if everything was computed, and those of them that nobody added.
        self._keys = [0] * shape.depth
        self._keys_not_added = {"reuse": [0] * shape.depth, "pruning": [0] * shape.depth}

    def count(
        self,
        layer: int,
        si: int,
        site: str,
        action: Action,
        eligible: bool,
        rows: int,
        tokens: int,
    ) -> None:
        """Count one module call.

        Args:
            layer, si, site: which module at which stage index.
            action: what it did.
            eligible: whether the configuration allows reuse here, see ``plan.is_eligible``.
            rows, tokens: size of its output, (rows, tokens, C).
        """
        computed_tokens = 0 if action.reuse else kept_tokens(tokens, action.ratio)
        if site == "attn":
            self._keys[layer] += tokens
            cause = "reuse" if action.reuse else "pruning"
            self._keys_not_added[cause][layer] += tokens - computed_tokens
            self._hold_keys(rows * computed_tokens)
            whole, unpruned, computed = self._attention(layer, tokens, computed_tokens)
        else:
            whole = unpruned = mlp_macs(self.shape, tokens)
            computed = mlp_macs(self.shape, computed_tokens)
        if action.reuse:  # there is nothing left that pruning could save
            unpruned = computed
        counts = self.stages[si][site]
        counts.computed += not action.reuse
        counts.reused += action.reuse
        self.reused_by_layer[site][si][layer] += action.reuse
        counts.stored += action.store
        counts.not_eligible += not (action.reuse or eligible)
        counts.pruned += 0 < computed_tokens < tokens
        counts.multiply_adds_computed += rows * computed
        counts.multiply_adds_saved_by_guidance += rows * whole * self._halves_left_out
        counts.multiply_adds_saved_by_reuse += rows * (whole - unpruned)
        counts.multiply_adds_saved_by_pruning += rows * (unpruned - computed)

    def _attention(self, layer: int, tokens: int, computed_tokens: int) -> tuple[int, int, int]:
        """Multiply-adds of one row: all computed, as earlier reuse leaves it, as it was done."""
        keys = self._keys[layer]
        kept = keys - self._keys_not_added["reuse"][layer]
        attended = kept - self._keys_not_added["pruning"][layer]
        return (
            attention_macs(self.shape, tokens, keys),
            attention_macs(self.shape, tokens, kept),
            attention_macs(self.shape, computed_tokens, attended),
        )

    def hold(self, stored_bytes: int) -> None:
        """Note the size of the stored outputs."""
        self.held_bytes = stored_bytes
        self.peak_bytes = max(self.peak_bytes, stored_bytes)

    def stop_guidance(self, stored_bytes: int) -> None:
        """Note that from now on the rows are half of those that guidance would need."""
        self._halves_left_out = 1
        self.held_keys //= 2
        self.hold(stored_bytes)

    def _hold_keys(self, more: int) -> None:
        self.held_keys += more
        self.peak_keys = max(self.peak_keys, self.held_keys)
