"""Drawing by plans and levels of quality."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from hart.modules.networks.caching.config import CacheConfig
from hart.modules.networks.caching.plan_files import StoredPlan
from hart.modules.networks.caching.presets import (
    LOSSLESS,
    QUALITY_LEVELS,
    preset_config,
    quality_preset,
)
from hart.pipeline.folders import PathLike


class DrawsByPlan:
    """What a pipeline does with plans.

    Attributes:
        transformer: whose cache configuration is set.
        folders: where the checkpoint's own plans are, None without a checkpoint.
    """

    transformer: Any
    folders: Any

    def set_plan(self, plan: StoredPlan | PathLike | None) -> None:
        """Draw as a plan says from the next image on; None means without caching.

        Args:
            plan: that, or the file of one.

        Raises:
            ValueError: it is for another model, or the file is damaged.
            OSError: the file cannot be read.
        """
        if isinstance(plan, StoredPlan):
            plan.require(self.transformer)
        elif plan is not None:
            plan = StoredPlan.load(plan, self.transformer)
        self.transformer.set_cache_config("no-cache" if plan is None else plan.config)

    def set_quality(self, level: str) -> None:
        """Draw at a level of :data:`QUALITY_LEVELS` from the next image on.

        By the plan of that name beside the checkpoint; ``lossless`` is without caching.

        Raises:
            ValueError: unknown level, or its plan cannot be used.

        Warns:
            UserWarning: the checkpoint has no such plan, so that a preset takes its place.
        """
        preset = quality_preset(level)
        file = self.quality_files().get(level)
        if file is not None:
            self.set_plan(file)
            return
        if level != LOSSLESS:
            warnings.warn(
                f"this checkpoint has no plan {level!r}, so the preset {preset} takes its place; "
                "hart tune --quality-levels makes plans",
                stacklevel=2,
            )
        self.transformer.set_cache_config(preset)

    def quality_plans(self) -> dict[str, StoredPlan]:
        """The checkpoint's own plans, by level of quality, best first.

        Raises:
            ValueError, OSError: one of them cannot be used.
        """
        files = self.quality_files().items()
        return {name: StoredPlan.load(file, self.transformer) for name, file in files}

    def quality_configs(self) -> dict[str, CacheConfig]:
        """What every level of quality does, best first: the checkpoint's own plans, and presets
        where it has none. Raises as :meth:`quality_plans`."""
        sides = self.transformer.patch_nums
        presets = {level: preset_config(name, sides) for level, name in QUALITY_LEVELS.items()}
        return presets | {level: plan.config for level, plan in self.quality_plans().items()}

    def quality_files(self) -> dict[str, Path]:
        """The checkpoint's own plans for levels of quality, best first."""
        folders = () if self.folders is None else self.folders.plan_folders
        return {
            level: folder / f"{level}.json"
            for level in QUALITY_LEVELS
            for folder in reversed(folders)
            if level != LOSSLESS and (folder / f"{level}.json").is_file()
        }
