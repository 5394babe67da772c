"""The page in a real browser: draw, compare, cancel, mistakes, two people at once."""

from __future__ import annotations

import io
import json
import re
import threading
import urllib.error
import urllib.request
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.page_soak import free_port
from hart.modules.networks.caching.presets import preset_config
from hart.web.handlers import Handlers
from hart.web.page import PageOptions, build_page
from hart.web.server import Address, serving
from hart.web.studio import Studio
from tests.pipeline.checkpoint_folder import STAGES
from tests.web.browser import Person, open_chromium
from tests.web.conftest import similar_pipeline

pytestmark = pytest.mark.slow

PROMPT, OTHER = "a red fox", "two boats"
MANY = "\n".join(f"prompt {i}" for i in range(600))
OPTIONS = PageOptions([PROMPT, OTHER], [PROMPT, OTHER], max_waiting=1)


class Site:
    """The page on a tiny model, and the folder that it serves files from."""

    def __init__(self, checkpoint: Path, folder: Path) -> None:
        self.pipeline = similar_pipeline(checkpoint)
        self.folder = folder
        self.checkpoint = checkpoint
        self.address = ""

    def fetch(self, link: str) -> bytes:
        with urllib.request.urlopen(link, timeout=30) as answer:
            return answer.read()


@pytest.fixture(scope="module")
def site(tmp_path_factory, web_checkpoint):
    pytest.importorskip("gradio")
    site = Site(web_checkpoint, tmp_path_factory.mktemp("served"))
    studio = Studio(site.pipeline, max_waiting=OPTIONS.max_waiting)
    handlers = Handlers(studio, "a tiny model", site.folder, max_images=600)
    page = build_page(handlers, OPTIONS)
    with serving(page, handlers, Address(port=free_port())) as address:
        site.address = address
        yield site


@pytest.fixture(scope="module")
def chromium():
    driver = open_chromium()
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def first(site, chromium):
    """Somebody who stays on the page for all tests: it lives on, whatever happened before."""
    return Person(chromium, site.address)


def download(site: Site, person: Person) -> zipfile.ZipFile:
    """The archive of everything."""
    picture = person.run("return document.querySelector('#gallery img').src")
    assert person.text("#download") == "Download everything"
    return zipfile.ZipFile(io.BytesIO(site.fetch(f"{picture.rpartition('/')[0]}/all.zip")))


def test_a_drawing_appears_stage_by_stage_and_can_be_downloaded(site, first):
    first.run(
        "window.seen = []; const strip = document.getElementById('strip');"
        "new MutationObserver(() => seen.push(strip.querySelectorAll('figure').length))"
        ".observe(strip, {childList: true, subtree: true, characterData: true})"
    )
    first.draw(PROMPT, seed=5)
    first.wait_for("Done. 1 picture, balanced.")
    assert first.count("#strip figure") == len(STAGES)
    assert len({*first.run("return seen")} - {0, len(STAGES)}) >= 2
    assert "6 of 36" in first.text("#cards")
    assert first.count("#cards .hart-bar .hart-reuse") == 1
    assert first.count("#tables .hart-map td[title$=' reused']") == 6
    assert not first.count("#samples figure")
    with download(site, first) as archive:
        names = {"000-balanced.png", "stages.csv", "images.csv", "report.json"}
        assert names <= set(archive.namelist())
        picture = Image.open(io.BytesIO(archive.read("000-balanced.png")))
        report = json.loads(archive.read("report.json"))
    assert (picture.text["prompt"], picture.text["seed"]) == (PROMPT, "5")
    assert report["runs"]["balanced"]["statistics"]["images"] == 1
    site.pipeline.model.set_cache_config("original")
    expected = site.pipeline(PROMPT, seed=5).images[0]
    assert np.array_equal(np.asarray(picture), np.asarray(expected))


def test_a_comparison_shows_both_and_their_distance(site, first):
    first.click("#compare input")
    first.draw(f"{PROMPT}\n{OTHER}", seed=2)
    first.wait_for("Done.")
    assert "PSNR" in first.text("#cards")
    first.wait(lambda: first.count("#gallery .grid-container img") == 6, "three pictures each")
    assert "SSIM" in first.text("#cards")
    seen = "return [...document.querySelectorAll('#compared img')].map(img => img.src.slice(-16))"
    assert {name[3:] for name in first.run(seen)} == {"-balanced.png", "-no-cache.png"}
    before = first.run(seen)
    first.click("#which input[value='2']")
    first.wait(lambda: first.run(seen) != before, "the second picture")
    assert all("001" in name for name in first.run(seen))
    with download(site, first) as archive:
        assert {"001-balanced.png", "001-no-cache.png", "001-difference.png"} <= set(
            archive.namelist()
        )
        (row, _) = json.loads(archive.read("report.json"))["distance_from_no_cache"]
    assert 0 < row["psnr_db"] < 100
    first.click("#compare input")


