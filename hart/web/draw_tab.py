"""The tab on which pictures are drawn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from hart.modules.networks.caching.interpolate import INTERPOLATION_MODES
from hart.web import render
from hart.web.choices import CUSTOM
from hart.web.handlers import Handlers
from hart.web.widgets import (
    LIGHT,
    Parts,
    buttons,
    connect,
    download,
    prompt_field,
    quality_choices,
    sampling_fields,
)

RESTORE_SCRIPT = Path(__file__).parent / "restore.js"
TICK_S = 1.0
"""How often a page that was just opened asks for samples."""

_WORDS = """
- **Stage**: a picture is drawn as a row of maps of tokens, from 1 × 1 up; the last ones cost most.
- **Attention, MLP**: the two modules of each layer of the transformer that draws them.
- **Reused**: a module is not computed; its output of the stage before is resized instead.
- **Threshold**: reused is what calibration found more similar than this between stages, 0 to 1.
- **Tokens left out**: only the most distinctive tokens of a stage are computed.
- **Guidance ended**: the last stages are drawn without the half that knows no prompt.
- **SSIM, PSNR**: two measures of how alike two pictures are, from shapes and from pixels.
"""
_RESTORE = """
<label class="hart-restore"><input type="file" accept="image/png">
Take the settings of a picture that was drawn here: choose its file, or drop it on this line.
It stays in your browser.</label>
"""
_PICTURES = {"show_label": False, "buttons": ["download", "fullscreen"], "visible": False}


def draw_tab(gr: ModuleType, handlers: Handlers, examples: Sequence[str], seed: int) -> Parts:
    """Lay it out; returns what a plan that is found changes on it."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=320):
            prompts = prompt_field(gr, examples[0], handlers.max_images, 2, "prompts")
            _examples(gr, examples, prompts)
            quality, about = _quality(gr, handlers)
            sampling = sampling_fields(gr, seed, "seed")
            label = "Draw it without caching too, and compare"
            compare = gr.Checkbox(False, label=label, container=False, elem_id="compare")
            with gr.Accordion("Expert settings", open=False, elem_id="expert"):
                caching = _caching(gr, handlers)
                costs = "Decodes once per stage; the times shown do not include it."
                previews = gr.Checkbox(True, label="Show every stage", info=costs)
                picture, told = _picture(gr), gr.HTML("", elem_id="restored")
                with gr.Accordion("What these words mean", open=False):
                    gr.Markdown(_WORDS)
            start, cancel = buttons(gr, "Draw", "draw")
        with gr.Column(scale=3, min_width=320):
            parts = _results(gr)
            samples = gr.HTML("", elem_id="samples")
    settings = [prompts, *sampling, quality, *caching]
    _follow_choices(handlers, quality, about, caching)
    _take_settings(gr, handlers, picture, settings, about, told)
    connect(gr, handlers, handlers.draw, start, cancel, [*settings, compare, previews], parts)
    _show_pairs(gr, parts)
    _show_samples(gr, handlers, samples, start)
    return {"quality": quality, "base": caching[0]}


def _examples(gr: ModuleType, prompts: Sequence[str], field: Any) -> None:
    samples = [[prompt] for prompt in prompts]
    examples = gr.Dataset(components=["textbox"], samples=samples, type="index", label="Examples")
    examples.click(None, examples, field, js=f"i => {json.dumps([*prompts])}[i]", **LIGHT)


def _quality(gr: ModuleType, handlers: Handlers) -> tuple[Any, Any]:
    """The levels, and words about the one that is chosen."""
    choices = handlers.choices
    quality = gr.Radio(
        quality_choices([*choices.qualities, CUSTOM]),
        value=choices.first,
        label="Quality",
        info="What may be saved: less work is faster, and changes the picture more.",
        elem_id="quality",
    )
    base = choices.base_of(choices.first)
    about = handlers.described(choices.first, base)
    return quality, gr.HTML(about, elem_id="about-quality")


