"""The pictures of the README and of the manual, from the bundled demo with fixed seeds.

Run ``python -m benchmarks.readme_pictures``. It draws the demo's own prompts without caching and
with the named configurations, in turns, and writes into ``docs/images``: these pictures side by
side with the seconds that one takes, one picture stage by stage, the similarity table, and speed
against likeness. The numbers go to ``results/readme_pictures.json`` and are printed as a table.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from benchmarks.common import benchmark_parser, demo, save_results
from hart.cli.main import main as hart
from hart.cli.prompts import DEMO_PROMPTS
from hart.demo import DEMO_CHECKPOINT
from hart.evaluation.comparison import (
    REFERENCE,
    Comparer,
    Comparison,
    named_configurations,
    read_configuration,
)
from hart.evaluation.comparison_report import (
    comparison_report,
    finished,
    markdown_table,
    speed_quality_plot,
)
from hart.evaluation.image_grid import wrap
from hart.modules.networks.caching.config import CacheConfig
from hart.modules.networks.caching.presets import QUALITY_LEVELS, quality_preset
from hart.pipeline import GenerationOptions, HARTPipeline
from hart.utils.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEVELS = ("balanced", "fast")
PLOTTED = ("high", "hybrid", "conservative", "original", "aggressive", "ultra-fast")
FOLDER = Path(__file__).parent.parent / "docs" / "images"
MAX_BYTES = 60_000
SHEET_CELL, STRIP_CELL, FIGURE_WIDTH = 160, 96, 1000  # pixels
GAP, FONT_SIZE = 6, 14
LINE = FONT_SIZE + 6

Captioned = tuple[Image.Image, str]


def sheet(rows: Sequence[Sequence[tuple[str, Sequence[Captioned]]]], cell: int) -> Image.Image:
    """Pictures with captions below them: rows of groups, each with a title above.

    Args:
        cell: width and height of a picture in pixels.
    """
    font = ImageFont.load_default(FONT_SIZE)
    height = 2 * LINE + cell + GAP
    lengths = [GAP + sum(2 * GAP + len(group) * (cell + GAP) for _, group in row) for row in rows]
    page = Image.new("RGB", (max(lengths), len(rows) * height), "white")
    pen = ImageDraw.Draw(page)
    for top, row in zip(range(0, page.height, height), rows, strict=True):
        left = 2 * GAP
        for title, group in row:
            width = len(group) * (cell + GAP) - GAP
            (line,) = wrap(title, font, width, 1)
            pen.text((left + width / 2, top + 3), line, "black", font, anchor="ma")
            for picture, caption in group:
                small = picture.resize((cell, cell), Image.Resampling.LANCZOS)
                page.paste(small, (left, top + LINE))
                place = (left + cell / 2, top + LINE + cell + 3)
                pen.text(place, caption, "black", font, anchor="ma")
                left += cell + GAP
            left += 2 * GAP
    return page


def comparison_sheet(
    comparison: Comparison, seconds: Mapping[str, float], names: Sequence[str]
) -> Image.Image:
    """Two prompts in a row, each with some of the configurations beside each other."""
    shown = [
        (comparison.results[name].examples, f"{name}: {seconds[name]:.1f} s") for name in names
    ]
    groups = [
        (prompt, [(pictures[i], caption) for pictures, caption in shown])
        for i, prompt in enumerate(comparison.prompts)
    ]
    return sheet([groups[i : i + 2] for i in range(0, len(groups), 2)], SHEET_CELL)


def stage_strip(pipeline: HARTPipeline, prompt: str, seed: int) -> Image.Image:
    """What a picture would be after each stage, and the picture."""
    pictures: list[Image.Image] = []
    output = pipeline(
        prompt, seed=seed, preview=lambda stage: pictures.append(stage.images[0]), quiet=True
    )
    sides = pipeline.model.patch_nums
    captions = [f"{side}x{side}" for side in sides]
    cells = list(zip([*pictures, output.images[0]], captions, strict=True))
    return sheet([[(prompt, cells)]], STRIP_CELL)


def configurations(pipeline: HARTPipeline, names: Sequence[str]) -> dict[str, CacheConfig | str]:
    """By name, the reference first: levels of quality, presets, or JSON files."""
    found: dict[str, CacheConfig | str] = {REFERENCE: REFERENCE}
    for name in names:
        if name in pipeline.quality_files():
            found[name] = read_configuration(str(pipeline.quality_files()[name]))
        elif name in QUALITY_LEVELS:
            found[name] = quality_preset(name)
        else:
            found.update(named_configurations([name]))
    return found


def drawn(figure: Figure) -> Image.Image:
    """A figure as a picture."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=FIGURE_WIDTH / figure.get_size_inches()[0])
    return Image.open(buffer).convert("RGB")


def heat_map() -> Image.Image:
    """The demo's similarities, and what ``hybrid`` reuses, as the command draws them."""
    table = DEMO_CHECKPOINT / "llm" / "cache_similarity.json"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "similarity.png"
        hart(["plot-similarity", str(table), "--cache-preset", "hybrid", "--output", str(file)])
        picture = Image.open(file).convert("RGB")
    picture.thumbnail((FIGURE_WIDTH, FIGURE_WIDTH), Image.Resampling.LANCZOS)
    return picture


def save(picture: Image.Image, path: Path) -> None:
    """Write WebP in the best quality that keeps it small."""
    for quality in range(95, 20, -5):
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", quality=quality, method=6)
        if buffer.tell() <= MAX_BYTES:
            break
    with replacing(path) as beside:
        beside.write_bytes(buffer.getvalue())
    print(f"{path}: {buffer.tell()} bytes, {picture.width}x{picture.height}")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = benchmark_parser("readme_pictures")
    parser.add_argument("names", nargs="*", default=LEVELS, help="levels, presets, JSON files")
    text = "further ones, which only the plot shows (default: %(default)s)"
    parser.add_argument("--plotted", nargs="*", default=PLOTTED, metavar="NAME", help=text)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="default: %(default)s")
    parser.add_argument("--prompts", nargs="+", default=DEMO_PROMPTS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    pipeline = demo(args.device)
    options = GenerationOptions(seed=args.seed, batch_size=1)
    chosen = configurations(pipeline, [*args.names, *args.plotted])
    comparison = Comparer(pipeline, chosen, args.prompts, options).run(
        args.rounds, quiet=args.quiet
    )
    report = comparison_report(comparison, pipeline, batch_size=1)
    entries = finished(report)
    seconds = {name: entry["seconds_per_image"]["median"] for name, entry in entries.items()}
    shown = list(configurations(pipeline, args.names))
    save(comparison_sheet(comparison, seconds, shown), args.folder / "comparison.webp")
    save(drawn(speed_quality_plot(entries)), args.folder / "speed.webp")
    save(stage_strip(pipeline, args.prompts[0], args.seed), args.folder / "stages.webp")
    save(heat_map(), args.folder / "similarity.webp")
    settings = {"prompts": args.prompts, "seed": args.seed, "rounds": args.rounds}
    save_results(args.output, pipeline, {**settings, **report})
    print(markdown_table(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
