"""The page: what is where, and which button calls which handler."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hart.evaluation.extras import import_extra
from hart.evaluation.figures import matplotlib_module
from hart.evaluation.image_metrics import import_ssim
from hart.modules.networks.caching.interpolate import INTERPOLATION_MODES
from hart.modules.networks.caching.presets import CACHE_PRESETS
from hart.pipeline import GenerationOptions
from hart.pipeline.options import DEFAULT_SEED
from hart.web import DEFAULT_MAX_WAITING, render
from hart.web.handlers import Handlers
from hart.web.requests import CUSTOM, DEFAULT_PRESET
from hart.web.view import Updates

if TYPE_CHECKING:
    import gradio

STYLE_FILE = Path(__file__).parent / "style.css"

# What needs the model waits in the studio's queue, not in gradio's, which draws for whoever is
# gone. The handlers check the values themselves, so gradio leaves them as they come.
_MODEL = {"concurrency_limit": None, "preprocess": False, "api_visibility": "private"}
_LIGHT = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
_THREADS = 40
"""For everything but the requests that wait."""

# The figures have their own titles.
_PICTURES = {"show_label": False, "buttons": ["download", "fullscreen"], "visible": False}

Parts = dict[str, Any]
"""Components by the name under which the handlers update them."""


@dataclass(frozen=True)
class PageOptions:
    """What the page starts with.

    Attributes:
        prompts: examples; the first one is filled in.
        calibration_prompts: filled in on the calibration tab.
        max_waiting: requests that may wait for the model, as the studio has it.
        calibration: whether visitors may calibrate, which changes the table for everybody.
    """

    prompts: Sequence[str]
    calibration_prompts: Sequence[str]
    seed: int = DEFAULT_SEED
    max_waiting: int = DEFAULT_MAX_WAITING
    calibration: bool = True


def gradio_module() -> ModuleType:
    """Import gradio and make sure that the page's other packages are there.

    Raises:
        MissingExtraError: one of them is not installed.
    """
    gr = import_extra("gradio", "hart web", extra="web")
    matplotlib_module("figure")
    import_ssim()
    return gr


def build_page(handlers: Handlers, options: PageOptions) -> gradio.Blocks:
    """Lay out the page and connect it to the handlers.

    Raises:
        MissingExtraError: gradio, matplotlib or scikit-image is not installed.
    """
    gr = gradio_module()
    with gr.Blocks(title="hart", analytics_enabled=False) as page:
        gr.Markdown(
            "# HART with feature caching\nDraw, and see what reuse saves and what it changes.",
            elem_classes="hart-title",
        )
        about = gr.HTML(handlers.about(), elem_id="about")
        with gr.Tabs():
            with gr.Tab("Draw", id="draw"):
                _draw_tab(gr, handlers, options)
            if options.calibration:
                with gr.Tab("Calibrate", id="calibrate"):
                    _calibrate_tab(gr, handlers, options, about)
    # Every request that waits or runs has a thread that asks how it stands.
    page.max_threads = _THREADS + options.max_waiting
    page.queue(max_size=_THREADS, api_open=False)
    return page


# --- drawing ----------------------------------------------------------------------------------


def _draw_tab(gr: ModuleType, handlers: Handlers, options: PageOptions) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=320):
            title = f"Prompts, one per line (at most {handlers.max_images})"
            lines = {"lines": 3, "max_lines": 8}
            prompts = gr.Textbox(options.prompts[0], label=title, elem_id="prompts", **lines)
            _examples(gr, options.prompts, prompts)
            sampling = _sampling_fields(gr, options.seed, "seed")
            *cache, base = _cache_fields(gr, handlers)
            compare = gr.Checkbox(False, label="Compare with no-cache", elem_id="compare")
            costs = "Decodes once per stage; the times below do not include it."
            previews = gr.Checkbox(True, label="Show every stage", info=costs)
            start, cancel = _buttons(gr, "Draw", "draw")
        with gr.Column(scale=3, min_width=320):
            parts = _results(gr)
    inputs = [prompts, *sampling, *cache, compare, previews, base]
    _connect(gr, handlers, handlers.draw, start, cancel, inputs, parts)


def _examples(gr: ModuleType, prompts: Sequence[str], field: Any) -> None:
    samples = [[prompt] for prompt in prompts]
    examples = gr.Dataset(components=["textbox"], samples=samples, type="index", label="Examples")

    def fill_in(number: object) -> str:
        if type(number) is not int or not 0 <= number < len(prompts):
            raise gr.Error("There is no such example.", print_exception=False)
        return prompts[number]

    examples.click(fill_in, examples, field, preprocess=False, **_LIGHT)


def _sampling_fields(gr: ModuleType, seed: int, name: str) -> list[Any]:
    texts = ("Image i uses seed + i.", "How strictly to follow the prompt.")
    with gr.Row():
        return [
            gr.Number(seed, label="Seed", info=texts[0], min_width=120, elem_id=name),
            gr.Number(GenerationOptions.cfg_scale, label="Guidance", info=texts[1], min_width=120),
        ]


def _cache_fields(gr: ModuleType, handlers: Handlers) -> list[Any]:
    """Preset, its fields, and the preset that they change: choosing a preset fills them in,
    changing one makes it custom."""
    stages, sites, threshold, adaptive, interpolation = handlers.preset_fields(DEFAULT_PRESET)
    lengths = handlers.studio.pipeline.transformer.schedule.lengths
    labels = {CUSTOM: "custom: as set below"} | {
        name: f"{name}: {preset.description}" for name, preset in CACHE_PRESETS.items()
    }
    labels |= {name: f"{name}: {config}" for name, config in handlers.studio.plans.items()}
    preset = gr.Dropdown(
        [(labels[name], name) for name in handlers.preset_choices()],
        value=handlers.first_preset,
        label="Cache preset",
        filterable=False,
        elem_id="preset",
    )
    with gr.Accordion("Custom caching", open=False, elem_id="custom"):
        fields = [
            gr.CheckboxGroup(
                [(str(n), n) for n in lengths[1:]],
                value=stages,
                label="Stages that may reuse the one before (tokens)",
            ),
            gr.CheckboxGroup(
                [("attention", "attn"), ("MLP", "mlp")], value=sites, label="What may be reused"
            ),
            gr.Number(
                threshold,
                label="Threshold",
                info="Reuse what calibration found more similar than this, 0 to 1.",
                step=0.05,
                elem_id="threshold",
            ),
            gr.Checkbox(adaptive, label="Adapt the threshold to the image"),
            gr.Dropdown(list(INTERPOLATION_MODES), value=interpolation, label="Interpolation"),
        ]
        gr.Markdown("What has no field here, pruning and guidance, stays as in the preset.")
    base = gr.Textbox(DEFAULT_PRESET, visible=False)

    def fill(name: object) -> list[Any]:
        values = handlers.preset_fields(name)
        return [*values, name] if values else [gr.skip() for _ in [*fields, base]]

    preset.input(fill, preset, [*fields, base], preprocess=False, **_LIGHT)
    for field in fields:
        field.input(lambda: CUSTOM, None, preset, **_LIGHT)
    return [preset, *fields, base]


def _results(gr: ModuleType) -> Parts:
    hint = render.message("Press Draw: the images appear here, stage by stage.")
    return {
        "status": gr.HTML(hint, elem_id="draw-status"),
        "gallery": gr.Gallery(
            label="Images", object_fit="contain", height="auto", elem_id="gallery", **_PICTURES
        ),
        "strip": gr.HTML("", elem_id="strip"),
        "cards": gr.HTML("", elem_id="cards"),
        "heat_map": _figure(gr, "What was reused, layer by stage", "heat-map"),
        "tables": gr.HTML("", elem_id="tables"),
        "files": _downloads(gr, "files"),
    }


def _figure(gr: ModuleType, label: str, name: str) -> Any:
    kind = {"type": "filepath", "format": "png", "interactive": False}
    return gr.Image(label=label, alt_text=label, elem_id=name, **kind, **_PICTURES)


def _downloads(gr: ModuleType, name: str) -> Any:
    how = {"file_count": "multiple", "interactive": False, "visible": False}
    return gr.File(label="Download", elem_id=name, elem_classes="hart-files", **how)


# --- calibrating ------------------------------------------------------------------------------


def _calibrate_tab(gr: ModuleType, handlers: Handlers, options: PageOptions, about: Any) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=320):
            gr.Markdown(
                "Draws every prompt without reuse and measures how similar each module's output "
                "is to that of the stage before. The new table is used for all drawings on this "
                "page, whoever makes them."
            )
            field = {"label": "Prompts, one per line", "lines": 6, "max_lines": 12}
            written = "\n".join(options.calibration_prompts)
            prompts = gr.Textbox(written, elem_id="calibration-prompts", **field)
            sampling = _sampling_fields(gr, options.seed, "calibration-seed")
            add = gr.Checkbox(False, label="Add to the table in use")
            preset = gr.Dropdown(
                [name for name in CACHE_PRESETS if name != "no-cache"],
                value=DEFAULT_PRESET,
                label="Mark in the heat map what this preset would reuse",
                filterable=False,
            )
            start, cancel = _buttons(gr, "Calibrate", "calibrate")
            restore = gr.Button("Use the first table again", size="sm", elem_id="restore")
        with gr.Column(scale=3, min_width=320):
            parts = {
                "status": gr.HTML("", elem_id="calibrate-status"),
                "heat_map": _figure(gr, "Similarity, layer by transition", "similarity"),
                "files": _downloads(gr, "calibration-files"),
                "about": about,
            }
    inputs = [prompts, *sampling, add, preset]
    _connect(gr, handlers, handlers.calibrate, start, cancel, inputs, parts)
    told = {"status": parts["status"], "about": about}
    _connect(gr, handlers, handlers.restore, restore, cancel, [], told)


# --- shared -----------------------------------------------------------------------------------


def _buttons(gr: ModuleType, text: str, name: str) -> tuple[Any, Any]:
    with gr.Row():
        start = gr.Button(text, variant="primary", elem_id=f"{name}-button", min_width=120)
        cancel = gr.Button("Cancel", variant="stop", elem_id=f"{name}-cancel", min_width=120)
    return start, cancel


def _connect(
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
                yield _components(gr, parts, updates)

    run.__annotations__["visitor"] = gr.Request  # by which gradio knows what to pass

    pressed = gr.State(False)  # whether an unfinished job ended because Cancel was pressed
    start.click(lambda: False, None, pressed, **_LIGHT)
    shown = {"show_progress": "minimal", "show_progress_on": parts["status"]}
    event = start.click(run, inputs, list(parts.values()), **shown, **_MODEL)
    cancel.click(
        lambda: {**_components(gr, parts, Handlers.cancelled()), pressed: True},
        None,
        [parts["status"], pressed],
        cancels=event,
        **_LIGHT,
    )
    # Said again once the job has ended: its last update may have come after the first answer.
    # A job that was turned away ends here too, and has said so itself.
    event.failure(
        lambda value: _components(gr, parts, Handlers.cancelled() if value else {}),
        pressed,
        [parts["status"]],
        **_LIGHT,
    )


def _components(gr: ModuleType, parts: Parts, updates: Updates) -> dict[Any, Any]:
    """The handlers' updates as gradio's: pictures and files are only there when there are any."""
    changes = {parts[name]: value for name, value in updates.items() if name != "columns"}
    for name in {"gallery", "heat_map", "files"} & updates.keys():
        value = updates[name]
        more = {"columns": updates["columns"]} if name == "gallery" and "columns" in updates else {}
        changes[parts[name]] = gr.update(value=value, visible=bool(value), **more)
    return changes or {parts["status"]: gr.skip()}  # gradio wants at least one


def page_theme(gr: ModuleType) -> Any:
    """Colours and fonts; the system's own fonts, so that nothing is fetched from elsewhere."""
    return gr.themes.Soft(
        primary_hue="blue",
        neutral_hue="slate",
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
        font_mono=["ui-monospace", "Consolas", "monospace"],
    ).set(
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_text_color="white",
    )
