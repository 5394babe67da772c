"""What a stranger may ask the page's server for: nothing that the page itself does not."""

from __future__ import annotations

import json
import time
import urllib.parse
from pathlib import Path

import pytest

from benchmarks.page_soak import Visitor, drawing, free_port, tiny_page
from hart.web.guard import MAX_BODY_BYTES, AllowedHosts, RefusedError, check_call
from hart.web.page import PageOptions, build_page
from hart.web.server import Address, serving
from tests.product import product

HTML = b"<script>alert(1)</script>"
GRACE_S = 0.5


class Site:
    """A served page, and what lies on the disk behind it."""

    def __init__(self, address, handlers, gradio_folder: Path) -> None:
        self.address, self.handlers, self.gradio_folder = address, handlers, gradio_folder
        self.netloc = urllib.parse.urlsplit(address).netloc
        self.visitor = Visitor(address)
        self.draw = self.visitor.function("draw-button")

    def files(self) -> set[Path]:
        return {*self.handlers.folder.rglob("*"), *self.gradio_folder.rglob("*")}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("gradio")
    pytest.importorskip("skimage")
    gradio_folder = tmp_path_factory.mktemp("gradio")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(gradio_folder))
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            patch.setenv(name, "http://127.0.0.1:9")  # nobody is there: the page must not care
        with tiny_page(tmp_path_factory.mktemp("served") / "out") as (address, handlers):
            handlers.visitors._grace_s = GRACE_S
            yield Site(address, handlers, gradio_folder)


def multipart(name: str, content: bytes) -> tuple[bytes, dict[str, str]]:
    head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    body = head.encode() + content + b"\r\n--x--\r\n"
    return body, {"Content-Type": "multipart/form-data; boundary=x"}


# Routes


UPLOADS = ["upload", "gradio_api/upload", "gradio_api/upload/", "gradio_api//upload"]
UPLOADS += ["gradio_api/component_server", "gradio_api/process_recording", "./gradio_api/upload"]
UPLOADS += ["gradio_api/run/../upload", "%67radio_api/upload", "GRADIO_API/UPLOAD"]


@product(path=UPLOADS, method=["POST", "PUT"])
def test_nothing_can_be_uploaded(site, path, method):
    before = site.files()
    body, kind = multipart("x.html", HTML)
    status, _, _ = site.visitor.ask(method, f"/{path}", body, **kind)
    assert status in (404, 405)
    assert site.files() == before


def test_every_route_that_gradio_adds_is_closed(site):
    """Those that the page uses are listed here; another version may have more, which are closed."""
    import gradio

    used = {"/login", "/login/"} | {
        f"/gradio_api/{name}"
        for name in ("queue/join", "run/{api_name}", "run/{api_name}/", "cancel", "reset", "reset/")
    }
    with gradio.Blocks() as empty:
        pass
    paths = gradio.routes.App.create_app(empty).openapi()["paths"]
    written = {path for path, methods in paths.items() if {"post", "put", "delete"} & {*methods}}
    assert {"/gradio_api/upload", "/gradio_api/queue/join"} < written
    for path in written - used:
        status, _, _ = site.visitor.ask("POST", path.replace("{api_name}", "predict"), b"{}")
        assert status in (404, 405), path


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/gradio_api/proxy=https://x.hf.space/a", 404),
        ("/gradio_api/deep_link?session_hash=x", 404),
        ("/gradio_api/call/draw/x", 404),
        ("/gradio_api/upload_progress?upload_id=x", 404),
        ("/gradio_api/runs", 404),
        ("/gradio_api/custom_component/1/client/component/style.css", 404),
        ("/monitoring", 404),
        ("/docs", 404),
        ("/openapi.json", 404),
        ("/gradio_api/queue/join", 405),
        ("/gradio_api/run/draw", 404),
    ],
)
def test_other_addresses_do_not_exist(site, path, status):
    assert site.visitor.ask("GET", path)[0] == status


def test_the_page_itself_is_answered(site):
    status, headers, body = site.visitor.ask("GET", "/")
    assert (status, headers["X-Content-Type-Options"]) == (200, "nosniff")
    assert "frame-ancestors 'self'" in headers["Content-Security-Policy"]
    assert b"HART with feature caching" in body
    assert site.visitor.ask("HEAD", "/")[0] == 200


# Hosts and web sites


