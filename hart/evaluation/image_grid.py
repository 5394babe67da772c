"""Pictures side by side, with labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

MAX_ROWS = 8
CELL, GAP, PROMPT_WIDTH = 256, 8, 224
FONT_SIZE = 20
LINE = FONT_SIZE + 6


def image_grid(
    prompts: Sequence[str], columns: Mapping[str, tuple[str, Sequence[Image.Image]]]
) -> Image.Image:
    """A table of pictures: a row per prompt, at most 8, and a column per configuration.

    Pictures are shown 256 pixels wide, whatever their size.

    Args:
        prompts: one per row, written at the left, wrapped and cut to the height of the row.
        columns: by name a line to write below the name, and a picture per row.

    Raises:
        ValueError: no rows or columns, or a column with too few pictures.
    """
    rows = min(len(prompts), MAX_ROWS)
    short = [name for name, (_, pictures) in columns.items() if len(pictures) < rows]
    if not rows or not columns or short:
        raise ValueError(f"a grid needs prompts and as many pictures per column; short: {short}")
    header, step = 2 * LINE + 2 * GAP, CELL + GAP
    size = (PROMPT_WIDTH + len(columns) * step + GAP, header + rows * step)
    grid = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(grid), ImageFont.load_default(FONT_SIZE)
    for row, prompt in enumerate(prompts[:rows]):
        text = "\n".join(wrap(prompt, font, PROMPT_WIDTH - 2 * GAP, CELL // LINE))
        pen.multiline_text((GAP, header + row * step), text, "black", font, spacing=6)
    for left, (name, (line, pictures)) in zip(
        range(PROMPT_WIDTH, size[0], step), columns.items(), strict=False
    ):
        for number, label in enumerate((name, line)):
            (label,) = wrap(label, font, CELL, 1)
            place = (left + CELL / 2, GAP + number * LINE)
            pen.text(place, label, "black", font, anchor="ma")
        for row, picture in enumerate(pictures[:rows]):
            grid.paste(_fitted(picture), (left, header + row * step))
    return grid


def wrap(text: str, font, width: int, max_lines: int) -> list[str]:
    """Break a text into lines of at most ``width`` pixels; the last one may end in dots.

    A word that is wider than a line is broken too.
    """
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for character in word:
            if lines[-1] and font.getlength(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    if len(lines) <= max_lines:
        return lines
    last = lines[max_lines - 1]
    while last and font.getlength(last + "...") > width:
        last = last[:-1]
    return [*lines[: max_lines - 1], last + "..."]


def _fitted(picture: Image.Image) -> Image.Image:
    """The picture at the width of a cell; small ones keep their pixels."""
    small = picture.width < CELL and CELL % picture.width == 0
    method = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
    return picture.convert("RGB").resize((CELL, CELL), method)
