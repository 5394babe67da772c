"""What caching did for an image, in words; the same ones in every report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

SAVED_BY = {"guidance": "guidance ended", "reuse": "reuse", "pruning": "tokens left out"}
"""What saves multiply-adds, for people."""


def savings_text(statistics: Mapping[str, Any]) -> str:
    """One line from ``model.get_cache_statistics()``: what was saved by what, and what reused."""
    modules, shares = statistics["modules"], statistics["saved_share_by"]
    parts = ", ".join(
        f"{_percent(share)} {SAVED_BY[name]}" for name, share in shares.items() if share
    )
    return (
        f"{_percent(statistics['saved_share'])} of the transformer's work saved"
        + (f": {parts}" if parts else "")
        + f"; {modules['reused']:.6g} of {modules['all']:.6g} modules reused per image"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if 0 < share < 0.1 else f"{100 * share:.0f} %"


def caching_lines(model: Any) -> list[str]:
    """What caching has done since the statistics began, and if it reused nothing, why."""
    config = model.cache_config
    reuses = config.enabled_sites and config.skip_stages
    if not (model.use_cache and (reuses or config.changes_anything)):
        return ["caching: off"]
    if model.calibration:
        return ["caching: off while calibrating"]
    statistics = model.cache_statistics
    line = f"caching: {savings_text(statistics.to_dict())}; {config}"
    return [line, *no_reuse_lines(reasons_for_no_reuse(model), statistics.saved_share > 0)]


def reasons_for_no_reuse(model: Any) -> list[str]:
    """Why nothing was reused since the statistics began; none if something was, or is measured."""
    if model.cache_statistics.modules()["reused"] or model.calibration:
        return []
    if not model.use_cache:
        return ["caching is switched off"]
    config = model.cache_config
    if config.changes_anything and not config.skip_stages:
        return []  # it does something else than reusing
    reasons = model.decision_plan().reasons
    return list(reasons or ["the adaptive threshold accepted no transition in this run"])


def no_reuse_lines(reasons: Iterable[str], saved_otherwise: bool) -> list[str]:
    """Why no module was reused, without saying that nothing was gained where something was."""
    start = "reuse saved nothing" if saved_otherwise else "nothing was reused"
    return [f"{start}: {reason}" for reason in reasons]