def answers(site, status: int, **headers: str) -> None:
    found, answer, body = site.visitor.ask("GET", "/config", **headers)
    assert found == status, body
    assert not [name for name in answer if name.lower().startswith("access-control-")]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7860", "localhost.evil.example", "127.0.0.1.nip.example"]
)
def test_another_host_name_is_not_answered(site, host):
    answers(site, 421, Host=host)
    answers(site, 421, Host=host, Origin=f"http://{host}")
    answers(site, 421, **{"X-Forwarded-Host": host})


@pytest.mark.parametrize("host", ["", "localhost/", "user@localhost", "localhost, evil.example"])
def test_what_is_no_host_is_not_answered(site, host):
    answers(site, 421, Host=host)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:7860", "[::1]:7860"])
def test_loopback_names_are_answered(site, host):
    answers(site, 200, Host=host)


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost:1", "file://", "http://127.0.0.1"]
)
def test_another_web_site_is_not_answered(site, origin):
    answers(site, 403, Origin=origin)
    preflight = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    status, headers, _ = site.visitor.ask("OPTIONS", "/gradio_api/queue/join", **preflight)
    assert status == 403
    assert not [name for name in headers if name.lower().startswith("access-control-")]


def test_the_page_answers_to_itself(site):
    answers(site, 200, Origin=f"http://{site.netloc}")


@pytest.mark.parametrize("relation", ["cross-site", "same-site"])
def test_another_web_site_may_link_to_the_page_only(site, relation):
    fetch = {"Sec-Fetch-Site": relation, "Sec-Fetch-Mode": "navigate"}
    assert site.visitor.ask("GET", "/", **fetch)[0] == 200
    assert site.visitor.ask("GET", "/config", **fetch)[0] == 403
    assert site.visitor.ask("GET", "/", **{**fetch, "Sec-Fetch-Mode": "no-cors"})[0] == 403


@pytest.mark.parametrize(
    ("listen", "names", "host", "answered"),
    [
        ("localhost", [], "localhost", True),
        ("localhost", [], "192.168.0.7", False),
        ("127.0.0.1", ["hart.example"], "HART.example:443", True),
        ("127.0.0.1", ["hart.example"], "other.example", False),
        ("127.0.0.1", ["*"], "other.example", True),
        ("0.0.0.0", [], "192.168.0.7:7860", True),
        ("0.0.0.0", [], "[fe80::1]:7860", True),
        ("0.0.0.0", [], "evil.example", False),
        ("hart.example", [], "hart.example", True),
        ("::1", [], "[::1]", True),
        ("::1", [], "[fe80::1]", False),
    ],
)
def test_which_names_are_answered_to(listen, names, host, answered):
    assert AllowedHosts(listen, names).answers_to(host) is answered


@pytest.mark.parametrize(
    ("origin", "host", "own"),
    [
        ("https://hart.example", "127.0.0.1:7860", True),  # a proxy that rewrites the host
        ("https://hart.example", "hart.example", True),
        ("https://other.example", "127.0.0.1:7860", False),
        ("http://127.0.0.1:7860", "127.0.0.1:7860", True),
    ],
)
def test_which_web_site_is_the_page_behind_a_proxy(origin, host, own):
    assert AllowedHosts("127.0.0.1", ["hart.example"]).is_own_site(origin, host) is own


# Files


def test_results_are_served_once_and_nothing_beside_them(site):
    shown = Visitor(site.address).call(site.draw, drawing(0))
    text = json.dumps(shown[-1])
    (folder,) = [path for path in site.handlers.folder.iterdir() if path.name in text]
    names = {path.name for path in folder.iterdir()}
    assert {"000-no-cache.png", "all.zip", "report.json", "stage_by_stage.png"} <= names
    assert not [name for name in names if name.startswith("preview-")]
    assert {path for path in site.files() if path.is_file()} == set(folder.iterdir())  # no copies
    status, headers, body = site.visitor.ask("GET", f"/gradio_api/file={folder}/000-no-cache.png")
    assert (status, headers["Content-Type"], body[:4]) == (200, "image/png", b"\x89PNG")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in headers["Content-Security-Policy"]
    (site.handlers.folder / "planted.html").write_bytes(HTML)
    (folder / ".planted.png").write_bytes(HTML)
    (folder / "planted.png").symlink_to("/etc/passwd")
    for path in (
        "/etc/passwd",
        f"{site.handlers.folder}/planted.html",
        f"{folder}/.planted.png",
        f"{folder}/planted.png",
        f"{folder}/../planted.html",
        f"{folder}//000-no-cache.png",
        f"{folder}",
        f"{folder}/",
        "http://127.0.0.1:1/x.html",
        "https://example.com/x.html",
        "data:text/html,x",
    ):
        assert site.visitor.ask("GET", f"/gradio_api/file={path}")[0] == 404, path


