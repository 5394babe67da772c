"""What a request may say; everything else is answered with what is wrong with it."""

from __future__ import annotations

import json

import pytest

from hart.modules.networks.caching.config import CacheConfig
from hart.server.errors import ApiError
from hart.server.requests import ImagesRequest, Served, Settings, read_request

ORIGINAL, LEVEL = CacheConfig(threshold=0.5), CacheConfig(threshold=0.6)
SERVED = Served(
    "tiny", 16, CacheConfig(), {"original": ORIGINAL}, {"fast": LEVEL}, max_images=3, max_prompt=20
)


def read(**fields) -> ImagesRequest:
    return read_request(json.dumps({"prompt": "a fox", **fields}).encode(), SERVED)


def refused(body: bytes) -> ApiError:
    with pytest.raises(ApiError) as error:
        read_request(body, SERVED)
    return error.value


def test_a_prompt_is_enough():
    request = read()
    assert [(image.index, image.prompt) for image in request.images] == [(0, "a fox")]
    assert request.settings == Settings(CacheConfig(), 4.5)


def test_without_a_seed_every_request_draws_another_image():
    assert len({read().images[0].seed for _ in range(20)}) > 10


def test_images_of_a_request_have_seeds_in_a_row():
    request = read(n=3, seed=2**53 - 1)
    assert [image.seed for image in request.images] == [2**53 - 1 + i for i in range(3)]


@pytest.mark.parametrize(
    ("fields", "settings"),
    [
        ({"guidance_scale": 7}, Settings(CacheConfig(), 7.0)),
        ({"cache_preset": "original"}, Settings(ORIGINAL)),
        ({"quality": "fast"}, Settings(LEVEL)),
        ({"quality": "auto", "cache_preset": "original"}, Settings(ORIGINAL)),
    ],
)
def test_what_decides_how_it_is_drawn(fields, settings):
    assert read(**fields).settings == settings


def test_what_openais_clients_may_say():
    plain = {"seed": 1}
    said = {
        **{"model": "tiny", "n": 1, "size": "16x16", "quality": "auto", "user": "somebody"},
        **{"response_format": "b64_json", "output_format": "png", "background": "opaque"},
        **{"moderation": "low", "stream": False, "partial_images": 0, "negative_prompt": ""},
        **{"safety_identifier": "7f3a", "style": None, "cache_preset": None},
    }
    assert read(**plain, **said) == read(**plain)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"prompt": "   "}, "prompt must be text of 1 to 20 characters, got '   '"),
        ({"prompt": "x" * 21}, "prompt must be text of 1 to 20 characters"),
        ({"prompt": ["a fox"]}, "prompt must be text of 1 to 20 characters, got ['a fox']"),
        ({"prompt": "\ud800"}, "prompt must be text"),
        ({"n": 0}, "n must be a whole number from 1 to 3, got 0"),
        ({"n": 4}, "n must be a whole number from 1 to 3, got 4"),
        ({"n": True}, "n must be a whole number"),
        ({"n": 1.5}, "n must be a whole number"),
        ({"size": "1024x1024"}, 'size must be "auto" or "16x16", got \'1024x1024\''),
        ({"size": 16}, 'size must be "auto" or "16x16", got 16'),
        ({"quality": "hd"}, "quality must be 'auto' or 'fast', got 'hd'"),
        ({"cache_preset": "orignal"}, "cache_preset must be 'original', got 'orignal'"),
        ({"seed": -1}, "seed must be a whole number from 0"),
        ({"seed": 2**53}, "seed must be a whole number from 0"),
        ({"guidance_scale": 31}, "guidance_scale must be a number from 0 to 30, got 31"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be a number"),
        ({"response_format": "url"}, "response_format must be \"b64_json\", got 'url'"),
        ({"output_format": "webp"}, 'output_format must be "png"'),
        ({"background": "transparent"}, 'background must be "auto" or "opaque"'),
        ({"stream": True}, "stream must be false, got True"),
        ({"stream": 0}, "stream must be false, got 0"),
        ({"negative_prompt": "ugly"}, "negative_prompt: HART was not trained with any"),
        ({"cache_preset": "original", "quality": "fast"}, "exclude each other"),
        ({"guidance": 3}, "unknown field 'guidance'; did you mean guidance_scale?"),
        ({"steps": 30}, "unknown field 'steps'; known are prompt, model, n, size"),
    ],
)
def test_what_is_not_allowed(fields, words):
    error = refused(json.dumps({"prompt": "a fox", **fields}).encode())
    assert words in str(error)
    told = error.body["error"]
    assert (error.status, told["type"]) == (400, "invalid_request_error")
    assert told["param"] in fields


def test_a_model_that_is_not_here():
    error = refused(b'{"prompt": "a fox", "model": "dall-e-3"}')
    assert (error.status, error.body["error"]["code"]) == (404, "model_not_found")
    assert "'dall-e-3' does not exist; this server has 'tiny'" in str(error)


def test_a_missing_prompt():
    error = refused(b'{"n": 2, "prompt": null}')
    assert error.body["error"] == {
        "message": "prompt is missing",
        "type": "invalid_request_error",
        "param": "prompt",
        "code": "missing_required_parameter",
    }


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'"a fox"', b"[]", b"1" * 5000]
)
def test_what_is_no_json_object(body):
    error = refused(body)
    assert (error.status, error.body["error"]["code"]) == (400, "invalid_json")
