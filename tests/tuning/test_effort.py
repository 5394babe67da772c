"""How much is drawn fits into the time there is, and takes no longer than is said before."""

from __future__ import annotations

import pytest

from hart.cli.main import main
from hart.modules.networks.caching.multiply_adds import TransformerShape
from hart.modules.networks.caching.plan import kept_tokens
from hart.modules.networks.caching.stages import StageSchedule
from hart.pipeline.base import Pipeline
from hart.tuning.effort import EFFORTS, LEFT, Work, effort_line, effort_within
from hart.tuning.replay import Replay
from hart.tuning.selection import options
from hart.tuning.tuner import Tuner

DEMO = TransformerShape(6, 256, 1024, 3, 32, (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36))
LARGE = TransformerShape(24, 1536, 6144, 3, 300, (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64))


def work_of(shape: TransformerShape, picture_s: float, **changes) -> Work:
    known = options(StageSchedule(shape.patch_nums), shape.depth)
    return Work(shape, tuple(known.values()), 0.85 * picture_s, 0.15 * picture_s, **changes)


@pytest.mark.parametrize("picture_s", [0.2, 0.6, 1.5, 2.6, 3.2])
def test_the_demo_takes_its_ten_minutes_and_no_more(picture_s):
    work = work_of(DEMO, picture_s)
    effort = effort_within(work, 600)
    assert 0.3 * 600 < work.seconds(effort) <= 0.9 * 600 or effort == EFFORTS[0]
    assert effort.measured >= 2
    assert effort.held_out >= 6


def test_what_cannot_be_done_in_time_is_said():
    work = work_of(LARGE, 100.0)
    effort = effort_within(work, 600)
    assert effort == EFFORTS[-1]
    line = effort_line(effort, work, 10, prompts=32, held_out=32)
    assert line.startswith("a picture takes 100.00 s, 209 options on 1 images, 2 draws of 1")
    assert line.endswith("minutes, more than the 10 there are")


def test_more_to_do_leaves_less_for_each():
    one, eight = (effort_within(work_of(DEMO, 1.0, plans=n), 600) for n in (1, 8))
    assert EFFORTS.index(eight) > EFFORTS.index(one)
    measured = work_of(DEMO, 1.0, times=False)
    assert measured.seconds(EFFORTS[4]) < work_of(DEMO, 1.0).seconds(EFFORTS[4])


def test_what_is_asked_for_stands():
    effort = effort_within(work_of(DEMO, 2.6), 600, tries=50, held_out=0)
    assert (effort.tries, effort.held_out) == (50, 0)


class Clock:
    """Adds up what draws would take if seconds followed multiply-adds."""

    map_s, rest_s = 0.9, 0.1

    def __init__(self, shape: TransformerShape, patch: pytest.MonkeyPatch) -> None:
        self.shape, self.seconds = shape, 0.0
        replay, draw, together = Replay.__init__, Replay.draw, Pipeline.draw_together
        decode = Tuner._pictures

        def begin(own, pipeline, batch, *arguments) -> None:
            self.seconds += len(batch) * (self.map_s + self.rest_s)
            replay(own, pipeline, batch, *arguments)

        def draw_map(own, config):
            self.seconds += len(own.batch) * self.map_s * self.share(config)
            return draw(own, config)

        def draw_pictures(own, requests, **arguments):
            config = own.transformer.cache_config
            share = self.share(config) if hasattr(config, "plan") else 1.0
            self.seconds += len(requests) * (self.rest_s + self.map_s * share)
            return together(own, requests, **arguments)

        def pictures(own, maps):
            self.seconds += self.rest_s * sum(len(each) for each in maps)
            return decode(own, maps)

        patch.setattr(Replay, "__init__", begin)
        patch.setattr(Replay, "draw", draw_map)
        patch.setattr(Pipeline, "draw_together", draw_pictures)
        patch.setattr(Tuner, "_pictures", pictures)

    def share(self, config) -> float:
        """Of a map's multiply-adds; tokens stand for them."""
        lengths, done, whole = self.shape.new_tokens, 0.0, 0.0
        stop = config.guidance_stop_stage
        for si, (tokens, length) in enumerate(zip(lengths, self.shape.stage_lengths, strict=True)):
            rows = 1 if stop is not None and length >= stop else 2
            for action in config.plan[si]:
                whole += 2 * tokens
                done += 0 if action.reuse else rows * kept_tokens(tokens, action.ratio)
        return done / whole


@pytest.mark.parametrize("target", ["--target-speedup", "--min-ssim"])
def test_what_is_drawn_takes_no_longer_than_was_said(
    checkpoint, pipeline, tmp_path, monkeypatch, target
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("\n".join(f"a star {n}" for n in range(12)))
    monkeypatch.setattr("hart.tuning.effort.EFFORTS", (effort := EFFORTS[-3],))
    shape = pipeline.transformer.transformer_shape
    clock = Clock(shape, monkeypatch)
    model = ("--model_path", str(checkpoint), "--device", "cpu", "--quiet")
    prompts = ("--prompts_file", "prompts.txt", "--no-use_llm_system_prompt")
    value = "1.001" if target == "--target-speedup" else "0.5"
    assert main(["tune", *model, *prompts, target, value]) in (0, 1)
    known = options(StageSchedule(shape.patch_nums), shape.depth)
    work = Work(shape, tuple(known.values()), clock.map_s, clock.rest_s)
    first = 2 * (clock.map_s + clock.rest_s)
    most = work.seconds(effort) / LEFT  # these plans save nothing like what others do
    assert 0.3 * most < clock.seconds <= most + first
