"""What a run reused, layer by stage, as heat maps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hart.evaluation.figures import BLUE, GREY, count_images, matplotlib_module, new_figure
from hart.evaluation.similarity_plot import SITE_TITLES
from hart.modules.models.transformer.hart_transformer_t2i_enhanced import HARTForT2IEnhanced
from hart.modules.networks.caching.config import SITES
from hart.modules.networks.caching.plan import is_eligible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CELL_WIDTH, _CELL_HEIGHT = 0.42, 0.27  # inches
_CLOSED = {"facecolor": "#EEEEEE", "edgecolor": GREY, "hatch": "////"}
_COMPUTED = {"facecolor": "white", "edgecolor": GREY}


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

        shares = {
            site: [
                [share(site, si, layer) for layer in range(model.depth)]
                for si in range(schedule.num_stages)
            ]
            for site in SITES
        }
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
    depth = len(reuse.shares[SITES[0]][0])
    width = 2 * max(_CELL_WIDTH * len(reuse.stages), 3.2) + 1.2
    figure = new_figure(width, max(_CELL_HEIGHT * depth, 1.6) + 2.2)
    for axes, site in zip(figure.subplots(1, 2), SITES, strict=True):
        _draw_site(axes, reuse, site)
    figure.suptitle(f"What was reused: {name}, {count_images(reuse.images)}", fontsize=11)
    patch = matplotlib_module("patches").Patch
    handles = [
        patch(color=BLUE, label="reused: the stage before, interpolated"),
        patch(label="computed: too dissimilar, or nothing stored", **_COMPUTED),
        patch(label="computed: not allowed to reuse", **_CLOSED),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def _draw_site(axes: Axes, reuse: ReuseMap, site: str) -> None:
    by_layer = list(zip(*reuse.shares[site], strict=True))  # layers as rows
    colours = matplotlib_module("colors").LinearSegmentedColormap.from_list("r", ["white", BLUE])
    axes.pcolormesh(by_layer, cmap=colours, vmin=0, vmax=1, edgecolors=GREY, linewidth=0.6)
    axes.patch.set(**_CLOSED)
    for layer, row in enumerate(by_layer):
        for si, share in enumerate(row):
            if 0 < share < 1:  # a share of the generations: adaptive threshold
                axes.text(si + 0.5, layer + 0.5, f"{share:.0%}", ha="center", va="center", size=6)
    cells = len(by_layer) * len(reuse.stages)
    axes.set_title(f"{SITE_TITLES[site]}: {reuse.reused(site):g} of {cells} reused", fontsize=10)
    middles = [si + 0.5 for si in range(len(reuse.stages))]
    axes.set_xticks(middles, [str(n) for n in reuse.stages], rotation=45)
    step = 1 if len(by_layer) <= 32 else 4
    rows = range(0, len(by_layer), step)
    axes.set_yticks([row + 0.5 for row in rows], [str(row) for row in rows])
    axes.invert_yaxis()
    axes.tick_params(labelsize=8, length=2)
    axes.set_xlabel("stage (tokens of its map)", fontsize=9)
    axes.set_ylabel("layer", fontsize=9)
