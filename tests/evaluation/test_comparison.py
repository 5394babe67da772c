"""Configurations by name, the order of rounds, and what a comparison leaves behind."""

from __future__ import annotations

import json

import pytest

from hart.evaluation.comparison import Comparer, named_configurations
from hart.evaluation.comparison_report import comparison_report, markdown_table
from hart.evaluation.random_weights import assumed_similarity, random_pipeline
from hart.evaluation.timing import rotated
from hart.modules.networks.caching.config import CacheConfig
from hart.modules.networks.caching.presets import CACHE_PRESETS
from hart.pipeline import GenerationOptions, HARTPipeline
from tests.copies import copied

PROMPTS = ["a red fox", "two boats"]


@copied
def mlp_only() -> HARTPipeline:
    pipeline = random_pipeline("tiny", device="cpu", cache="mlp-only")
    pipeline.model.similarity = assumed_similarity(pipeline.model, 0.85)
    return pipeline


@pytest.fixture
def pipeline() -> HARTPipeline:
    return mlp_only()


def comparer(pipeline, *names: str) -> Comparer:
    return Comparer(pipeline, named_configurations(names), PROMPTS, GenerationOptions(batch_size=2))


def test_all_presets_are_compared_by_default_the_reference_first():
    names = list(named_configurations())
    assert names[0] == "no-cache"
    assert set(names) == set(CACHE_PRESETS)


def test_the_reference_is_always_there_and_the_order_is_kept():
    assert list(named_configurations(["aggressive", "original"])) == [
        "no-cache",
        "aggressive",
        "original",
    ]
    assert list(named_configurations(["original", "no-cache"])) == ["no-cache", "original"]


def test_a_file_becomes_a_configuration_by_its_stem(tmp_path):
    file = tmp_path / "mine.json"
    config = CacheConfig([16], [9], threshold=0.5)
    file.write_text(json.dumps(config.to_dict()))
    assert named_configurations([str(file)])["mine"] == config


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "expected a JSON object, found list"),
        ("{", "not a cache configuration"),
        ('{"treshold": 0.5}', "unknown cache option treshold"),
        ('{"threshold": 2}', r"threshold .*within \[0, 1\]"),
        ('{"threshold": "high"}', "threshold"),
    ],
)
def test_a_file_that_is_no_configuration_is_named(tmp_path, content, said):
    file = tmp_path / "mine.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=rf"mine\.json: not a cache configuration .*{said}|{said}"):
        named_configurations([str(file)])


@pytest.mark.parametrize("name", ["fast", "absent.json"])
def test_an_unknown_name_lists_the_known_ones(name):
    with pytest.raises(ValueError, match="unknown configuration") as caught:
        named_configurations(["original", name])
    assert all(preset in str(caught.value) for preset in CACHE_PRESETS)


def test_one_name_cannot_stand_for_two_configurations(tmp_path):
    file = tmp_path / "original.json"
    file.write_text("{}")
    with pytest.raises(ValueError, match="already called 'original'"):
        named_configurations(["original", str(file)])


def test_everybody_is_first_in_turn():
    assert [rotated("abc", turn) for turn in range(4)] == [
        ["a", "b", "c"],
        ["b", "c", "a"],
        ["c", "a", "b"],
        ["a", "b", "c"],
    ]


def test_rounds_interleave_and_rotate(pipeline, monkeypatch):
    order = []
    set_cache_config = pipeline.model.set_cache_config

    def recording(config):
        order.append(config)
        set_cache_config(config)

    monkeypatch.setattr(pipeline.model, "set_cache_config", recording)
    comparer(pipeline, "original", "attn-only").run(rounds=2, warmup=1)
    first = ["no-cache", "original", "attn-only"]
    assert order[:-1] == [*first, *rotated(first, 1), *rotated(first, 2)]


def test_only_measured_rounds_have_seconds(pipeline):
    comparison = comparer(pipeline, "original").run(rounds=2, warmup=1)
    assert comparison.complete
    assert [sorted(each.seconds) for each in comparison.results.values()] == [[0, 1], [0, 1]]


