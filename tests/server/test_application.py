"""The server as clients see it: OpenAI's own, and plain HTTP. A tiny model draws."""

from __future__ import annotations

import base64
import http.client
import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from PIL import Image

from hart.server.application import Access
from hart.utils.images import png_texts
from hart.web.guard import AllowedHosts
from tests.pipeline.checkpoint_folder import PATCH_NUMS
from tests.server.conftest import NAME, PATIENCE_S, serving

SIZE = PATCH_NUMS[-1] * 2


def client(server, **options):
    options = {"api_key": "unused", "max_retries": 0, "timeout": PATIENCE_S, **options}
    return openai.OpenAI(base_url=f"{server.url}/v1", **options)


def picture(data: str) -> Image.Image:
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    image.load()
    return image


class Slow:
    """Draws as ``inside`` does, once it is let go on."""

    def __init__(self, inside) -> None:
        self._inside = inside
        self.begun, self.go_on, self.stopped = (threading.Event() for _ in range(3))

    def __call__(self, settings, images, check):
        self.begun.set()
        try:
            while not self.go_on.wait(0.01):
                check()
        except BaseException:
            self.stopped.set()
            raise
        return self._inside(settings, images, check)


@pytest.fixture
def slow(server) -> Slow:
    server.drawing = Slow(server.drawing)
    return server.drawing


def waited_for(condition) -> bool:
    end = time.monotonic() + PATIENCE_S
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


# --- OpenAI's client --------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{"cache_preset": "no-cache"}, {"quality": "lossless"}])
def test_its_pictures_are_the_pipelines(server, pipeline, how):
    answer = client(server).images.generate(
        model=NAME,
        prompt="a red fox",
        n=2,
        size=f"{SIZE}x{SIZE}",
        extra_body={"seed": 5, "guidance_scale": 3.0, **how},
    )
    assert abs(answer.created - time.time()) < PATIENCE_S
    pipeline.model.set_cache_config("no-cache")
    expected = pipeline("a red fox", num_images_per_prompt=2, seed=5, cfg_scale=3.0, quiet=True)
    assert [entry.seed for entry in answer.data] == [5, 6]
    for entry, image in zip(answer.data, expected.images, strict=True):
        assert picture(entry.b64_json).tobytes() == image.tobytes()
        assert (entry.url, entry.revised_prompt) == (None, None)


def test_its_models(server):
    models = client(server).models
    assert [(model.id, model.owned_by) for model in models.list()] == [(NAME, "hart")]
    assert models.retrieve(NAME).id == NAME
    with pytest.raises(openai.NotFoundError, match="'gpt-4' does not exist"):
        models.retrieve("gpt-4")


def test_it_raises_what_it_raises_elsewhere(server):
    draw = client(server).images.generate
    with pytest.raises(openai.BadRequestError) as refused:
        draw(prompt="a fox", n=6)
    assert (refused.value.param, refused.value.code) == ("n", "invalid_value")
    assert "n must be a whole number from 1 to 5, got 6" in str(refused.value)
    with pytest.raises(openai.NotFoundError, match="'dall-e-3' does not exist"):
        draw(prompt="a fox", model="dall-e-3")


def test_it_tries_again_when_the_queue_is_full(pipeline):
    with serving(pipeline, max_waiting=1) as server:
        slow = server.drawing = Slow(server.drawing)
        with ThreadPoolExecutor(3) as people:
            first = people.submit(server.post, {"prompt": "first"})
            assert slow.begun.wait(PATIENCE_S)
            second = people.submit(server.post, {"prompt": "second"})
            assert waited_for(lambda: server.queue.waiting == 1)
            with pytest.raises(openai.RateLimitError) as full:
                client(server).images.generate(prompt="third")
            assert full.value.code == "queue_full"
            assert int(full.value.response.headers["Retry-After"]) >= 1
            patient = client(server, max_retries=5)
            third = people.submit(patient.images.generate, prompt="third")
            assert waited_for(lambda: server.counted('hart_requests_total{status="429"}') == 2)
            slow.go_on.set()
            assert third.result(PATIENCE_S).data
            assert first.result().status_code == second.result().status_code == 200


# --- many at once -----------------------------------------------------------------------------


def test_fifty_at_once_are_all_drawn_and_share_batches(server, slow):
    draw = client(server).images.generate

    def ask(i: int):
        answer = draw(prompt=f"number {i}", extra_body={"seed": i})
        return png_texts(picture(answer.data[0].b64_json))

    with ThreadPoolExecutor(50) as people:
        answers = [people.submit(ask, i) for i in range(50)]
        assert waited_for(lambda: server.queue.waiting >= 46)  # the others are being drawn
        slow.go_on.set()
        texts = [answer.result(PATIENCE_S) for answer in answers]
    assert [(text["prompt"], text["seed"]) for text in texts] == [
        (f"number {i}", str(i)) for i in range(50)
    ]
    assert server.counted("hart_images_total") == 50
    assert server.counted("hart_batch_images_count") <= 14
    assert server.counted('hart_requests_total{status="200"}') == 50
    assert server.counted("hart_module_calls_total") > 0
    assert server.counted("hart_waiting_requests") == 0


