"""What a drawing took, reused and changed, as rows for the page and for files."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hart.evaluation.image_metrics import psnr_db, ssim
from hart.evaluation.savings import SAVED_BY
from hart.modules.networks.caching.config import SITES
from hart.pipeline import ImageResult
from hart.web.events import Drawn, FinishedRun


@dataclass(frozen=True)
class Table:
    """Rows of text, numbers, or None where there is nothing to say."""

    header: list[str]
    rows: list[list[Any]]

    def to_csv(self) -> str:
        """Comma-separated, numbers in full."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.header, *self.rows])
        return text.getvalue()


@dataclass(frozen=True)
class Quality:
    """How far one image moved from the one without caching.

    Attributes:
        psnr_db: infinite for equal pictures.
        ssim: 1 for equal pictures.
    """

    psnr_db: float
    ssim: float


def image_qualities(drawn: Drawn) -> list[Quality]:
    """One per image; empty if there was no comparison."""
    if len(drawn.runs) < 2:
        return []
    own, reference = ([result.image for result in run.results] for run in drawn.runs)
    return [Quality(psnr_db([a], [b]), ssim([a], [b])) for a, b in zip(own, reference, strict=True)]


def stage_table(drawn: Drawn) -> Table:
    """Seconds per image, reuse and saved multiply-adds by stage, then the other parts' seconds."""
    names = [run.name for run in drawn.runs]
    own = drawn.runs[0]
    header = ["part", *(f"{name} (s)" for name in names)]
    header += ["attention reused", "MLP reused", "multiply-adds saved"]
    rows = [["text", *_seconds(drawn.runs, lambda r: r.text_s), None, None, None]]
    for si, (length, sites) in enumerate(own.statistics["stages"].items()):
        if si < len(own.results[0].stages_s):
            seconds = _seconds(drawn.runs, lambda r, si=si: r.stages_s[si])
            rates = [sites[site]["reuse_rate"] for site in SITES]
            rows.append([f"stage {length}", *seconds, *rates, saved_share(*sites.values())])
    rows.append(
        ["residual diffusion", *_seconds(drawn.runs, lambda r: r.residual_s), None, None, None]
    )
    rows.append(["decoding", *_seconds(drawn.runs, lambda r: r.decode_s), None, None, None])
    totals = own.statistics["totals"]
    rates = [totals[site]["reuse_rate"] for site in SITES]
    seconds = _seconds(drawn.runs, lambda r: r.total_s)
    rows.append(["total", *seconds, *rates, own.statistics["saved_share"]])
    return Table(header, rows)


def saved_share(*counts: dict[str, Any]) -> float:
    """Share of the multiply-adds that was saved; 0 where there are none."""
    saved = sum(site["multiply_adds_saved"] for site in counts)
    whole = saved + sum(site["multiply_adds_computed"] for site in counts)
    return saved / whole if whole else 0.0


def image_table(drawn: Drawn) -> Table:
    """One row per image: prompt, seed, seconds and, where compared, how far it moved."""
    names = [run.name for run in drawn.runs]
    qualities = image_qualities(drawn)
    header = ["image", "prompt", "seed", *(f"{name} (s)" for name in names)]
    header += ["PSNR (dB)", "SSIM"] if qualities else []
    rows = []
    for index, result in enumerate(drawn.runs[0].results):
        seconds = [run.results[index].total_s for run in drawn.runs]
        row = [result.index + 1, result.prompt, result.seed, *seconds]
        if qualities:
            row += [qualities[index].psnr_db, qualities[index].ssim]
        rows.append(row)
    return Table(header, rows)


def mean_seconds(run: FinishedRun) -> float:
    """Seconds per image."""
    return _mean([result.total_s for result in run.results])


def _seconds(runs: Sequence[FinishedRun], part: Callable[[ImageResult], float]) -> list[float]:
    return [_mean([part(result) for result in run.results]) for run in runs]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def headline(drawn: Drawn) -> list[tuple[str, str]]:
    """The numbers that matter, as a label and a value with its unit."""
    own = drawn.runs[0]
    modules, shares = own.statistics["modules"], own.statistics["saved_share_by"]
    numbers = [
        ("per image", f"{mean_seconds(own):.2f} s"),
        ("modules reused per image", f"{modules['reused']:.6g} of {modules['all']:.6g}"),
        ("multiply-adds saved", f"{own.statistics['saved_share']:.1%}"),
    ]
    numbers += [(f"by {SAVED_BY[name]}", f"{share:.1%}") for name, share in shares.items() if share]
    if len(drawn.runs) == 2:
        own_images, reference = ([result.image for result in run.results] for run in drawn.runs)
        ratio = psnr_db(own_images, reference)
        speedup = mean_seconds(drawn.runs[1]) / mean_seconds(own)
        numbers += [
            (f"as fast as {drawn.runs[1].name}", f"{speedup:.2f} ×"),
            ("PSNR", "identical" if math.isinf(ratio) else f"{ratio:.1f} dB"),
            ("SSIM", f"{ssim(own_images, reference):.3f}"),
        ]
    return numbers