def test_the_pipeline_keeps_its_own_configuration(pipeline):
    pipeline.model.use_cache = False
    before = pipeline.model.cache_config
    comparison = comparer(pipeline, "original").run(rounds=1, warmup=0)
    assert (pipeline.model.cache_config, pipeline.model.use_cache) == (before, False)
    assert comparison.results["original"].statistics["saved_share"] > 0


def test_the_reference_equals_itself_and_caching_moves_images(pipeline):
    results = comparer(pipeline, "original").run(rounds=1, warmup=0).results
    assert results["no-cache"].quality == {"psnr_db": None, "ssim": 1.0, "identical_images": 2}
    assert results["original"].quality["psnr_db"] < 60
    assert results["original"].quality["ssim"] < 1


def test_a_configuration_that_reuses_nothing_draws_the_references_images(pipeline):
    pipeline.model.similarity = assumed_similarity(pipeline.model, 0.0)
    results = comparer(pipeline, "aggressive").run(rounds=1, warmup=0).results
    assert results["aggressive"].quality["identical_images"] == 2


def test_memory_is_relative_to_the_reference(pipeline):
    comparison = comparer(pipeline, "attn-only", "mlp-only").run(rounds=1, warmup=0)
    entries = comparison_report(comparison, pipeline, batch_size=2)["configurations"]
    assert entries["no-cache"]["memory"]["relative"] == 1
    held = {name: entry["memory"]["held_bytes"] for name, entry in entries.items()}
    assert held["attn-only"]["keys_values"] < held["mlp-only"]["keys_values"]
    assert held["mlp-only"]["keys_values"] == held["no-cache"]["keys_values"]
    expected = sum(held["mlp-only"].values()) / sum(held["no-cache"].values())
    assert entries["mlp-only"]["memory"]["relative"] == expected > 1


def test_device_memory_is_compared_where_there_is_any(pipeline):
    comparison = comparer(pipeline, "original").run(rounds=1, warmup=0)
    comparison.results["no-cache"].device_bytes = 200
    comparison.results["original"].device_bytes = 150
    report = comparison_report(comparison, pipeline, batch_size=2)
    assert report["configurations"]["original"]["memory"]["relative"] == 0.75
    assert "device" in report["memory_is"]


def test_a_metric_that_fails_is_a_failure_of_its_configuration(pipeline):
    def broken(images, reference, prompts):
        if pipeline.model.cache_config.caches_anything:
            raise RuntimeError("no\nweights")
        return {}

    configurations = named_configurations(["original"])
    options = GenerationOptions(batch_size=2)
    comparison = Comparer(pipeline, configurations, PROMPTS, options, [broken]).run(1, 0)
    assert comparison.results["original"].failure == "RuntimeError: no weights"
    assert [each.name for each in comparison.failed] == ["original"]


def test_the_table_has_a_row_per_finished_and_a_line_per_failed_configuration(pipeline):
    comparison = comparer(pipeline, "original", "aggressive").run(rounds=1, warmup=0)
    comparison.results["aggressive"].failure = "RuntimeError: out of memory"
    comparison.results["original"].quality["clip_score"] = 12.345
    comparison.results["no-cache"].quality["clip_score"] = 23.456
    lines = markdown_table(comparison_report(comparison, pipeline, 2)).splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("|")]
    assert [row[0] for row in rows] == ["configuration", "---", "no-cache", "original"]
    assert {len(row) for row in rows} == {len(rows[0])}
    assert (rows[0][-1], rows[2][-1], rows[3][-1]) == ("CLIP score", "23.46", "12.35")
    assert rows[2][rows[0].index("PSNR (dB)")] == "equal"
    assert rows[2][1] == "1.00x (1.00 to 1.00)"
    assert "aggressive: failed (RuntimeError: out of memory)" in lines


@pytest.mark.parametrize(("rounds", "warmup"), [(0, 1), (1, -1)])
def test_numbers_of_rounds_that_measure_nothing_are_refused(pipeline, rounds, warmup):
    with pytest.raises(ValueError, match="must"):
        comparer(pipeline).run(rounds, warmup)
