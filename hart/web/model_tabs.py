"""The tabs that change things for everybody: plans are found, similarities measured."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

from hart.modules.networks.caching.presets import CACHE_PRESETS
from hart.web.handlers import Handlers
from hart.web.requests import MAX_CALIBRATION_PROMPTS, MAX_TUNING_PROMPTS
from hart.web.widgets import Parts, buttons, connect, download, prompt_field, sampling_fields

_NUM_TUNING_PROMPTS = 6
_TUNING = """
Finds a **plan**: which module is computed or reused at which stage, how many tokens are left out,
and where guidance ends, so that the work that you want to save changes the pictures least. Every
option is measured on the prompts, the plan is made of the best ones, refined, and verified on the
last third of the prompts. This takes minutes; more prompts make better plans. It can then be chosen
as the quality “tuned” by everybody on this page, until another one is found.
"""
_CALIBRATING = """
Draws every prompt without reuse and measures how similar each module's output is to that of the
stage before. Presets decide by this table, plans do not. The new table is used for all drawings on
this page, whoever makes them.
"""


def tune_tab(
    gr: ModuleType, handlers: Handlers, prompts: Sequence[str], seed: int, offered: Parts
) -> None:
    """Lay out what finds a plan; ``offered``: where it can be chosen then."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=320):
            gr.Markdown(_TUNING)
            written = "\n".join(prompts[:_NUM_TUNING_PROMPTS])
            field = prompt_field(gr, written, MAX_TUNING_PROMPTS, 4, "tuning-prompts")
            target = gr.Radio(
                [("Save a share of the work", "target_saved"), ("Keep a likeness", "min_ssim")],
                value="target_saved",
                label="What the plan is to reach",
                elem_id="target",
            )
            value = gr.Number(
                0.5,
                label="How much, 0 to 1",
                info="The share that is saved, or the likeness (SSIM) to pictures without caching.",
                step=0.05,
                elem_id="target-value",
            )
            sampling = sampling_fields(gr, seed, "tuning-seed")
            start, cancel = buttons(gr, "Find a plan", "tune")
        with gr.Column(scale=3, min_width=320):
            parts = {
                "status": gr.HTML("", elem_id="tune-status"),
                "plan": gr.HTML("", elem_id="plan"),
                "download": download(gr, "Download the plan", "plan-download"),
                **offered,
            }
    connect(gr, handlers, handlers.tune, start, cancel, [field, *sampling, target, value], parts)


def calibrate_tab(
    gr: ModuleType, handlers: Handlers, prompts: Sequence[str], seed: int, about: Any
) -> None:
    """Lay out what measures similarities; ``about``: the line about the model."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=320):
            gr.Markdown(_CALIBRATING)
            written, limit = "\n".join(prompts), MAX_CALIBRATION_PROMPTS
            field = prompt_field(gr, written, limit, 6, "calibration-prompts")
            sampling = sampling_fields(gr, seed, "calibration-seed")
            add = gr.Checkbox(False, label="Add to the table in use", container=False)
            preset = gr.Dropdown(
                [name for name in CACHE_PRESETS if name != "no-cache"],
                value="original",
                label="Mark in the heat map what this preset would reuse",
                filterable=False,
            )
            start, cancel = buttons(gr, "Calibrate", "calibrate")
            restore = gr.Button("Use the first table again", size="sm", elem_id="first-table")
        with gr.Column(scale=3, min_width=320):
            # The figure has its own title.
            label = "Similarity, layer by transition"
            heat_map = gr.Image(
                label=label,
                alt_text=label,
                show_label=False,
                type="filepath",
                format="png",
                interactive=False,
                buttons=["download", "fullscreen"],
                visible=False,
                elem_id="similarity",
            )
            status = gr.HTML("", elem_id="calibrate-status")
            parts = {
                "status": status,
                "heat_map": heat_map,
                "download": download(gr, "Download the table", "table-download"),
                "about": about,
            }
    inputs = [field, *sampling, add, preset]
    connect(gr, handlers, handlers.calibrate, start, cancel, inputs, parts)
    told = {"status": status, "about": about}
    connect(gr, handlers, handlers.restore, restore, cancel, [], told)