@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_the_window(first, width):
    """After the comparison, with everything on the page."""
    screen = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
    driver = first.look()
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    window, content = first.run("return [innerWidth, document.documentElement.scrollWidth]")
    assert content <= window == width  # on a phone, content that is too wide widens the window
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_mistake_is_explained_and_the_page_lives_on(first):
    first.draw(PROMPT, seed=-1)
    said = first.wait_for("seed")
    assert said == "The seed must be a whole number from 0 to 9007199254740991, got -1."
    first.draw("")
    first.wait_for("Write at least one prompt")
    assert first.count("#draw-status [role=alert]") == 1
    assert not first.count("#gallery img")  # nothing of the last drawing stays under it
    assert not first.text("#cards")
    first.draw(PROMPT)
    first.wait_for("Done.")


def open_expert_settings(person: Person) -> None:
    """The fields are drawn when they are unfolded, which another test may have done."""
    if not person.count("#threshold input"):
        person.click("#expert button")
    person.wait(lambda: person.count("#threshold input"), "the expert settings")


def quality(person: Person) -> str:
    return person.run("return document.querySelector('#quality input:checked').value")


def test_a_choice_fills_the_fields_in_and_a_change_makes_it_custom(first):
    boxes = ":is(#stages, #sites) input:checked"
    open_expert_settings(first)
    first.wait(lambda: first.count(boxes) == 4, "two stages and two sites")
    first.click("#quality input[value=high]")
    first.wait(lambda: first.count(boxes) == 3, "one stage less")
    assert "the preset conservative" in first.text("#about-quality")
    first.choose("#base", "attn-only")
    first.wait(lambda: "attn-only as set below" in first.text("#about-quality"), "the words")
    assert (quality(first), first.count(boxes)) == ("custom", 3)
    first.draw(PROMPT)
    first.wait_for("Done. 1 picture, attn-only.")
    first.click(boxes)
    first.wait(lambda: first.count(boxes) == 2, "the box")
    first.draw(PROMPT)
    first.wait_for("Done. 1 picture, custom.")
    first.click("#quality input[value=balanced]")
    first.wait(lambda: first.count(boxes) == 4, "the level's fields")


def test_custom_caching_changes_the_preset_and_loses_nothing_of_it(site, first):
    open_expert_settings(first)
    first.choose("#base", "hybrid")
    threshold = "#threshold input"
    first.wait(
        lambda: first.run(f"return document.querySelector('{threshold}')?.value") == "0.8",
        "the preset's threshold",
    )
    first.fill(threshold, "0.79")
    first.draw(PROMPT)
    first.wait_for("Done. 1 picture, custom.")
    with download(site, first) as archive:
        report = json.loads(archive.read("report.json"))
    preset = preset_config("hybrid", site.pipeline.model.patch_nums).to_dict()
    assert {"prune_stages", "guidance_stop_stage", "compute_mlp_layers"} < set(preset)
    assert report["runs"]["custom"]["cache_config"] == {**preset, "threshold": 0.79}
    first.click("#quality input[value=balanced]")
    first.wait(lambda: quality(first) == "balanced", "the level")


def test_a_picture_gives_its_settings_back_without_being_sent(site, first, tmp_path):
    """The browser reads them; the server refuses files whatever the page does."""
    first.draw("zwei Bären\u2026", seed=77)
    first.wait_for("Done.")
    file = tmp_path / "picture.png"
    with download(site, first) as archive:
        file.write_bytes(archive.read("000-balanced.png"))
    first.fill("#prompts textarea", PROMPT)
    first.fill("#seed input", "1")
    first.click("#quality input[value=fast]")
    first.wait(lambda: "aggressive" in first.text("#about-quality"), "another level")
    (field,) = first.all("#restore input")
    field.send_keys(str(file))
    first.wait(lambda: quality(first) == "balanced", "the level of the picture")
    values = "return ['#prompts textarea', '#seed input'].map(s => document.querySelector(s).value)"
    assert first.run(values) == ["zwei Bären\u2026", "77"]
    Image.new("RGB", (8, 8)).save(file)
    field.send_keys(str(file))
    first.wait_for("does not say how it was drawn", "#restored")


def test_another_seed_is_a_click_away(first):
    first.fill("#seed input", "1")
    first.click("#seed button")
    seed = "return Number(document.querySelector('#seed input').value)"
    first.wait(lambda: first.run(seed) not in (0, 1), "another seed")


def test_two_people_at_once_a_third_is_turned_away_and_cancel_makes_room(site, first, chromium):
    second, third = Person(chromium, site.address), Person(chromium, site.address)
    first.draw(MANY)
    first.wait_for("of 600")
    second.draw(OTHER, seed=9)
    second.wait(lambda: re.search(r"\ds", second.text("#draw-status")), "the queue's clock")
    assert not second.count("#gallery img")
    third.draw(PROMPT)
    third.wait(lambda: "currently busy" in third.text("body"), "being turned away")
    first.click("#draw-cancel")
    first.wait_for("Cancelled.")
    second.wait_for("Done.")
    assert "Cancelled." in first.text("#draw-status")  # no late update of its job came over it
    with download(site, second) as archive:
        picture = Image.open(io.BytesIO(archive.read("000-balanced.png")))
    assert (picture.text["prompt"], picture.text["seed"]) == (OTHER, "9")
    third.draw(PROMPT, seed=4)
    first.draw(OTHER, seed=4)
    assert "Done." in third.wait_for("Done.")
    assert "Done." in first.wait_for("Done.")
    second.leave()
    third.leave()


