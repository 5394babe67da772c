"""A plan as a picture for notebooks: per site a row per layer and a column per stage."""

from __future__ import annotations

from .config import SITES
from .plan import Action, Plan, guidance_stop

COLOURS = {"computed": "#dddddd", "tokens left out": "#ddaa33", "reused": "#4477aa"}
_SITE_NAMES = {"attn": "attention", "mlp": "MLP"}
_CELL = '<td title="{title}" style="background:{colour};width:1.6em;height:0.8em"></td>'


def plan_html(plan: Plan) -> str:
    """The map, with its key and the stage at which guidance ends."""
    key = " ".join(
        f'<span style="background:{colour};padding:0 0.6em">&nbsp;</span> {what}'
        for what, colour in COLOURS.items()
    )
    stop = guidance_stop(plan.config, plan.schedule)
    if stop is not None:
        key += f"; no guidance from {plan.schedule.lengths[stop]} tokens on"
    return f"<p>{key}</p>" + "".join(_table(plan, site) for site in SITES)


def _table(plan: Plan, site: str) -> str:
    heads = "".join(f"<th>{length}</th>" for length in plan.schedule.lengths)
    rows = "".join(
        f"<tr><th>{layer}</th>" + "".join(_cells(plan, site, layer)) + "</tr>"
        for layer in range(plan.depth)
    )
    return (
        f"<table><caption>{_SITE_NAMES[site]}, layer by stage</caption>"
        f"<tr><th></th>{heads}</tr>{rows}</table>"
    )


def _cells(plan: Plan, site: str, layer: int) -> list[str]:
    done = [what_is_done(plan.action(si, layer, site)) for si in range(plan.schedule.num_stages)]
    return [
        _CELL.format(title=f"layer {layer}, {length} tokens: {what}", colour=COLOURS[what])
        for length, what in zip(plan.schedule.lengths, done, strict=True)
    ]


def what_is_done(action: Action) -> str:
    """A key of :data:`COLOURS`."""
    if action.reuse:
        return "reused"
    return "tokens left out" if action.ratio > 0 else "computed"
