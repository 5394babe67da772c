"""The page: its tabs and how it looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hart.evaluation.extras import import_extra
from hart.evaluation.figures import matplotlib_module
from hart.evaluation.image_metrics import import_ssim
from hart.pipeline.options import DEFAULT_SEED
from hart.web import DEFAULT_MAX_WAITING
from hart.web.draw_tab import draw_tab
from hart.web.handlers import Handlers
from hart.web.model_tabs import calibrate_tab, tune_tab
from hart.web.widgets import LIGHT, components

if TYPE_CHECKING:
    import gradio

STYLE_FILE = Path(__file__).parent / "style.css"

_THREADS = 40
"""For everything but the requests that wait."""


@dataclass(frozen=True)
class PageOptions:
    """What the page starts with.

    Attributes:
        prompts: examples; the first one is filled in.
        calibration_prompts: filled in on the tabs for plans and for calibration.
        max_waiting: requests that may wait for the model, as the studio has it.
        calibration: whether visitors may find plans and calibrate, which changes what is there for
            everybody.
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
    measured, seed = options.calibration_prompts, options.seed
    with gr.Blocks(title="hart", analytics_enabled=False) as page:
        gr.Markdown("# HART with feature caching", elem_classes="hart-title")
        about = gr.HTML(handlers.about(), elem_id="about")
        with gr.Tabs():
            with gr.Tab("Draw", id="draw"):
                offered = draw_tab(gr, handlers, options.prompts, seed)
            if options.calibration:
                with gr.Tab("Find a plan", id="tune"):
                    tune_tab(gr, handlers, measured, seed, offered)
                with gr.Tab("Calibrate", id="calibrate"):
                    calibrate_tab(gr, handlers, measured, seed, about)
        # Plans may have been found since the page was laid out.
        page.load(
            lambda: components(gr, offered, handlers.offered()),
            None,
            list(offered.values()),
            **LIGHT,
        )
    # Every request that waits or runs has a thread that asks how it stands.
    page.max_threads = _THREADS + options.max_waiting
    page.queue(max_size=_THREADS, api_open=False)
    return page


def page_theme(gr: ModuleType) -> Any:
    """Colours and fonts; the system's own fonts, so that nothing is fetched from elsewhere."""
    return gr.themes.Default(
        primary_hue="blue",
        neutral_hue="slate",
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
        font_mono=["ui-monospace", "Consolas", "monospace"],
    ).set(
        # Of which white text stands out.
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        # So that boxes are seen before they are ticked.
        checkbox_border_color="*neutral_400",
        checkbox_border_color_dark="*neutral_400",
    )
