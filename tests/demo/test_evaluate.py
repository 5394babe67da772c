"""How well the demo draws is measured on held-out captions."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from hart.cli.prompts import DEMO_PROMPTS
from hart.demo import DEMO_CHECKPOINT
from hart.demo.captions import known_concepts
from hart.demo.evaluate import evaluate, held_out_prompts, main, read_pictures, sheet
from hart.demo.reader import AttributeReader, load_reader, save_reader
from hart.demo.scene import ATTRIBUTES, BACKGROUNDS
from hart.pipeline import HARTPipeline
from tests.pipeline.checkpoint_folder import make_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny model of 16-pixel pictures."""
    return make_checkpoint(tmp_path_factory.mktemp("demo") / "checkpoint")


class AlmostRight:
    """Reads what was asked for but the second picture's size."""

    def read(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        _, labels = held_out_prompts(len(images))
        wrong = torch.tensor([0, 1] + [0] * (len(images) - 2))
        return {**labels, "size": (labels["size"] + wrong) % 3}


def test_the_report_counts_what_the_reader_sees(checkpoint):
    pipeline = HARTPipeline.from_pretrained(checkpoint, device="cpu")
    report, images = evaluate(pipeline, AlmostRight(), 4, quiet=True, cfg_scale=2.0)
    assert report["accuracy"] == {**dict.fromkeys(ATTRIBUTES, 1.0), "size": 0.75}
    assert report["all_right"] == 0.75
    assert (report["images"], report["sampling"], len(images)) == (4, {"cfg_scale": 2.0}, 4)


def test_pictures_are_read_in_batches_in_their_order():
    torch.manual_seed(0)
    reader = AttributeReader(image_size=16)
    images = [Image.new("RGB", (16, 16), (40 * i, 255 - 40 * i, 90)) for i in range(5)]
    apart = read_pictures(images, reader, batch_size=2)
    for name, values in read_pictures(images, reader).items():
        assert values.equal(apart[name])


def test_the_command_prints_a_report_and_writes_a_sheet(checkpoint, tmp_path, capsys):
    save_reader(AttributeReader(image_size=16), tmp_path / "reader.safetensors")
    places = ["--checkpoint", str(checkpoint), "--reader", str(tmp_path / "reader.safetensors")]
    assert main([*places, "--n", "2", "--quiet", "--sheet", str(tmp_path / "sheet.png")]) == 0
    assert set(json.loads(capsys.readouterr().out)["accuracy"]) == set(ATTRIBUTES)
    with Image.open(tmp_path / "sheet.png") as page:
        assert page.size == (8 * 144, 144)


def test_a_sheet_has_eight_pictures_in_a_row_and_ends_after_64():
    colours = [(3 * i, 0, 0) for i in range(70)]
    page = sheet([Image.new("RGB", (288, 288), colour) for colour in colours])
    assert page.size == (8 * 144, 8 * 144)
    assert page.getpixel((144 * 2 + 70, 144 + 70)) == colours[10]


def test_held_out_captions_are_the_same_every_time():
    prompts, labels = held_out_prompts(50)
    again, _ = held_out_prompts(50)
    assert prompts == again
    for prompt, concept in zip(prompts, labels["concept"], strict=True):
        assert ATTRIBUTES["concept"][concept] in known_concepts(prompt)


@pytest.mark.slow
def test_the_reader_names_the_bundled_demos_four_pictures():
    pipeline = HARTPipeline.from_pretrained(DEMO_CHECKPOINT, device="cpu", cache="hybrid")
    images = pipeline(list(DEMO_PROMPTS), seed=1, quiet=True).images
    read = read_pictures(images, load_reader())
    for prompt, concept, background in zip(
        DEMO_PROMPTS, read["concept"], read["background"], strict=True
    ):
        assert [ATTRIBUTES["concept"][concept]] == known_concepts(prompt)
        assert f"{BACKGROUNDS[background]} background" in prompt
