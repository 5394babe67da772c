"""The speed benchmark's tables and its plot of seconds against tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hart.evaluation.figures import new_figure, save_figure

AS_PUBLISHED, OURS = "as published", "no-cache"


def markdown(report: dict[str, Any]) -> str:
    """All tables of a report."""
    out: list[str] = []
    for batch_size, batch in report["batches"].items():
        out += [f"Batch {batch_size}, seconds per image, median of {report['runs']}", ""]
        out += [*_path_table(batch["paths"]), "", *_part_table(batch), ""]
    return "\n".join(out)


def _path_table(paths: dict[str, Any]) -> list[str]:
    ours, published = paths[OURS], paths[AS_PUBLISHED]
    lines = [
        "| path | image | transformer | p95 image | multiply-adds saved | speed-up over no-cache "
        "| transformer alone | over as published | peak memory | over no-cache |",
        "|---" * 10 + "|",
    ]
    for name, path in paths.items():
        s = path["median_s"]
        image, blocks = (ours["median_s"][k] / s[k] for k in ("total", "transformer"))
        memory = path["peak_bytes"] / ours["peak_bytes"]
        lines.append(
            f"| {name} | {s['total']:.1f} | {s['transformer']:.1f} | {path['p95_s']['total']:.1f} "
            f"| {path['saved_share']:.1%} | {image:.2f} | {blocks:.2f} "
            f"| {published['median_s']['total'] / s['total']:.2f} "
            f"| {path['peak_bytes'] / 2**30:.2f} GiB | {memory:.2f} |"
        )
    return lines


def _part_table(batch: dict[str, Any]) -> list[str]:
    paths, limits = batch["paths"], batch["roofline"]["parts"]
    lines = [
        "| part | multiply-adds | least possible | as published | no-cache | share of the limit |",
        "|---" * 6 + "|",
    ]
    for part, limit in limits.items():
        ours = paths[OURS]["median_s"][part]
        lines.append(
            f"| {part} | {limit['macs'] / 1e9:.1f} G | {limit['limit_s']:.2f} "
            f"| {paths[AS_PUBLISHED]['median_s'][part]:.2f} | {ours:.2f} "
            f"| {limit['limit_s'] / ours:.0%} |"
        )
    return lines


def growth_plot(report: dict[str, Any], file: Path) -> None:
    """Seconds of every stage against its tokens, with the limit that its multiply-adds set."""
    figure = new_figure(6.4, 4.4)
    axes = figure.subplots()
    batch = next(iter(report["batches"].values()))
    limits = batch["roofline"]["parts"]
    stages = [part for part in limits if part.startswith("stage ")]
    tokens = [int(part.removeprefix("stage ")) for part in stages]
    for name in (AS_PUBLISHED, OURS):
        seconds = batch["paths"][name]["median_s"]
        axes.loglog(tokens, [seconds[part] for part in stages], marker="o", label=name)
    least = [limits[part]["limit_s"] for part in stages]
    axes.loglog(tokens, least, linestyle="--", color="grey", label="least possible")
    axes.set_xlabel("tokens of the stage")
    axes.set_ylabel("seconds per image")
    axes.set_title("Transformer time per stage")
    axes.legend()
    save_figure(figure, file)