def _caching(gr: ModuleType, handlers: Handlers) -> list[Any]:
    """A preset or plan, and what changes it."""
    base = handlers.choices.base_of(handlers.choices.first)
    stages, sites, threshold, adaptive, interpolation = handlers.choices.fields(base)
    lengths = handlers.studio.pipeline.transformer.schedule.lengths
    told = (
        "What has no field, tokens left out and guidance, stays; a plan's choice module by module "
    )
    return [
        gr.Dropdown(
            list(handlers.choices.bases),
            value=base,
            label="Preset or plan to change",
            info=f"{told}becomes a threshold.",
            filterable=False,
            elem_id="base",
        ),
        gr.CheckboxGroup(
            [(str(n), n) for n in lengths[1:]],
            value=stages,
            label="Stages that may reuse the one before",
            info="By the number of their tokens.",
            elem_id="stages",
        ),
        gr.CheckboxGroup(
            [("attention", "attn"), ("MLP", "mlp")],
            value=sites,
            label="What may be reused",
            elem_id="sites",
        ),
        gr.Number(
            threshold,
            label="Threshold",
            info="Reused is what calibration found more similar than this, 0 to 1.",
            step=0.05,
            elem_id="threshold",
        ),
        gr.Checkbox(adaptive, label="Adapt the threshold to the picture"),
        gr.Dropdown(list(INTERPOLATION_MODES), value=interpolation, label="How it is resized"),
    ]


def _picture(gr: ModuleType) -> Any:
    script = RESTORE_SCRIPT.read_text(encoding="utf-8")
    return gr.HTML("", html_template=_RESTORE, js_on_load=script, elem_id="restore")


def _results(gr: ModuleType) -> Parts:
    hint = render.message("Press Draw: the pictures appear here, stage by stage.")
    return {
        "status": gr.HTML(hint, elem_id="draw-status"),
        "compared": gr.ImageSlider(
            label="As chosen, and without caching",
            type="filepath",
            interactive=False,
            visible=False,
            elem_id="compared",
        ),
        "which": gr.Radio([], label="Picture to compare", visible=False, elem_id="which"),
        "pairs": gr.State([]),
        "gallery": gr.Gallery(
            label="Pictures", object_fit="contain", height="auto", elem_id="gallery", **_PICTURES
        ),
        "strip": gr.HTML("", elem_id="strip"),
        "cards": gr.HTML("", elem_id="cards"),
        "tables": gr.HTML("", elem_id="tables"),
        "download": download(gr, "Download everything", "download"),
    }


# --- what follows what --------------------------------------------------------------------------


def _follow_choices(handlers: Handlers, quality: Any, about: Any, caching: list[Any]) -> None:
    """Choosing a quality or a preset fills the fields in, changing one makes it custom."""
    base, *fields = caching
    how = {**LIGHT, "preprocess": False}
    quality.input(handlers.chosen, [quality, *caching], [about, *caching], **how)
    base.input(
        lambda *values: [CUSTOM, *handlers.based(*values)],
        caching,
        [quality, about, *fields],
        **how,
    )
    for field in fields:
        field.input(
            lambda *values: [CUSTOM, handlers.described(CUSTOM, *values)],
            caching,
            [quality, about],
            **how,
        )


def _take_settings(
    gr: ModuleType, handlers: Handlers, picture: Any, settings: list[Any], about: Any, told: Any
) -> None:
    """Fill everything in from a picture's file; ``told``: where it is said whether that worked."""

    def take(recipe: object) -> list[Any]:
        try:
            values = handlers.choices.restored(recipe)
        except ValueError as error:
            return [gr.skip() for _ in [*settings, about]] + [render.failure(str(error))]
        said = render.message("These are the settings of the picture.")
        return [*values, handlers.described(*values[3:]), said]

    picture.input(take, picture, [*settings, about, told], preprocess=False, **LIGHT)


def _show_pairs(gr: ModuleType, parts: Parts) -> None:
    """Let the visitor choose which of several pictures is compared."""

    def show(number: object, pairs: list[Any]) -> Any:
        if isinstance(number, int) and 1 <= number <= len(pairs):
            return pairs[number - 1]
        return gr.skip()

    parts["which"].input(show, [parts["which"], parts["pairs"]], parts["compared"], **LIGHT)


def _show_samples(gr: ModuleType, handlers: Handlers, samples: Any, start: Any) -> None:
    """Until the visitor draws."""
    timer = gr.Timer(TICK_S)
    timer.tick(
        lambda: (handlers.samples(), gr.Timer(active=not handlers.studio.is_warm)),
        None,
        [samples, timer],
        **LIGHT,
    )
    start.click(
        lambda: (gr.HTML(visible=False), gr.Timer(active=False)), None, [samples, timer], **LIGHT
    )