def test_a_value_cannot_name_a_file(site):
    named = {"path": "/etc/hostname", "meta": {"_type": "gradio.FileData"}}
    elsewhere = {**named, "path": "https://example.com/x.png"}
    before = site.files()
    for value in (named, elsewhere, [named], [[named]]):
        status, answer = site.visitor.join(site.draw, [value, *drawing(0)[1:]])
        assert (status, answer["detail"][:8]) == (422, "Value 1 ")
    assert site.files() == before


def test_a_file_is_answered_whole(site):
    Visitor(site.address).call(site.draw, drawing(0))
    file = max(site.handlers.folder.rglob("*.png"), key=lambda file: file.stat().st_mtime)
    for ranges in ("bytes=0-1,2-3", "bytes=x", "bytes=99999999-", "bytes=0-9"):
        status, _, body = site.visitor.ask("GET", f"/gradio_api/file={file}", Range=ranges)
        assert (status, body) == (200, file.read_bytes()), ranges


# Calls


@pytest.mark.parametrize("path", ["queue/join", "run/predict", "cancel", "reset"])
@pytest.mark.parametrize("body", [b"\xff", b"", b"[]", b"[" * 100_000])
def test_a_call_that_is_no_json_object_is_refused(site, path, body):
    for kind in ("application/json", "text/plain"):
        answer = site.visitor.ask("POST", f"/gradio_api/{path}", body, **{"Content-Type": kind})
        assert answer[0] in (400, 422)


def last_words(site, values) -> str:
    shown = Visitor(site.address).call(site.draw, values)
    return json.dumps(shown)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (0, ["a"], "prompts must be text"),
        (1, 10**400, "seed must be a whole number"),
        (2, float("nan"), "guidance scale must be a number"),
        (3, None, "Unknown quality"),
        (10, "yes", "Comparing must be true or false"),
        (11, None, "Showing every stage must be true or false"),
    ],
)
def test_values_that_no_field_can_hold_are_explained(site, place, value, words):
    values = drawing(1)
    values[place] = value
    assert words in last_words(site, values)


@pytest.mark.parametrize(
    ("call", "status"),
    [
        (b"", 400),
        (b"[" * 100_000, 400),
        (b'{"data": [' + b"1" * 5000 + b"]}", 400),
        (b"[]", 422),
        (b'{"data": {}, "fn_index": 1, "session_hash": "x"}', 422),
        (b'{"data": [], "fn_index": 1}', 422),
        (b'{"data": [], "fn_index": 1, "session_hash": "a/b"}', 422),
        (b'{"data": [], "fn_index": "1", "session_hash": "x"}', 422),
        (b'{"data": [], "fn_index": true, "session_hash": "x"}', 422),
        (b'{"data": [], "fn_index": -1, "session_hash": "x"}', 422),
        (b'{"data": [], "fn_index": 1, "session_hash": "x"}', 422),
        (b'{"data": [[[1]]], "fn_index": 1, "session_hash": "x"}', 422),
    ],
)
def test_calls_that_are_none(call, status):
    with pytest.raises(RefusedError) as refused:
        check_call(call, {1: 1})
    assert refused.value.status == status


@pytest.mark.parametrize("change", [{"fn_index": 999}, {"data": []}, {"data": [1] * 99}])
def test_calls_of_nothing_are_explained(site, change):
    call = {"data": drawing(1), "fn_index": site.draw, "session_hash": site.visitor.session}
    body = json.dumps({**call, **change}).encode()
    for path in ("queue/join", "run/predict"):
        kind = {"Content-Type": "application/json"}
        status, _, answer = site.visitor.ask("POST", f"/gradio_api/{path}", body, **kind)
        assert status == 422
        assert json.loads(answer)["detail"].startswith(("fn_index must be", "This function takes"))


def test_a_call_that_is_too_long_is_refused(site):
    body = b" " * (MAX_BODY_BYTES + 1)
    kind = {"Content-Type": "application/json"}
    assert site.visitor.ask("POST", "/gradio_api/queue/join", body, **kind)[0] == 413


# Listeners


def images_drawn(site) -> int:
    return site.handlers.studio.pipeline.model.cache_statistics.images


