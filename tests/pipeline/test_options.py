"""What a run accepts, and which image gets which seed."""

from __future__ import annotations

import pytest

from hart.pipeline.options import DEFAULT_BATCH_SIZE, GenerationOptions, batches, plan_images


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_images_per_prompt", 0),
        ("num_images_per_prompt", -1),
        ("num_images_per_prompt", True),
        ("batch_size", 0),
        ("batch_size", 2.0),
        ("num_maskgit_iters", -1),
        ("max_token_length", 0),
        ("seed", -1),
        ("seed", 2**63),
        ("cfg_scale", float("nan")),
        ("cfg_scale", float("inf")),
        ("cfg_scale", -0.5),
        ("top_p", 1.5),
        ("top_p", float("nan")),
    ],
)
def test_a_bad_option_is_named_with_its_value(name, value):
    with pytest.raises(ValueError, match=name) as caught:
        GenerationOptions(**{name: value})
    assert str(value) in str(caught.value) or name == "seed"


def test_the_defaults_are_those_of_harts_scripts():
    options = GenerationOptions()
    assert (options.cfg_scale, options.top_p, options.more_smooth) == (4.5, 0.0, True)
    assert options.use_llm_system_prompt is True
    assert options.num_maskgit_iters == 1


def test_seeds_count_images_and_images_of_one_prompt_stand_together():
    requests = plan_images(["a", "b"], GenerationOptions(num_images_per_prompt=2, seed=7))
    assert [(r.index, r.prompt, r.seed) for r in requests] == [
        (0, "a", 7),
        (1, "a", 8),
        (2, "b", 9),
        (3, "b", 10),
    ]


def test_a_single_string_is_one_prompt_and_not_its_letters():
    assert [r.prompt for r in plan_images("a cat", GenerationOptions())] == ["a cat"]


def test_no_prompt_is_an_error():
    with pytest.raises(ValueError, match="at least one prompt"):
        plan_images([], GenerationOptions())


@pytest.mark.parametrize("empty", ["", "  \n"])
def test_an_empty_prompt_is_an_error_that_says_which(empty):
    with pytest.raises(ValueError, match=r"prompts\[1\] is empty"):
        plan_images(["a cat", empty], GenerationOptions())


@pytest.mark.parametrize(
    ("prompts", "kind"),
    [([3], "int"), (None, "NoneType"), (b"a", "bytes"), ({"a": 1}, "dict")],
)
def test_a_prompt_that_is_no_string_is_an_error(prompts, kind):
    with pytest.raises(TypeError, match=rf"prompts\[0\] must be a string, got {kind}"):
        plan_images(prompts, GenerationOptions())


def test_batches_cover_every_image_once_in_order():
    requests = plan_images([str(i) for i in range(7)], GenerationOptions())
    pieces = list(batches(requests, 3))
    assert [len(piece) for piece in pieces] == [3, 3, 1]
    assert [request for piece in pieces for request in piece] == requests
    assert [len(piece) for piece in batches(requests, None)] == [DEFAULT_BATCH_SIZE, 3]
