"""A plan that can be checked against pictures."""

from __future__ import annotations

from typing import Any, TypeVar

from hart.modules.networks.caching.plan_files import StoredPlan
from hart.pipeline.base import Pipeline
from hart.tuning.verification import verify

Self = TypeVar("Self", bound="TunedPlan")


class TunedPlan(StoredPlan):
    """What ``Measurements.solve`` finds; see :class:`StoredPlan`."""

    def verify(self: Self, pipeline: Pipeline, prompts: Any, **sampling: Any) -> Self:
        """The plan with the figures that ``verification.verify`` measures."""
        self.require(pipeline.transformer)
        return self.with_figures(measured=verify(pipeline, self.config, prompts, **sampling))