def test_a_picture_says_nothing_of_the_others_in_its_batch(server, slow):
    with ThreadPoolExecutor(3) as people:
        people.submit(server.post, {"prompt": "first"})
        assert slow.begun.wait(PATIENCE_S)
        both = [people.submit(server.post, {"prompt": name}) for name in ("a secret", "another")]
        assert waited_for(lambda: server.queue.waiting == 2)
        slow.go_on.set()
        answers = [each.result(PATIENCE_S).json() for each in both]
    assert server.counted("hart_batch_images_count") == 2  # those two were drawn together
    files = [base64.b64decode(answer["data"][0]["b64_json"]) for answer in answers]
    texts = [png_texts(Image.open(io.BytesIO(file))) for file in files]
    assert [text["prompt"] for text in texts] == ["a secret", "another"]
    assert "a secret" not in json.dumps(texts[1])
    assert "another" not in json.dumps(texts[0])


def test_who_goes_away_is_not_drawn_for(server, slow):
    leaving = http.client.HTTPConnection(server.url.removeprefix("http://"))
    kind = {"Content-Type": "application/json"}
    leaving.request("POST", "/v1/images/generations", b'{"prompt": "a fox"}', kind)
    assert slow.begun.wait(PATIENCE_S)
    leaving.close()
    assert slow.stopped.wait(PATIENCE_S)
    assert waited_for(lambda: server.counted('hart_requests_total{status="499"}') == 1)
    slow.go_on.set()
    assert server.post({"prompt": "the next one"}).status_code == 200
    assert server.counted("hart_images_total") == 1


def test_draining_answers_who_waits_and_finishes_what_is_drawn(server, slow):
    with ThreadPoolExecutor(2) as people:
        first = people.submit(server.post, {"prompt": "first"})
        assert slow.begun.wait(PATIENCE_S)
        second = people.submit(server.post, {"prompt": "second"})
        assert waited_for(lambda: server.queue.waiting == 1)
        server.queue.drain()
        told = second.result(PATIENCE_S)
        assert (told.status_code, told.headers["Retry-After"]) == (503, "1")
        assert server.get("/health").status_code == 503
        slow.go_on.set()
        assert first.result(PATIENCE_S).status_code == 200


# --- errors -----------------------------------------------------------------------------------


def told(answer: httpx.Response, status: int) -> str:
    """The message of an error in OpenAI's form."""
    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error["message"]


def test_every_error_has_openais_form(server):
    url = f"{server.url}/v1/images/generations"
    json_type = {"Content-Type": "application/json"}
    assert "not JSON" in told(httpx.post(url, content=b"{", headers=json_type), 400)
    large = b'{"prompt": "' + b"x" * 100_000 + b'"}'
    assert "more than" in told(httpx.post(url, content=large, headers=json_type), 413)
    assert "prompt is missing" in told(server.post({}), 400)
    assert "another method" in told(server.get("/v1/images/generations"), 405)
    assert "there is no GET /v1/elsewhere" in told(server.get("/v1/elsewhere"), 404)
    assert "there is no GET /docs" in told(server.get("/docs"), 404)


def test_a_form_of_another_web_site_is_refused(server):
    url = f"{server.url}/v1/images/generations"
    text = {"Content-Type": "text/plain"}
    answer = httpx.post(url, content=b'{"prompt": "a fox"}', headers=text)
    assert "Content-Type: application/json" in told(answer, 415)
    asks_first = httpx.options(url, headers={"Origin": "https://elsewhere.example"})
    assert asks_first.status_code == 405
    assert "access-control-allow-origin" not in asks_first.headers


def test_a_failure_is_told_without_its_cause(server):
    def broken(*arguments):
        raise RuntimeError("/secret/path")

    server.drawing = broken
    assert told(server.post({"prompt": "a fox"}), 500) == "the image could not be drawn"
    assert told(server.get("/health"), 503) == "the model cannot draw"


# --- access -----------------------------------------------------------------------------------


def test_a_key_is_asked_for(pipeline):
    with serving(pipeline, access=Access("secret")) as server:
        assert client(server, api_key="secret").models.list().data
        with pytest.raises(openai.AuthenticationError, match="missing or wrong"):
            client(server, api_key="guessed").images.generate(prompt="a fox")
        assert "Bearer KEY" in told(server.post({"prompt": "a fox"}), 401)
        told(server.get("/v1/models", headers={"Authorization": "Basic secret"}), 401)
        told(server.get("/v1/models", headers={"Authorization": b"Bearer s\xe9cret"}), 401)
        assert server.get("/health").json() == {"status": "ok"}
        assert server.counted("hart_images_total") == 0
        assert "secret" not in repr(Access("secret"))


def test_a_private_server_answers_to_its_own_names_only(pipeline):
    with serving(pipeline, access=Access(None, AllowedHosts("127.0.0.1"))) as server:
        assert server.get("/health").status_code == 200
        answer = server.get("/health", headers={"Host": "elsewhere.example"})
        assert "'elsewhere.example'" in told(answer, 421)
