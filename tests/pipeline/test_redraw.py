"""A picture's file alone says how to draw it again, whatever it was drawn with."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from hart.evaluation.random_weights import random_pipeline
from hart.modules.networks.basic_hart_enhanced import CacheConfig
from hart.pipeline import HARTPipeline, VARPipeline
from hart.utils.images import png_texts, save_png
from tests.pipeline.checkpoint_folder import STAGES
from tests.product import PRESETS, product
from tests.tiny_models import fill
from tests.var.checkpoint import make_var_checkpoint

CACHE = CacheConfig(skip_stages=STAGES[-2:], cache_stages=STAGES[-3:-1], threshold=0.3)
INSTRUCTION = "Draw it\r\nlike Dürer – ₂:\n"


@pytest.fixture(scope="module")
def stranger(shared_checkpoint):
    """Another process's pipeline: the same weights, everything else as it comes."""
    return HARTPipeline.from_pretrained(shared_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def instructed(shared_checkpoint):
    """A pipeline with another instruction, and the second picture that it draws by default."""
    pipeline = HARTPipeline.from_pretrained(
        shared_checkpoint, device="cpu", system_prompt=INSTRUCTION
    )
    return pipeline, pipeline(["a red fox", "ein grüner Igel"], quiet=True).images[1]


def saved(result, folder):
    return save_png(result.image, folder / "picture.png", result.metadata)


def assert_redrawn(result, stranger, folder) -> None:
    again = stranger.redraw(saved(result, folder))
    assert again.tobytes() == result.image.tobytes()


@pytest.mark.parametrize(
    "options",
    [
        {"num_maskgit_iters": 0},
        {"use_llm_system_prompt": False, "seed": 2**62 + 5},
        {"top_p": 0.6, "more_smooth": False, "num_maskgit_iters": 2, "cfg_scale": 3.3, "seed": 9},
    ],
    ids=str,
)
def test_every_option_is_in_the_file(instructed, stranger, tmp_path, options):
    pipeline, default = instructed
    result = pipeline(["a red fox", "ein grüner Igel"], quiet=True, **options).results[1]
    assert_redrawn(result, stranger, tmp_path)
    assert result.image.tobytes() != default.tobytes()  # the options matter
    assert stranger.system_prompt != INSTRUCTION


def switch_off(pipeline) -> None:
    pipeline.model.use_cache = False


def run_plainly(pipeline) -> None:
    pipeline.use_engine = False


def decode_in_tiles(pipeline) -> None:
    pipeline.tiled_decode = True


@pytest.mark.parametrize("change", [switch_off, run_plainly, decode_in_tiles])
def test_how_it_was_executed_is_in_the_file(shared_checkpoint, stranger, tmp_path, change):
    pipeline = HARTPipeline.from_pretrained(shared_checkpoint, device="cpu", cache=CACHE)
    fill(pipeline.model, 0.9)
    change(pipeline)
    assert_redrawn(pipeline("a red fox", quiet=True).results[0], stranger, tmp_path)


def test_a_cache_that_was_off_is_not_named(shared_checkpoint, tmp_path):
    pipeline = HARTPipeline.from_pretrained(shared_checkpoint, device="cpu", cache=CACHE)
    fill(pipeline.model, 0.9)
    off = CacheConfig().to_dict()
    for name, value in (("use_cache", False), ("calibration", True)):
        before = getattr(pipeline.model, name)
        setattr(pipeline.model, name, value)
        texts = png_texts(saved(pipeline("a red fox", quiet=True).results[0], tmp_path))
        setattr(pipeline.model, name, before)
        assert json.loads(texts["cache_config"]) == off
        assert "similarity" not in texts
    texts = png_texts(saved(pipeline("a red fox", quiet=True).results[0], tmp_path))
    assert json.loads(texts["cache_config"]) == CACHE.to_dict()


@product(1, dtype=["bfloat16", "float32", "float16"])
def test_the_dtype_and_the_batch_are_in_the_file(shared_checkpoint, tmp_path, dtype):
    options = {"device": "cpu", "dtype": dtype}
    pipeline = HARTPipeline.from_pretrained(shared_checkpoint, cache=CACHE, **options)
    fill(pipeline.model, 0.9)
    results = pipeline(["a red fox", "a hen", "a cat"], quiet=True, batch_size=3).results
    texts = png_texts(saved(results[2], tmp_path))
    assert texts["dtype"] == dtype
    assert (texts["batch_position"], len(json.loads(texts["batch"]))) == ("2", 3)
    assert_redrawn(results[2], HARTPipeline.from_pretrained(shared_checkpoint, **options), tmp_path)


@product(2, preset=PRESETS)
def test_every_preset_of_a_batch(preset, tmp_path):
    """Also an adaptive one, where the images of a batch share a decision."""
    pipeline = random_pipeline("tiny", 0, "cpu", "float32", preset)
    pipeline.calibrate(["a", "b"], quiet=True)
    result = pipeline(["a red fox", "a hen"], quiet=True, num_images_per_prompt=2).results[2]
    stranger = random_pipeline("tiny", 0, "cpu", "float32")
    assert_redrawn(result, stranger, tmp_path)


def test_a_picture_alone_in_its_batch_names_no_batch(pipeline, tmp_path):
    texts = png_texts(saved(pipeline("a red fox", quiet=True).results[0], tmp_path))
    assert not {"batch", "batch_position"} & set(texts)
    assert texts["instruction"] == ""


def settings(pipeline) -> tuple:
    model = pipeline.model
    of_model = (model.cache_config, model.config.to_dict(), model.similarity, model.use_cache)
    return (*of_model, pipeline.system_prompt, pipeline.use_engine)


def test_the_pipeline_is_as_before(pipeline, tmp_path):
    pipeline.model.set_cache_config("original")
    before = settings(pipeline)
    expected = pipeline("a red fox", quiet=True).images[0].tobytes()
    pipeline.model.set_cache_config(CACHE)
    pipeline.use_engine = False
    other = saved(pipeline("a hen", quiet=True).results[0], tmp_path)
    pipeline.use_engine = True
    pipeline.model.set_cache_config("original")
    pipeline.redraw(other)
    assert settings(pipeline) == before
    assert pipeline("a red fox", quiet=True).images[0].tobytes() == expected


def test_another_dtype_is_said(pipeline, shared_checkpoint, tmp_path):
    file = saved(pipeline("a red fox", quiet=True).results[0], tmp_path)
    other = HARTPipeline.from_pretrained(shared_checkpoint, device="cpu", dtype="bfloat16")
    with pytest.warns(UserWarning, match="drawn with dtype float32, which rounds otherwise"):
        other.redraw(file)


@product(1, options=[{"top_p": 0.3, "more_smooth": True}, {}, {"top_k": 5}])
def test_var(tmp_path, options):
    checkpoint = make_var_checkpoint(tmp_path / "var")
    pipeline = VARPipeline.from_pretrained(checkpoint, device="cpu", cache="original")
    fill(pipeline.model, 0.9)
    result = pipeline([1, 2], quiet=True, **options).results[1]
    stranger = VARPipeline.from_pretrained(checkpoint, device="cpu")
    assert_redrawn(result, stranger, tmp_path)


def test_what_cannot_be_drawn_again_says_why(pipeline, tmp_path):
    result = pipeline("a red fox", quiet=True).results[0]
    cases = [
        ({"seed": None}, "does not say its seed"),
        ({"seed": "x"}, "seed in the picture cannot be read"),
        ({"seed": "-1"}, "seed must be an integer from 0"),
        ({"top_p": "7"}, "top_p must be a number"),
        ({"prompt": None, "class": "3"}, "does not say its prompt"),
        ({"cache_config": '{"warp": 1}'}, "unknown cache option warp"),
        ({"batch": "[" * 10_000, "batch_position": "0"}, "batch in the picture cannot be read"),
        ({"batch": "[]", "batch_position": "0"}, "must list 1 to 1024"),
        ({"batch": '[["a hen", 1]]', "batch_position": "0"}, "names another image"),
        ({"batch": '[["a hen"]]', "batch_position": "0"}, "cannot be read"),
        ({"batch": "[[7, 0], [7, 1]]", "batch_position": "0"}, "another kind"),
    ]
    for changes, message in cases:
        texts = {**result.metadata, **changes}
        texts = {name: text for name, text in texts.items() if text is not None}
        with pytest.raises(ValueError, match=message):
            pipeline.redraw(texts)
    Image.new("RGB", (8, 8)).save(tmp_path / "other.jpg")
    with pytest.raises(ValueError, match="not a PNG picture"):
        pipeline.redraw(tmp_path / "other.jpg")
