"""The soak benchmark finds what it looks for; here on a tiny model and few images."""

from __future__ import annotations

import warnings

import pytest

from benchmarks.soak import WINDOW, SoakError, growth, run, turns
from hart.modules.networks.caching.presets import CACHE_PRESETS


@pytest.fixture
def used(pipeline):
    """The tiny pipeline; it lacks some of the stages that the soak names."""
    pipeline.model.calibration = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield pipeline


def test_turns_draw_every_image_once_and_change_all_the_time():
    drawn = list(turns(120))
    indices = [request.index for turn in drawn for request in turn.requests]
    assert indices == list(range(120))
    assert len({turn.configuration for turn in drawn}) == len(CACHE_PRESETS) + 2
    assert any(turn.calibrates for turn in drawn)


@pytest.mark.slow
def test_a_sound_model_passes(used):
    memory = run(used, 16, quiet=True)
    assert [images for images, _ in memory] == [1, 3, 7, 10, 11, 13, 16]


@pytest.mark.slow
def test_a_miscount_is_found(used, monkeypatch):
    statistics = type(used.model.cache_statistics)
    add = statistics.add

    def forgetful(self, counts, images, seconds):
        add(self, counts, 1, seconds)  # a batch counts as one image

    monkeypatch.setattr(statistics, "add", forgetful)
    with pytest.raises(SoakError, match="images is wrong"):
        run(used, 3, quiet=True)


def test_growth_compares_windows_and_not_single_batches():
    level = [1000 + 50 * (turn % WINDOW == 3) for turn in range(3 * WINDOW)]
    memory = list(enumerate(level, 1))
    assert growth(memory, 1)["growth"] == 0
    leaking = [(images, held + images) for images, held in memory]
    assert growth(leaking, 1)["growth"] > 0.03
