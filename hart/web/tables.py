"""What a drawing took, reused and changed, as rows for the page and for files."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from hart.evaluation.comparison import REFERENCE
from hart.evaluation.image_metrics import psnr_db, ssim
from hart.modules.networks.caching.config import SITES
from hart.web.events import Drawn


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

    def without(self, *names: str) -> Table:
        """The other columns."""
        kept = [place for place, name in enumerate(self.header) if name not in names]
        rows = [[row[place] for place in kept] for row in self.rows]
        return Table([self.header[place] for place in kept], rows)


class Quality(NamedTuple):
    """How far an image moved from the one without caching; infinite and 1 for equal ones."""

    psnr_db: float
    ssim: float


def image_qualities(drawn: Drawn) -> list[Quality]:
    """One per image; empty if there was no comparison."""
    if len(drawn.runs) < 2:
        return []
    pairs = zip(*([result.image for result in run.results] for run in drawn.runs), strict=True)
    return [Quality(psnr_db([a], [b]), ssim([a], [b])) for a, b in pairs]


def stage_table(drawn: Drawn) -> Table:
    """Seconds per image, reuse and saved multiply-adds by stage, then the other parts' seconds."""
    own, statistics = drawn.runs[0], drawn.runs[0].statistics

    def row(title: str, seconds: list[float], sites: dict[str, Any] | None = None) -> list[Any]:
        if sites is None:
            return [title, *seconds, None, None, None]
        rates = [sites[site]["reuse_rate"] for site in SITES]
        return [title, *seconds, *rates, saved_share(*sites.values())]

    def part(title: str, name: str, sites: dict[str, Any] | None = None) -> list[Any]:
        return row(title, [run.mean(name) for run in drawn.runs], sites)

    rows = [part("text", "text")]
    for si, (length, sites) in enumerate(statistics["stages"].items()):
        if si < len(own.results[0].stages_s):
            seconds = [
                sum(result.stages_s[si] for result in run.results) / len(run.results)
                for run in drawn.runs
            ]
            rows.append(row(f"stage {length}", seconds, sites))
    rows += [part("residual diffusion", "residual"), part("decoding", "decode")]
    rows.append(part("total", "total", statistics["totals"]))
    rows[-1][-1] = statistics["saved_share"]
    header = ["part", *(f"{run.name} (s)" for run in drawn.runs)]
    return Table([*header, "attention reused", "MLP reused", "multiply-adds saved"], rows)


def saved_share(*counts: dict[str, Any]) -> float:
    """Share of the multiply-adds that was saved; 0 where there are none."""
    saved = sum(site["multiply_adds_saved"] for site in counts)
    whole = saved + sum(site["multiply_adds_computed"] for site in counts)
    return saved / whole if whole else 0.0


def image_table(drawn: Drawn) -> Table:
    """One row per image: prompt, seed, seconds and, where compared, how far it moved."""
    qualities = image_qualities(drawn)
    header = ["image", "prompt", "seed", *(f"{run.name} (s)" for run in drawn.runs)]
    rows = []
    for index, result in enumerate(drawn.runs[0].results):
        seconds = [run.results[index].total_s for run in drawn.runs]
        moved = qualities[index] if qualities else ()
        rows.append([result.index + 1, result.prompt, result.seed, *seconds, *moved])
    return Table(header + (["PSNR (dB)", "SSIM"] if qualities else []), rows)


def called(run: str) -> str:
    """What people call a run."""
    return "without caching" if run == REFERENCE else run


def headline(drawn: Drawn) -> list[tuple[str, str]]:
    """The numbers that matter, as a label and a value with its unit."""
    own = drawn.runs[0]
    numbers = [("per picture", f"{own.mean('total'):.2f} s")]
    if len(drawn.runs) == 2:
        images, reference = ([result.image for result in run.results] for run in drawn.runs)
        ratio = psnr_db(images, reference)
        speedup = drawn.runs[1].mean("total") / own.mean("total")
        numbers += [
            ("as fast as without caching", f"{speedup:.2f} ×"),
            ("likeness to that (SSIM): 1 is equal", f"{ssim(images, reference):.3f}"),
            (
                "likeness to that (PSNR): more is closer",
                "identical" if math.isinf(ratio) else f"{ratio:.1f} dB",
            ),
        ]
    return numbers
