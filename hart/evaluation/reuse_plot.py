"""What a run reused, layer by stage, as heat maps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hart.evaluation.figures import (
    BLUE,
    GREY,
    HATCHED,
    SITE_TITLES,
    count_images,
    heat_map,
    matplotlib_module,
    new_figure,
)
from hart.modules.models.transformer.hart_transformer_t2i_enhanced import HARTForT2IEnhanced
from hart.modules.networks.caching.config import SITES
from hart.modules.networks.caching.plan import is_eligible

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class ReuseMap:
    """Which modules a run reused.

    Attributes:
        stages: token counts.
        shares: per site, stage and layer the share of calls in [0, 1] that reused; NaN where the
            configuration does not allow reuse.
        images: number of images.
    """

    stages: tuple[int, ...]
    shares: dict[str, list[list[float]]]
    images: int

    @classmethod
    def of(cls, model: HARTForT2IEnhanced) -> ReuseMap:
        """What the model did since its statistics were reset, with the configuration it has now."""
        statistics, config, schedule = model.cache_statistics, model.cache_config, model.schedule

        def share(site: str, si: int, layer: int) -> float:
            if not is_eligible(config, schedule, site, si, layer):
                return math.nan
            counts = statistics.counts(si, site)
            calls = (counts.computed + counts.reused) / model.depth  # of each layer
            return statistics.reused_by_layer[site][si][layer] / calls if calls else 0.0

        stages, layers = range(schedule.num_stages), range(model.depth)
        shares = {s: [[share(s, si, layer) for layer in layers] for si in stages] for s in SITES}
        return cls(schedule.lengths, shares, statistics.images)

    def to_dict(self) -> dict[str, dict[str, list[float | None]]]:
        """JSON-able: site -> token count -> share per layer, None where reuse is not allowed."""
        return {
            site: {
                str(length): [None if math.isnan(share) else share for share in shares]
                for length, shares in zip(self.stages, self.shares[site], strict=True)
            }
            for site in SITES
        }

    def reused(self, site: str) -> float:
        """Mean number of modules of ``site`` that a generation reused."""
        return sum(share for row in self.shares[site] for share in row if not math.isnan(share))


def plot_reuse(reuse: ReuseMap, name: str) -> Figure:
    """Draw one heat map per site, layers as rows and stages as columns.

    Args:
        reuse: of one run.
        name: what the title calls its configuration.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    depth, stages = len(reuse.shares[SITES[0]][0]), [str(length) for length in reuse.stages]
    figure = new_figure(2 * max(0.42 * len(stages), 3.2) + 1.2, max(0.27 * depth, 1.6) + 2.2)
    blues = matplotlib_module("colors").LinearSegmentedColormap.from_list("r", ["white", BLUE])
    scale = {"cmap": blues, "vmin": 0, "vmax": 1, "edgecolors": GREY}
    for axes, site in zip(figure.subplots(1, 2), SITES, strict=True):
        by_layer = list(zip(*reuse.shares[site], strict=True))
        # Shares of the generations stand there where the threshold adapts to each.
        heat_map(axes, by_layer, stages, lambda s: f"{s:.0%}" if 0 < s < 1 else "", **scale)
        cells = depth * len(stages)
        title = f"{SITE_TITLES[site]}: {reuse.reused(site):g} of {cells} reused"
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("stage (tokens of its map)", fontsize=9)
        axes.set_ylabel("layer", fontsize=9)
    figure.suptitle(f"What was reused: {name}, {count_images(reuse.images)}", fontsize=11)
    patch = matplotlib_module("patches").Patch
    white = {"facecolor": "white", "edgecolor": GREY}
    handles = [
        patch(color=BLUE, label="reused: the stage before, interpolated"),
        patch(label="computed: too dissimilar, or nothing stored", **white),
        patch(label="computed: not allowed to reuse", **HATCHED),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure
