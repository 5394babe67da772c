"""Pieces of HTML. Everything that comes from a visitor or a file is escaped here."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from PIL import Image

from hart.modules.networks.caching.plan import Plan
from hart.modules.networks.caching.plan_files import StoredPlan, figure_lines
from hart.pipeline.savings import SAVED_BY, savings_text
from hart.web.events import Progress, Step, WarmingUp
from hart.web.tables import Table, called
from hart.web.worker import Waiting

TEXT_COLUMNS = ("part", "prompt")


def message(text: str) -> str:
    """A line about what is going on."""
    return f'<div class="hart-status" role="status">{escape(text)}</div>'


def failure(text: str) -> str:
    """A line about what went wrong and what would be right."""
    return f'<div class="hart-status hart-failure" role="alert">{escape(text)}</div>'


def status(event: Waiting | WarmingUp | Progress | Step) -> str:
    """How far a request is: its place in the queue, or a bar over all that is to be done."""
    if isinstance(event, Waiting):
        return message(f"Waiting for the model, {event.ahead} before this one …")
    if isinstance(event, WarmingUp):
        return message("Warming up, so that the comparison is fair …")
    text = _step(event) if isinstance(event, Step) else _progress(event)
    share = event.done / event.total
    bar = _bar(f'role="progressbar" aria-valuenow="{share:.0%}"', {"done": share})
    return f'<div class="hart-status" role="status">{escape(text)}{bar}</div>'


def _progress(event: Progress) -> str:
    batch = f"picture {event.first}"
    if event.last > event.first:
        batch = f"pictures {event.first} to {event.last}"
    return f"{called(event.name)}: {batch} of {event.images}, stage of {event.stage} tokens"


def _step(event: Step) -> str:
    left = event.left_s
    time = "" if left is None else f", about {left:.0f} s left"
    if left is not None and left > 90:
        time = f", about {left / 60:.0f} minutes left"
    return f"{event.name}: {event.done} of {event.total}{time}"


def _bar(attributes: str, shares: Mapping[str, float]) -> str:
    parts = (
        f'<span class="hart-{name}" style="width:{share:.2%}"></span>'
        for name, share in shares.items()
    )
    return f'<div class="hart-bar" {attributes}>{"".join(parts)}</div>'


def saved(statistics: Mapping[str, Any]) -> str:
    """The saved work as one bar, with what saved how much of it."""
    shares = {name: share for name, share in statistics["saved_share_by"].items() if share}
    bar = _bar('role="img" aria-label="saved work"', shares)
    keys = [f'<span class="hart-key hart-{name}"></span>{SAVED_BY[name]}' for name in shares]
    keys.append('<span class="hart-key"></span>computed')
    said = notes([f"{savings_text(statistics)}."])
    return f'{bar}<p class="hart-keys">{" ".join(keys)}</p>{said}'


def plan_map(plan: Plan) -> str:
    """Which module is computed, reused or leaves out tokens at which stage."""
    return f'<div class="hart-map">{plan._repr_html_()}</div>'


def figures(plan: StoredPlan) -> str:
    """What is known about a plan, predicted beside measured."""
    return f"<pre>{escape(chr(10).join(figure_lines(plan)))}</pre>"


def cards(numbers: Sequence[tuple[str, str]]) -> str:
    """Large numbers side by side, each with its label below."""
    items = "".join(
        f"<li><b>{escape(value)}</b><span>{escape(label)}</span></li>" for label, value in numbers
    )
    return f'<ul class="hart-cards">{items}</ul>'


def notes(lines: Sequence[str]) -> str:
    """Sentences in small print; empty without any."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<ul class="hart-notes">{items}</ul>' if items else ""


def folded(title: str, content: str) -> str:
    """HTML under a title that opens and closes it; closed at first."""
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def strip(title: str, rows: Iterable[Sequence[tuple[Image.Image, str]]]) -> str:
    """Rows of small pictures with captions; empty without any."""
    lines = "".join(f"<div>{''.join(_figure(*item) for item in row)}</div>" for row in rows)
    return f'<div class="hart-strip"><b>{escape(title)}</b>{lines}</div>' if lines else ""


def _figure(image: Image.Image, caption: str) -> str:
    data = io.BytesIO()
    image.save(data, "WEBP", quality=80)
    source = "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode("ascii")
    text = escape(caption)
    return f'<figure><img src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def table(content: Table, total: bool = False) -> str:
    """A table that scrolls sideways where it does not fit; ``total``: the last row sums it up."""
    kinds = ['class="text"' if name in TEXT_COLUMNS else "" for name in content.header]
    head = "".join(f"<th {k}>{escape(n)}</th>" for k, n in zip(kinds, content.header, strict=True))
    rows = [zip(kinds, content.header, row, strict=True) for row in content.rows]
    cells = ("".join(f"<td {k}>{_cell(n, value)}</td>" for k, n, value in row) for row in rows)
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    return (
        f'<div class="hart-table{" hart-total" if total else ""}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(column: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str | int):
        return escape(str(value))
    return f"{value:.1%}" if column.endswith("saved") else f"{value:.3f}"
