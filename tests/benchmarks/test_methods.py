"""The comparison of methods: what it compares, and its plot."""

from __future__ import annotations

import pytest

from benchmarks.methods import choose, configurations
from benchmarks.methods_plot import methods_plot
from hart.evaluation.comparison import REFERENCE
from hart.modules.networks.caching.presets import CACHE_PRESETS

PATCH_NUMS = (1, 2, 3, 4, 5, 7, 9, 12, 16)


def test_everything_compared_is_there_once_and_different():
    found = configurations(PATCH_NUMS)
    assert next(iter(found)) == REFERENCE
    assert set(CACHE_PRESETS) < set(found)
    assert len({str(vars(config)) for config in found.values()}) == len(found)
    assert found["fastvar 40%"].prune_stages == ((144, 0.4), (256, 0.4))
    assert found["unguided last 2"].guidance_stop_stage == 144


def test_named_configurations_come_with_the_reference():
    assert list(choose(PATCH_NUMS, ["hybrid"])) == [REFERENCE, "hybrid"]
    with pytest.raises(ValueError, match=r"unknown no-such; known are .*fastvar 40%"):
        choose(PATCH_NUMS, ["no-such"])


@pytest.mark.parametrize("judged", [True, False])
def test_plot_numbers_every_configuration_and_its_key_says_which(judged):
    pytest.importorskip("matplotlib")
    names = configurations(PATCH_NUMS)
    entries = {
        name: {
            "multiply_adds_saved": i / 100,
            "quality": {"ssim": 1 - i / 100, "attribute_accuracy": 0.9},
            "speedup": {"transformer": {"median": 1 + i / 10}, "image": {"median": 1 + i / 20}},
            "memory": {"relative": 1 - i / 50},
        }
        for i, name in enumerate(names)
    }
    if not judged:
        for entry in entries.values():
            del entry["quality"]["attribute_accuracy"]
    left, right, key = methods_plot(entries).axes
    assert ("SSIM" in left.get_ylabel()) is judged
    last = left.get_lines()[-1].get_xydata()[0]
    i = list(names).index("fastvar, unguided last 1")  # the last of the last family
    assert last == pytest.approx((i, 1 - i / 100 if judged else 1 + i / 20))
    numbers = [str(i) for i in range(1, len(names) + 1)]
    for axes in (left, right):
        assert [text.get_text() for text in axes.texts] == numbers
    keyed = dict(text.get_text().split("  ", 1) for text in key.texts)
    assert list(keyed) == numbers
    assert set(keyed.values()) == set(names)
    assert key.texts[-1].get_position()[1] > 0  # inside the figure