def test_somebody_who_leaves_does_not_keep_the_model(site, first, chromium):
    leaving = Person(chromium, site.address)
    leaving.draw(MANY)
    leaving.wait_for("of 600")
    leaving.leave()
    first.draw(PROMPT)
    first.wait_for("Done.")


def open_tab(person: Person, name: str) -> None:
    tabs = "[...document.querySelectorAll('[role=tab]')]"
    person.run(f"{tabs}.find(tab => tab.innerText.includes(arguments[0])).click()", name)


def test_a_plan_is_found_and_offered(first):
    open_tab(first, "Find a plan")
    first.wait(lambda: first.all("#tune-button"), "the tab")
    first.fill("#target-value input", "0.3")
    first.click("#tune-button")
    first.wait_for("Done. The plan is the quality", "#tune-status")
    assert first.count("#plan .hart-map td[title$=' reused']") > 0
    assert "saved_share" in first.text("#plan")
    open_tab(first, "Draw")
    first.wait(lambda: first.count("#quality input[value=tuned]"), "the plan among the levels")
    first.click("#quality input[value=tuned]")
    first.wait(lambda: "of the work saved" in first.text("#about-quality"), "its figures")
    first.draw(PROMPT)
    first.wait_for("Done. 1 picture, tuned.")


def test_calibration_shows_progress_and_the_heat_map(site, first):
    open_tab(first, "Calibrate")
    first.wait(lambda: first.all("#calibrate-button"), "the tab")
    first.click("#calibrate-button")
    first.wait_for("Done: the table of 2 images is in use", "#calibrate-status")
    first.wait(lambda: first.count("#similarity img"), "the heat map")
    assert "similarities of 2 images" in first.text("#about")
    link = first.run("return document.querySelector('#similarity img').src")
    stored = json.loads(site.fetch(f"{link.rpartition('/')[0]}/cache_similarity.json"))
    assert stored["images"] == 2
    assert site.pipeline.model.similarity.attn[0][0] != 0.9
    first.click("#first-table")
    first.wait_for("is in use again", "#calibrate-status")
    assert site.pipeline.model.similarity.attn[0][0] == 0.9


def test_files_elsewhere_are_not_served(site):
    config = site.checkpoint / "llm" / "config.json"
    for path in ("/etc/passwd", config, __file__, f"{site.folder}/../{config}", "pyproject.toml"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            site.fetch(f"{site.address}gradio_api/file={path}")
        assert refused.value.code in (403, 404), path


class PrefixProxy(BaseHTTPRequestHandler):
    """Serves the page below /hart, and takes that off, as docs/web.md sets nginx up to."""

    port = 0

    def do_GET(self):
        if not self.path.startswith("/hart/"):
            self.send_error(404)
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or None
        address = f"http://127.0.0.1:{self.port}{self.path.removeprefix('/hart')}"
        headers = {name: value for name, value in self.headers.items() if name != "Connection"}
        asked = urllib.request.Request(address, body, headers, method=self.command)
        try:
            answer = urllib.request.urlopen(asked, timeout=60)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in ("transfer-encoding", "connection", "date", "server"):
                    self.send_header(name, value)
            self.end_headers()
            while piece := answer.read1():
                self.wfile.write(piece)
                self.wfile.flush()

    def do_POST(self):
        self.do_GET()

    def log_message(self, *arguments):
        pass


def test_it_works_below_a_path_behind_a_proxy(site, chromium, tmp_path):
    """Under a name that has to be allowed: *.localhost is this machine for a browser."""
    handlers = Handlers(Studio(site.pipeline), "a tiny model", tmp_path, max_images=1)
    port = free_port()
    where = Address(port=port, root_path="/hart", allowed_hosts=["hart.localhost"])
    handler = type("Handler", (PrefixProxy,), {"port": port})
    with (
        serving(build_page(handlers, OPTIONS), handlers, where),
        ThreadingHTTPServer(("127.0.0.1", 0), handler) as proxy,
    ):
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        visitor = Person(chromium, f"http://hart.localhost:{proxy.server_port}/hart/")
        visitor.draw(PROMPT, seed=3)
        visitor.wait_for("Done. 1 picture, balanced.")
        visitor.wait(
            lambda: visitor.run(
                "return document.querySelector('#gallery .grid-container img')?.naturalWidth"
            ),
            "the picture",
        )
        visitor.leave()
        proxy.shutdown()