@pytest.mark.slow
def test_requests_that_nobody_listens_to_are_not_drawn(site):
    """As many as the queue has places; and they keep none of them."""
    assert "Done." in last_words(site, drawing(1))
    before = site.files(), images_drawn(site)
    for seed in range(20):
        status, _ = Visitor(site.address).join(site.draw, drawing(seed))
        assert status == 200
    assert "Done." in last_words(site, drawing(1))  # at once, past all of them
    time.sleep(2 * GRACE_S)
    assert site.handlers.studio._worker.waiting == 0
    assert images_drawn(site) == before[1]
    shown = site.files() - before[0]
    assert len([path for path in shown if path.is_dir()]) == 1


def test_a_drawing_stops_when_nobody_listens_any_more(site, monkeypatch):
    stages = []
    studio = site.handlers.studio
    generate = type(studio.pipeline.model).generate_feature_map

    def slow(model, *arguments, callback, **options):
        def on_stage(si, number):
            stages.append(si)
            time.sleep(0.5)
            callback(si, number)

        return generate(model, *arguments, callback=on_stage, **options)

    monkeypatch.setattr(type(studio.pipeline.model), "generate_feature_map", slow)
    leaving, waiting = Visitor(site.address), Visitor(site.address)
    leaving.join(site.draw, drawing(1))
    with leaving.listening() as messages:
        next(m for m in messages if "stage of" in json.dumps(m))
        waiting.join(site.draw, drawing(3))
        with waiting.listening() as others:
            next(m for m in others if "1 before this one" in json.dumps(m))
            assert studio._worker.waiting == 1
        deadline = time.monotonic() + 30
        while studio._worker.waiting and time.monotonic() < deadline:
            next(messages)
        assert studio._worker.waiting == 0  # who left while waiting is out of the queue
        assert len(stages) < len(studio.pipeline.model.patch_nums)
    monkeypatch.undo()
    assert "Done." in last_words(site, drawing(1))
    assert len(stages) < len(studio.pipeline.model.patch_nums)


# Who may come, and what they may do


def test_without_calibration_there_is_no_function_for_it(handlers):
    pytest.importorskip("gradio")
    ids, functions = {}, {}
    for calibration in (True, False):
        page = build_page(handlers, PageOptions(["a"], ["a"], calibration=calibration))
        config = page.get_config_file()
        ids[calibration] = {part["props"].get("elem_id") for part in config["components"]}
        functions[calibration] = sum(f["queue"] and f["backend_fn"] for f in config["dependencies"])
    shared = {"calibrate-button", "first-table", "similarity", "tune-button"}
    assert shared | {"draw-button"} <= ids[True]
    assert shared.isdisjoint(ids[False])
    assert functions == {True: 4, False: 1}  # to draw; to find plans, to calibrate, to restore


def test_a_password_and_a_proxy(handlers):
    pytest.importorskip("gradio")
    page = build_page(handlers, PageOptions(["a"], ["a"]))
    where = Address(
        port=free_port(),
        auth=("somebody", "gehéim"),
        root_path="/hart",
        allowed_hosts=["hart.example"],
    )
    with serving(page, handlers, where) as address:
        stranger = Visitor(address, headers={"Host": "hart.example"})
        for path in ("/config", "/gradio_api/info", "/gradio_api/queue/data?session_hash=x"):
            assert stranger.ask("GET", path)[0] == 401, path
        known = [f for f in page.get_config_file()["dependencies"] if f["backend_fn"]]
        assert stranger.join(known[0]["id"], [0] * len(known[0]["inputs"]))[0] == 401
        status, _, body = stranger.ask("GET", "/")
        assert status in (200, 401)
        assert b"draw-button" not in body  # only the form that asks for the password
        form = {"Content-Type": "application/x-www-form-urlencoded"}

        def log_in(password: str):
            fields = urllib.parse.urlencode({"username": "somebody", "password": password})
            return stranger.ask("POST", "/login", fields.encode(), **form)

        assert log_in("wrong")[0] == 400
        status, headers, _ = log_in("gehéim")
        assert status == 200
        cookie = "; ".join(c.split(";")[0] for c in headers.get_all("Set-Cookie"))
        status, _, config = stranger.ask(
            "GET", "/config", Cookie=cookie, **{"X-Forwarded-Proto": "https"}
        )
        assert status == 200
        assert json.loads(config)["root"] == "https://hart.example/hart"
