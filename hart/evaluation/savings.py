"""What caching did for an image, in words; the same ones in every report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

SAVED_BY = {"guidance": "ended guidance", "reuse": "reuse", "pruning": "pruning"}
"""What saves multiply-adds, for people."""


def savings_text(statistics: Mapping[str, Any]) -> str:
    """One line from ``model.get_cache_statistics()``: what was reused and what each thing saved."""
    modules, shares = statistics["modules"], statistics["saved_share_by"]
    parts = ", ".join(f"{SAVED_BY[name]} {share:.1%}" for name, share in shares.items() if share)
    return (
        f"{modules['reused']:.6g} of {modules['all']:.6g} modules reused per image, "
        f"{statistics['saved_share']:.1%} of the transformer's multiply-adds saved"
        + (f" ({parts})" if parts else "")
    )


def no_reuse_lines(reasons: Iterable[str], saved_otherwise: bool) -> list[str]:
    """Why no module was reused, without saying that nothing was gained where something was."""
    start = "reuse saved nothing" if saved_otherwise else "nothing was reused"
    return [f"{start}: {reason}" for reason in reasons]
