"""The comparison of plans as a table and a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hart.evaluation.comparison import REFERENCE
from hart.evaluation.comparison_report import table_lines
from hart.evaluation.figures import BLUE, GREY, ORANGE, VERMILLION, new_figure

TUNED = ("tuned", "affine", "no pruning", "tokens by module", "tokens by stage", "reuse alone")
"""How the names of plans start."""
SLACK = 0.005
"""Of the saved share: a plan saves at least what is asked for, and whole modules more."""

Entries = Mapping[str, Mapping[str, Any]]


def family(name: str) -> str:
    """Which kind of configuration a name is of."""
    return next((kind for kind in TUNED if name.startswith(kind + " ")), "by hand")


def ssim_of(entry: Mapping[str, Any]) -> float:
    return entry["quality"]["ssim"]


def verdicts(entries: Entries, shares: Sequence[float]) -> list[dict[str, Any]]:
    """At every saving the tuned plan beside the best other configuration that saves no more."""
    found = []
    for share in shares:
        names = [f"{kind} {share:.0%}" for kind in ("tuned", "affine")]
        known = [name for name in names if name in entries]
        if not known:
            continue
        tuned = max(known, key=lambda name: ssim_of(entries[name]))
        saved = entries[tuned]["multiply_adds_saved"]
        rivals = [
            name
            for name, entry in entries.items()
            if family(name) == "by hand"
            and name != REFERENCE
            and share - 0.1 <= entry["multiply_adds_saved"] <= saved + SLACK
        ]
        best = max(rivals, key=lambda name: ssim_of(entries[name]), default=None)
        other = None if best is None else entries[best]
        found.append(
            {
                "share": share,
                "plan": tuned,
                "saved": saved,
                "ssim": ssim_of(entries[tuned]),
                "attributes": entries[tuned]["quality"]["attribute_accuracy"],
                "best_other": best,
                "other_saved": other and other["multiply_adds_saved"],
                "other_ssim": other and ssim_of(other),
                "other_attributes": other and other["quality"]["attribute_accuracy"],
            }
        )
    return found


def plans_table(entries: Entries, found: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: everything by what it saves, then the verdicts."""
    rows = []
    for name, entry in sorted(entries.items(), key=lambda pair: pair[1]["multiply_adds_saved"]):
        quality = entry["quality"]
        psnr = quality["psnr_db"]
        rows.append(
            [
                name,
                f"{entry['multiply_adds_saved']:.1%}",
                f"{quality['ssim']:.4f}",
                "equal" if psnr is None else f"{psnr:.2f}",
                f"{quality['attribute_accuracy']:.1%}",
            ]
        )
    lines = table_lines(["configuration", "saved", "SSIM", "PSNR, dB", "attributes"], rows)
    second = [
        [
            f"{each['share']:.0%}",
            each["plan"],
            f"{each['ssim']:.4f}",
            f"{each['attributes']:.1%}",
            *(
                ["-", "-", "-"]
                if each["best_other"] is None
                else [
                    f"{each['best_other']} ({each['other_saved']:.1%})",
                    f"{each['other_ssim']:.4f}",
                    f"{each['other_attributes']:.1%}",
                ]
            ),
        ]
        for each in found
    ]
    titles = ["saved", "plan", "SSIM", "attributes", "best other", "SSIM", "attributes"]
    return "\n".join([*lines, "", *table_lines(titles, second)]) + "\n"


def plans_plot(entries: Entries):
    """SSIM and attributes against what is saved.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure = new_figure(10, 4.5)
    pair = figure.subplots(1, 2)
    styles = {
        "by hand": (GREY, "s", ""),
        "reuse alone": (ORANGE, "v", ":"),
        "no pruning": (ORANGE, "^", "--"),
        "tokens by module": (VERMILLION, "<", ":"),
        "tokens by stage": (VERMILLION, ">", "--"),
        "affine": (BLUE, "x", "--"),
        "tuned": (BLUE, "o", "-"),
    }
    for axes, figure_name in zip(pair, ("ssim", "attribute_accuracy"), strict=True):
        for kind, (colour, marker, line) in styles.items():
            points = sorted(
                (100 * entry["multiply_adds_saved"], entry["quality"][figure_name])
                for name, entry in entries.items()
                if family(name) == kind
            )
            if points:
                how = {"color": colour, "marker": marker, "linestyle": line or "none"}
                axes.plot(*zip(*points, strict=True), label=kind, **how)
        axes.set_xlabel("multiply-adds of the transformer saved, %")
        axes.grid(alpha=0.3)
    pair[0].set_ylabel("SSIM to the pictures without caching")
    pair[1].set_ylabel("share of attributes that are right")
    pair[0].legend()
    return figure
