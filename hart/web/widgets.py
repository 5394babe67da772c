"""What the page's tabs are made of, and how their buttons call handlers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from types import ModuleType
from typing import Any

from hart.pipeline import GenerationOptions
from hart.web.handlers import Handlers
from hart.web.view import Updates

# What needs the model waits in the studio's queue, not in gradio's, which draws for whoever is
# gone. The handlers check the values themselves, so gradio leaves them as they come.
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
_MODEL = {"concurrency_limit": None, "preprocess": False, **_QUIET}
LIGHT: dict[str, Any] = {"queue": False, **_QUIET}
"""How functions are called that need no model."""

Parts = dict[str, Any]
"""Components by the name under which the handlers update them."""

_GONE_IF_EMPTY = ("gallery", "heat_map", "download")


def prompt_field(gr: ModuleType, written: str, limit: int, lines: int, name: str) -> Any:
    title = f"Prompts, one per line (at most {limit})"
    return gr.Textbox(written, label=title, lines=lines, max_lines=12, elem_id=name)


def sampling_fields(gr: ModuleType, seed: int, name: str) -> list[Any]:
    """Seed, with a button that takes another one, and guidance."""
    other = gr.Button("Random", elem_id=f"{name}-random", render=False)
    texts = ("Picture i uses seed + i.", "How strictly to follow the prompt.")
    with gr.Row():
        field = gr.Number(
            seed, label="Seed", info=texts[0], min_width=120, elem_id=name, buttons=[other]
        )
        scale = GenerationOptions.cfg_scale
        guidance = gr.Number(scale, label="Guidance", info=texts[1], min_width=120)
    other.click(None, None, field, js="() => Math.floor(Math.random() * 2 ** 31)", **LIGHT)
    return [field, guidance]


def buttons(gr: ModuleType, text: str, name: str) -> tuple[Any, Any]:
    with gr.Row():
        start = gr.Button(text, variant="primary", elem_id=f"{name}-button", min_width=120)
        cancel = gr.Button("Cancel", elem_id=f"{name}-cancel", min_width=120)
    return start, cancel


def download(gr: ModuleType, text: str, name: str) -> Any:
    return gr.DownloadButton(text, size="sm", visible=False, elem_id=name)


def quality_choices(names: Any) -> list[tuple[str, str]]:
    """What people read, and the name."""
    return [(name.capitalize(), name) for name in names]


def connect(
    gr: ModuleType,
    handlers: Handlers,
    handler: Callable[..., Generator[Updates, None, None]],
    start: Any,
    cancel: Any,
    inputs: list[Any],
    parts: Parts,
) -> None:
    """Let ``start`` run a handler that yields updates, and ``cancel`` end it."""

    def run(visitor: Any, *values: Any) -> Iterator[dict[Any, Any]]:
        with contextlib.closing(handler(*values)) as stream:
            for updates in handlers.visitors.while_there(visitor.session_hash, stream):
                yield components(gr, parts, updates)

    run.__annotations__["visitor"] = gr.Request  # by which gradio knows what to pass

    pressed = gr.State(False)  # whether an unfinished job ended because Cancel was pressed
    start.click(lambda: False, None, pressed, **LIGHT)
    event = start.click(run, inputs, list(parts.values()), **_MODEL)
    cancel.click(
        lambda: {**components(gr, parts, Handlers.cancelled()), pressed: True},
        None,
        [parts["status"], pressed],
        cancels=event,
        **LIGHT,
    )
    # Said again once the job has ended: its last update may have come after the first answer.
    # A job that was turned away ends here too, and has said so itself.
    event.failure(
        lambda value: components(gr, parts, Handlers.cancelled() if value else {}),
        pressed,
        [parts["status"]],
        **LIGHT,
    )


def components(gr: ModuleType, parts: Parts, updates: Updates) -> dict[Any, Any]:
    """The handlers' updates as gradio's: what shows nothing is not there."""
    changes: dict[Any, Any] = {}
    for name, value in updates.items():
        if name == "pairs":
            first, many = (value[0] if value else None), len(value) > 1
            changes[parts["pairs"]] = list(value)
            changes[parts["compared"]] = gr.update(value=first, visible=bool(value))
            numbers = [(str(i), i) for i in range(1, len(value) + 1)]
            changes[parts["which"]] = gr.update(choices=numbers, value=1, visible=many)
        elif name == "quality":
            changes[parts[name]] = gr.update(choices=quality_choices(value))
        elif name == "base":
            changes[parts[name]] = gr.update(choices=value)
        elif name in _GONE_IF_EMPTY:
            changes[parts[name]] = gr.update(value=value, visible=bool(value))
        elif name != "columns":
            changes[parts[name]] = value
    if "columns" in updates:
        changes[parts["gallery"]]["columns"] = updates["columns"]
    return changes or {parts["status"]: gr.skip()}  # gradio wants at least one
