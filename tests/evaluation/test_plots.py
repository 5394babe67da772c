"""Pictures of similarity data and of runs: what is drawn, and from which documents."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hart.evaluation.similarity_plot import plot_similarity
from hart.evaluation.statistics_plot import plot_statistics, read_run_statistics
from hart.modules.networks.caching.config import CacheConfig
from hart.modules.networks.caching.plan import decide_all
from hart.modules.networks.caching.presets import preset_config
from hart.modules.networks.caching.similarity import SimilarityTables
from hart.modules.networks.caching.similarity_formats import HART_PATCH_NUMS, Provenance
from hart.modules.networks.caching.similarity_io import StoredSimilarity
from hart.modules.networks.caching.stages import StageSchedule

DEMO = (1, 2, 3, 4, 5, 7, 9, 12, 16)
REUSED, PASSED, NOT_MEASURED = "reused: the output", "above the threshold, but", "not measured"


def stored(patch_nums=DEMO, depth: int = 6) -> StoredSimilarity:
    """Attention similarities of 0.95 in layer 0, falling by 0.05 per layer; MLP 0.2 less."""
    schedule = StageSchedule(patch_nums)
    tables = SimilarityTables.empty(depth, schedule)
    for layer in range(depth):
        for column in schedule.columns:
            tables.attn[layer][column] = max(0.95 - 0.05 * layer, 0.1)
            tables.mlp[layer][column] = max(0.75 - 0.05 * layer, -0.3) or 0.1
    tables.images = 12
    return StoredSimilarity(tables, Provenance(patch_nums, images=12))


def plan_of(similarity: StoredSimilarity, config: CacheConfig | None = None):
    config = config or preset_config("original", similarity.schedule.patch_nums)
    return decide_all(config, similarity.schedule, similarity.tables)


def frames(axes) -> list[tuple[float, float]]:
    """Transition and layer of every solid frame."""
    solid = [patch for patch in axes.patches if patch.get_linestyle() == "solid"]
    return sorted((round(p.get_x() + 0.44), round(p.get_y() + 0.42)) for p in solid)


def legend_labels(figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


# Similarity


@pytest.mark.parametrize(("patch_nums", "depth"), [(DEMO, 6), (HART_PATCH_NUMS, 24)])
def test_heat_maps_name_every_layer_transition_and_unit(patch_nums, depth):
    pytest.importorskip("matplotlib")
    figure = plot_similarity(stored(patch_nums, depth), "table.json")
    attn, mlp, colours = figure.axes
    for axes, title in ((attn, "Attention"), (mlp, "MLP")):
        assert axes.get_title() == title
        labels = [label.get_text() for label in axes.get_xticklabels()]
        assert len(labels) == len(patch_nums) - 1
        assert labels[:2] == ["1→4", "4→9"]
        assert "81→144" in labels
        assert [label.get_text() for label in axes.get_yticklabels()] == [
            str(layer) for layer in range(depth)
        ]
        assert axes.get_ylim() == (depth - 0.5, -0.5)  # layer 0 on top
        assert "transition" in axes.get_xlabel()
    assert "layer" in attn.get_ylabel()
    assert "dimensionless" in colours.get_ylabel()
    assert "table.json" in figure.get_suptitle()
    assert "12 images" in figure.get_suptitle()
    assert not legend_labels(figure)
    figure.canvas.draw()


def test_values_stand_in_the_cell_of_their_layer_and_transition():
    pytest.importorskip("matplotlib")
    similarity = stored()
    similarity.tables.attn[4][5] = 0.123  # column 5 is the fifth transition, 25 -> 49
    axes = plot_similarity(similarity, "table").axes[0]
    assert [t.get_position() for t in axes.texts if t.get_text() == "0.12"] == [(4, 4)]


def test_exactly_the_reused_cells_are_framed():
    pytest.importorskip("matplotlib")
    similarity = stored()
    preset = preset_config("original", similarity.schedule.patch_nums)
    plan = plan_of(similarity, replace(preset, compute_mlp_layers=()))
    attn, mlp, colours = plot_similarity(similarity, "table", plan, "preset original").axes
    # 0.95, 0.90, ..., 0.75 exceed 0.7; of the MLP only layer 0 with 0.75
    assert frames(attn) == [(column, layer) for column in (6, 7) for layer in range(5)]
    assert frames(mlp) == [(6, 0), (7, 0)]
    assert attn.get_title() == "Attention: 10 of 48 outputs reused"
    dotted = [patch for patch in attn.patches if patch.get_linestyle() != "solid"]
    assert len(dotted) == 5 * 6  # above the threshold in the stages that are not open
    assert "0.70 threshold" in [label.get_text() for label in colours.get_yticklabels()]
    assert colours.lines[-1].get_ydata()[0] == 0.7


def test_a_block_that_always_computes_is_not_framed():
    pytest.importorskip("matplotlib")
    similarity = stored()
    _, mlp, _ = plot_similarity(similarity, "table", plan_of(similarity), "preset original").axes
    assert frames(mlp) == []


def test_every_mark_is_explained():
    pytest.importorskip("matplotlib")
    similarity = stored()
    similarity.tables.mlp[0][0] = 0.0
    figure = plot_similarity(similarity, "table", plan_of(similarity), "preset original")
    labels = " ".join(legend_labels(figure))
    assert all(text in labels for text in (REUSED, PASSED, NOT_MEASURED, "opens for reuse"))
    assert "preset original" in figure.get_suptitle()
    assert "144, 256" in figure.get_suptitle()
    assert len(figure.axes[1].texts) == 6 * 8 - 1


def test_a_plan_without_reuse_says_why():
    pytest.importorskip("matplotlib")
    similarity = stored()
    figure = plot_similarity(similarity, "table", plan_of(similarity, CacheConfig(threshold=0.5)))
    assert "nothing is reused: no skip stages are configured" in figure.get_suptitle()
    assert frames(figure.axes[0]) == []


@pytest.mark.parametrize("preset", ["ultra-fast", "original"])
def test_long_titles_stay_inside_the_picture(preset):
    pytest.importorskip("matplotlib")
    similarity = stored()
    for table in (similarity.tables.attn, similarity.tables.mlp):
        for row in table:
            row[:] = [0.1 if value else 0.0 for value in row]  # so that reasons are given too
    plan = plan_of(similarity, preset_config(preset, DEMO))
    figure = plot_similarity(similarity, "a" * 60 + ".json", plan, f"preset {preset}")
    figure.canvas.draw()
    box = figure._suptitle.get_window_extent()
    assert "always computes" in figure.get_suptitle() or preset == "original"
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width


# Documents about runs

COUNTS = {
    "1": {"attn": (0, 12, 12), "mlp": (0, 12, 12)},
    "4": {"attn": (9, 3, 0), "mlp": (3, 9, 0)},
}


def stages() -> dict:
    kinds = ("reused", "computed", "not_eligible")
    return {
        stage: {site: dict(zip(kinds, n, strict=True), stored=1) for site, n in sites.items()}
        for stage, sites in COUNTS.items()
    }


def statistics_dump() -> dict:
    seconds = {"stages": {"1": 1.0, "4": 3.0}, "residual": 0.5}
    return {"images": 2, "cache_config": {}, "stages": stages(), "seconds": seconds}


def generation_results() -> dict:
    def entry(modules: dict) -> dict:
        seconds = {"total": 9, "residual": 0.25, "stages": {"1": 0.5, "4": 1.5}}
        return {"seconds": seconds, "modules": modules, "batch_size": 1}

    return {"settings": {}, "images": [entry(stages()), entry(stages())]}


def benchmark_results() -> dict:
    def spread(median: float) -> dict:
        return {"median": median, "p5": 0, "p95": 9}

    parts = {"stages": {"1": spread(0.5), "4": spread(1.5)}, "residual": spread(0.25)}
    statistics = {**statistics_dump(), "seconds": {"stages": {"1": 99, "4": 99}}}
    return {"cache_statistics": statistics, "seconds_per_image": {"total": spread(3), **parts}}


@pytest.mark.parametrize("make", [statistics_dump, generation_results, benchmark_results])
def test_every_document_gives_calls_and_seconds_per_image(make):
    statistics = read_run_statistics(make())
    assert statistics.stages == (1, 4)
    assert statistics.images == 2
    attn, mlp = statistics.calls["attn"], statistics.calls["mlp"]
    assert [(c.reused, c.computed, c.not_eligible) for c in attn] == [(0, 12, 12), (9, 3, 0)]
    assert [c.reused for c in mlp] == [0, 3]
    assert statistics.seconds == {"1": 0.5, "4": 1.5, "residual": 0.25}


def test_a_run_without_counts_has_times_all_the_same():
    image = {"seconds": {"stages": {"1": 0.5}}, "modules": {}}
    statistics = read_run_statistics({"images": [image]})
    assert not statistics.has_calls
    assert statistics.seconds == {"1": 0.5}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], r"expected generation_results\.json"),
        ({}, r"expected generation_results\.json"),
        ({"images": []}, "the run finished none"),
        ({"images": [7]}, r"images\[0\]: expected an object, found a int"),
        ({"stages": {}}, "no stage"),
        ({"stages": {"four": {}}}, "expected a stage's token count, found 'four'"),
        (
            {"stages": {"4": {"attn": {"reused": 1, "computed": 1, "not_eligible": 0}}}},
            "4: mlp: expected an object",
        ),
        ({"stages": {"4": {"attn": {"reused": 1}, "mlp": {}}}}, "computed: .*found a NoneType"),
        ({"stages": {"4": {"attn": {"reused": -1, "computed": 1}}}}, "from 0, found -1"),
        ({"stages": {"4": {"attn": {"reused": float("nan")}}}}, "found nan"),
        ({"stages": {"4": {"attn": {"reused": 10**400}}}}, "from 0, found 1000"),
        ({"stages": {"4": {"attn": {"reused": True}}}}, "found a bool"),
        (
            {"stages": {"4": {"attn": {"reused": 0, "computed": 1, "not_eligible": 2}}}},
            "at most computed, found 2 and 1",
        ),
        ({"stages": {}, "seconds": 3}, "seconds: expected an object"),
        ({"images": "two", "stages": {}}, "images: expected a number"),
        ({"cache_statistics": {}, "seconds_per_image": {"stages": {"4": {}}}}, "4: .*NoneType"),
    ],
)
def test_documents_that_are_not_about_a_run_are_refused(document, message):
    with pytest.raises(ValueError, match=message):
        read_run_statistics(document)


# Statistics


def heights(axes, label: str) -> list[float]:
    [bars] = [bars for bars in axes.containers if bars.get_label() == label]
    return [bar.get_height() for bar in bars]


def test_bars_are_shares_of_the_calls_and_seconds():
    pytest.importorskip("matplotlib")
    figure = plot_statistics(read_run_statistics(statistics_dump()), "statistics.json")
    attn, mlp, seconds = figure.axes
    assert heights(attn, "reused") == [0, 75]
    assert heights(attn, "computed: too dissimilar, or nothing stored") == [0, 25]
    assert heights(attn, "computed: the configuration does not allow reuse") == [100, 0]
    assert heights(mlp, "reused") == [0, 25]
    assert [bar.get_height() for bar in seconds.containers[0]] == [0.5, 1.5, 0.25]
    assert [label.get_text() for label in seconds.get_xticklabels()] == [
        "1",
        "4",
        "residual diffusion",
    ]
    assert attn.get_title() == "Attention: 37.5% of 24 module calls reused"
    assert "%" in attn.get_ylabel()
    assert "seconds per image" in seconds.get_ylabel()
    assert "statistics.json, 2 images" in figure.get_suptitle()
    assert len(legend_labels(figure)) == 3
    figure.canvas.draw()


def test_a_run_without_counts_says_so_instead_of_showing_empty_axes():
    pytest.importorskip("matplotlib")
    image = {"seconds": {"stages": {"1": 0.5}}, "modules": {}}
    figure = plot_statistics(read_run_statistics({"images": [image]}), "plain")
    assert "no module calls were counted" in figure.axes[0].texts[0].get_text()
    assert not figure.legends
