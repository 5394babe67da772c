"""The pipeline draws what the model draws, image by image, whatever surrounds it."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from hart.modules.models.transformer.hart_transformer_t2i import HARTForT2I
from hart.modules.networks.caching.config import CacheConfig
from hart.modules.networks.caching.presets import preset_config
from hart.modules.networks.caching.similarity import SimilarityTables
from hart.pipeline import HARTPipeline
from hart.utils import encode_prompts
from hart.utils.images import to_uint8
from tests.pipeline.checkpoint_folder import CONTEXT_TOKEN, DEPTH, PATCH_NUMS, STAGES
from tests.product import product
from tests.tiny_models import draw

PROMPT = "a red fox"
OTHER = "two boats"


def pixels(image) -> np.ndarray:
    return np.asarray(image).astype(int)


def largest_difference(a, b) -> int:
    return int(abs(pixels(a) - pixels(b)).max())


def fill_similarity(pipeline: HARTPipeline, value: float) -> None:
    width = pipeline.model.schedule.width
    rows = [[value] * width for _ in range(DEPTH)]
    pipeline.model.similarity = SimilarityTables([list(r) for r in rows], rows, images=1)


def test_the_image_is_the_plain_models_for_the_same_text_and_generator(pipeline, shared_checkpoint):
    text_model = AutoModel.from_pretrained(shared_checkpoint / "text_model").eval()
    tokenizer = AutoTokenizer.from_pretrained(shared_checkpoint / "text_model")
    _, mask, position_ids, features = encode_prompts(
        [PROMPT], text_model, tokenizer, CONTEXT_TOKEN, "be vivid", use_llm_system_prompt=True
    )
    expected = HARTForT2I.from_pretrained(shared_checkpoint / "llm").autoregressive_infer_cfg(
        1,
        features,
        cfg=4.5,
        more_smooth=True,
        context_position_ids=position_ids,
        context_mask=mask,
        generator=torch.Generator().manual_seed(5),
    )
    pipeline.system_prompt = "be vivid"
    output = pipeline(PROMPT, seed=5)
    found = np.asarray(output.images[0]).astype(int)
    assert np.abs(found - to_uint8(expected)[0]).max() <= 1  # the engine rounds otherwise


def test_an_image_depends_on_its_own_seed_and_not_on_its_batch(pipeline):
    together = pipeline([PROMPT, OTHER], num_images_per_prompt=2, seed=3, batch_size=3)
    assert [r.seed for r in together.results] == [3, 4, 5, 6]
    alone = [pipeline(r.prompt, seed=r.seed).images[0] for r in together.results]
    # Matrix products round differently in a larger batch, by less than one grey level here.
    assert all(largest_difference(a, b) <= 1 for a, b in zip(together.images, alone, strict=True))
    assert largest_difference(together.images[0], together.images[1]) > 1


def test_the_same_seed_gives_the_same_image_again(pipeline):
    first, again = (pipeline(PROMPT, seed=1).images[0] for _ in range(2))
    assert np.array_equal(pixels(first), pixels(again))


def test_global_generators_do_not_reach_the_image(pipeline):
    torch.manual_seed(0)
    np.random.seed(0)
    first = pipeline(PROMPT, num_maskgit_iters=2).images[0]
    torch.manual_seed(1)
    np.random.seed(1)
    second = pipeline(PROMPT, num_maskgit_iters=2).images[0]
    assert np.array_equal(pixels(first), pixels(second))


@pytest.mark.parametrize(
    "option",
    [{"cfg_scale": 1.0}, {"top_p": 0.3}, {"more_smooth": False}, {"num_maskgit_iters": 0}],
    ids=str,
)
def test_every_sampling_option_reaches_the_model(pipeline, option):
    default = pipeline(PROMPT).images[0]
    assert largest_difference(default, pipeline(PROMPT, **option).images[0]) > 1


@pytest.mark.slow
def test_the_last_stage_has_at_most_as_many_chunks_as_tokens(pipeline):
    tokens = STAGES[-1]
    assert len(pipeline(PROMPT, num_maskgit_iters=tokens).images) == 1
    words = f"num_maskgit_iters must be from 0 to {tokens}.*got {tokens + 1}"
    with pytest.raises(ValueError, match=words):
        pipeline.stream(PROMPT, num_maskgit_iters=tokens + 1)  # before anything is drawn
    with pytest.raises(ValueError, match=words):
        draw(pipeline.model, num_maskgit_iters=tokens + 1)


@product(2, preset=["original", "ultra-fast", "hybrid"], use_engine=[True, False])
def test_a_picture_is_drawn_with_the_table_that_it_began_with(pipeline, preset, use_engine):
    pipeline.use_engine = use_engine
    model = pipeline.model
    model.set_cache_config(preset)
    pipeline.calibrate(PROMPT)  # layer 0, by which an adaptive threshold judges the image
    for table in (model.similarity.attn, model.similarity.mlp):
        table[1:] = [[0.95] * len(row) for row in table[1:]]
    expected = pipeline(PROMPT).images[0]
    reused = model.cache_statistics.modules()["reused"]
    assert reused > 0

    def forget(si: int, num_stages: int) -> None:
        if si == 1:
            model.clear_similarity_data()

    drawn = pipeline(PROMPT, callback=forget).images[0]
    assert np.array_equal(pixels(drawn), pixels(expected))
    assert model.cache_statistics.modules()["reused"] == reused
    assert model.similarity.is_empty  # what comes next begins with what was set
    with pytest.warns(UserWarning, match="table is empty"):
        pipeline(PROMPT)
    assert model.cache_statistics.modules()["reused"] == 0


def test_the_system_prompt_can_be_left_out(pipeline):
    without = pipeline(PROMPT).images[0]
    pipeline.system_prompt = "be vivid"
    assert largest_difference(without, pipeline(PROMPT).images[0]) > 1
    switched_off = pipeline(PROMPT, use_llm_system_prompt=False).images[0]
    assert np.array_equal(pixels(without), pixels(switched_off))


def test_results_hold_seconds_for_every_part_and_stage(pipeline):
    results = pipeline([PROMPT, OTHER], batch_size=2).results
    assert [r.index for r in results] == [0, 1]
    for result in results:
        assert len(result.stages_s) == len(PATCH_NUMS)
        parts = (result.text_s, *result.stages_s, result.residual_s, result.decode_s)
        assert min(parts) > 0
        assert result.total_s == pytest.approx(sum(parts))
        assert result.batch_size == 2
        assert {sites["attn"]["computed"] for sites in result.stages.values()} == {DEPTH}


def test_counts_of_an_image_are_those_of_its_own_batch(pipeline):
    pipeline.model.set_cache_config("original")
    fill_similarity(pipeline, 0.1)
    results = pipeline([PROMPT, OTHER, PROMPT], batch_size=1).results
    assert tuple(results[0].stages) == tuple(str(n) for n in STAGES)
    assert {r.stages["64"]["mlp"]["computed"] for r in results} == {DEPTH}


def test_seconds_of_the_images_and_of_the_statistics_are_of_one_clock(pipeline):
    output = pipeline([PROMPT, OTHER, PROMPT], batch_size=2)
    seconds = output.statistics["seconds"]
    assert seconds["residual"] == pytest.approx(sum(r.residual_s for r in output.results))
    for si, length in enumerate(STAGES):
        per_image = [r.stages_s[si] for r in output.results]
        assert seconds["stages"][str(length)] == pytest.approx(sum(per_image)), length


def test_without_statistics_an_image_has_seconds_and_no_counts(pipeline):
    pipeline.model.collect_cache_statistics = False
    output = pipeline(PROMPT)
    assert output.results[0].stages == {}
    assert min(output.results[0].stages_s) > 0
    assert output.statistics["images"] == 0


def test_a_run_in_the_middle_of_another_counts_for_itself(pipeline):
    inner = []

    def draw_another(si: int, stages: int) -> None:
        if not inner:
            inner.append(pipeline(OTHER, quiet=True).statistics)

    outer = pipeline([PROMPT, OTHER], batch_size=1, quiet=True, callback=draw_another).statistics
    assert (inner[0]["images"], outer["images"]) == (1, 2)
    assert inner[0]["modules"] == outer["modules"]


def test_reuse_follows_the_preset_and_a_new_run_starts_new_statistics(pipeline):
    pipeline.model.set_cache_config("original")
    fill_similarity(pipeline, 1.0)
    for _ in range(2):
        output = pipeline(PROMPT)
    stages = output.results[0].stages
    assert [stages[str(n)]["attn"]["reused"] for n in STAGES] == [0, 0, 0, 0, DEPTH, DEPTH]
    assert pipeline.model.cache_statistics.images == 1
    assert output.statistics == pipeline.model.get_cache_statistics()


def test_the_callback_sees_every_stage_of_every_batch(pipeline):
    seen = []
    pipeline([PROMPT, OTHER], batch_size=1, callback=lambda si, n: seen.append((si, n)))
    assert seen == [(si, len(PATCH_NUMS)) for si in range(len(PATCH_NUMS))] * 2


def test_a_stream_gives_finished_images_before_it_draws_the_next(pipeline):
    seen = []
    stream = pipeline.stream([PROMPT, OTHER], batch_size=1, callback=lambda si, _: seen.append(si))
    assert [r.prompt for r in next(stream)] == [PROMPT]
    assert len(seen) == len(PATCH_NUMS)
    assert [r.prompt for r in next(stream)] == [OTHER]
    assert next(stream, None) is None


def test_a_stream_refuses_bad_arguments_when_it_is_made(pipeline):
    with pytest.raises(ValueError, match="batch_size"):
        pipeline.stream(PROMPT, batch_size=0)
    with pytest.raises(TypeError, match="guidance"):
        pipeline.stream(PROMPT, guidance=3.0)


def test_a_context_of_another_length_is_refused_with_both_numbers(pipeline):
    pipeline(PROMPT, max_token_length=CONTEXT_TOKEN)
    with pytest.raises(ValueError, match=r"300.*12 text positions"):
        pipeline(PROMPT, max_token_length=300)


def test_a_prompt_longer_than_the_context_is_cut_with_a_warning(pipeline):
    with pytest.warns(UserWarning, match=f"only {CONTEXT_TOKEN} of them fit"):
        assert len(pipeline("many words " * 20).images) == 1


def test_calibration_fills_the_tables_and_leaves_the_image_alone(pipeline):
    expected = pipeline(PROMPT).images[0]
    tables = pipeline.calibrate([PROMPT, OTHER], batch_size=1)
    assert tables is pipeline.model.similarity
    assert tables.images == 2
    assert not tables.is_empty
    assert pipeline.model.calibration is False
    with pipeline.calibrating():
        calibrated = pipeline(PROMPT).images[0]
    assert np.array_equal(pixels(expected), pixels(calibrated))


def test_calibration_mode_is_left_after_a_failure(pipeline):
    def fail(si, num_stages):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        pipeline.calibrate(PROMPT, callback=fail)
    assert pipeline.model.calibration is False
    assert pipeline(PROMPT).results[0].index == 0


@pytest.mark.parametrize(
    ("cache", "expected"),
    [
        ("aggressive", preset_config("aggressive", PATCH_NUMS)),
        (CacheConfig([64], [36]), CacheConfig([64], [36])),
        (None, CacheConfig()),
    ],
)
def test_the_cache_argument_is_a_preset_or_a_configuration(shared_checkpoint, cache, expected):
    pipeline = HARTPipeline.from_pretrained(shared_checkpoint, device="cpu", cache=cache)
    assert pipeline.model.cache_config == expected


def test_previews_show_every_stage_but_the_last_and_change_nothing(pipeline):
    plain = pipeline([PROMPT, OTHER], seed=4)
    seen = []
    stream = pipeline.stream([PROMPT, OTHER], seed=4, batch_size=2, preview=seen.append)
    (results,) = list(stream)
    assert [preview.si for preview in seen] == list(range(len(STAGES) - 1))
    assert {preview.num_stages for preview in seen} == {len(STAGES)}
    assert [request.prompt for request in seen[0].requests] == [PROMPT, OTHER]
    for result, expected in zip(results, plain.images, strict=True):
        assert np.array_equal(pixels(result.image), pixels(expected))
    sizes = {image.size for preview in seen for image in preview.images}
    assert sizes == {results[0].image.size}
    shown = [pixels(preview.images[0]).tobytes() for preview in seen]
    assert len({*shown, pixels(results[0].image).tobytes()}) == len(STAGES)


def test_the_time_of_previews_is_in_no_stage(pipeline):
    def slow(preview):
        time.sleep(0.2)

    plain = pipeline(PROMPT)
    (results,) = list(pipeline.stream(PROMPT, preview=slow))
    assert results[0].total_s < plain.results[0].total_s + 0.2 * (len(STAGES) - 1) / 2
