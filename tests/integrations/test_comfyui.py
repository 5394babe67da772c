"""The nodes for ComfyUI, with a stand-in for it and a tiny model."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hart.modules.networks.caching.similarity import SimilarityTables
from hart.pipeline import HARTPipeline
from hart.version import __version__
from tests.integrations.comfy_stand_in import (
    PACKAGE,
    Comfy,
    InterruptedByComfyError,
    import_nodes,
)
from tests.pipeline.checkpoint_folder import DEPTH, PATCH_NUMS, make_checkpoint

if sys.version_info >= (3, 11):
    import tomllib

BUILT_IN = {"PreviewImage", "PreviewAny"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = make_checkpoint(tmp_path_factory.mktemp("comfy") / "tiny")
    (folder / "system_prompt.txt").touch()
    return folder


@pytest.fixture
def comfy(checkpoint, tmp_path, monkeypatch) -> Comfy:
    shutil.copytree(checkpoint, tmp_path / "models" / "hart" / "tiny")
    return Comfy(tmp_path / "models", monkeypatch)


@pytest.fixture
def nodes(comfy, monkeypatch) -> SimpleNamespace:
    """The nodes by their ids."""
    extension = asyncio.run(import_nodes(monkeypatch).comfy_entrypoint())
    classes = asyncio.run(extension.get_node_list())
    return SimpleNamespace(**{node.define_schema().node_id: node for node in classes})


def test_it_imports_without_comfyui(monkeypatch):
    monkeypatch.setitem(sys.modules, "comfy_api", None)
    module = import_nodes(monkeypatch)
    with pytest.raises(ImportError):
        asyncio.run(module.comfy_entrypoint())


def test_checkpoints_are_those_in_comfyuis_folder(nodes, comfy):
    (comfy.models_dir / "hart" / "something else").mkdir()
    combo = nodes.LoadHART.define_schema().inputs[0]
    assert combo.options == ["bundled demo", "tiny"]
    with pytest.raises(
        ValueError, match=r"no checkpoint '\.\./tiny'; there are bundled demo, tiny"
    ):
        nodes.LoadHART.execute("../tiny", "auto")


def test_a_model_is_loaded_once(nodes):
    (first,), (second,) = (nodes.LoadHART.execute("tiny", "float32") for _ in range(2))
    assert first.pipeline is second.pipeline
    (other,) = nodes.LoadHART.execute("tiny", "bfloat16")
    assert other.pipeline.dtype == torch.bfloat16


def test_pictures_are_the_pipelines(nodes, comfy, checkpoint):
    (model,) = nodes.LoadHART.execute("tiny", "float32")
    images, summary = nodes.HARTDraw.execute(model, "a fox", 3, 2.5, 5)
    assert (images.dtype, images.shape[0], images.shape[3]) == (torch.float32, 5, 3)
    pipeline = HARTPipeline.from_pretrained(checkpoint, device="cpu")
    expected = pipeline("a fox", seed=3, cfg_scale=2.5, num_images_per_prompt=5, quiet=True)
    for image, other in zip(images, expected.images, strict=True):
        assert np.array_equal((image * 255).round().numpy(), np.asarray(other))
    assert (comfy.done, comfy.total) == (2 * len(PATCH_NUMS), 2 * len(PATCH_NUMS))
    assert "0 of" in summary


def test_a_preset_reuses_once_there_is_a_table(nodes):
    (model,) = nodes.LoadHART.execute("tiny", "float32")
    (cached,) = nodes.HARTCache.execute(model, "aggressive")
    _, summary = nodes.HARTDraw.execute(cached, "a fox", 1, 4.5, 1)
    assert "nothing was reused: " in summary
    measured, told = nodes.HARTCalibrate.execute(cached, "a fox\n# a comment\n\na dog\n", 1)
    assert told == "similarities measured on 2 images"
    assert measured.config == cached.config
    assert measured.similarity.images == 2
    table = [[0.95] * measured.pipeline.transformer.schedule.width for _ in range(DEPTH)]
    similar = replace(measured, similarity=SimilarityTables(table, table, images=2))
    _, summary = nodes.HARTDraw.execute(similar, "a fox", 1, 4.5, 1)
    assert re.search(r"[1-9][\d.]* of [\d.]+ modules reused per image", summary)
    assert "nothing was reused" not in summary
    # the pipeline, which they share, is as it was
    assert model.similarity.images == 0
    assert model.pipeline.transformer.similarity is model.similarity
    assert model.pipeline.transformer.cache_config == model.config


def test_bad_prompts_name_their_line(nodes):
    (model,) = nodes.LoadHART.execute("tiny", "float32")
    with pytest.raises(ValueError, match="line 2"):
        nodes.HARTCalibrate.execute(model, "a fox\na \x07 dog", 1)


def test_the_button_stops_it(nodes, comfy):
    (model,) = nodes.LoadHART.execute("tiny", "float32")
    comfy.interrupt_at = 2
    with pytest.raises(InterruptedByComfyError):
        nodes.HARTDraw.execute(model, "a fox", 1, 4.5, 1)
    assert comfy.done == 2
    comfy.interrupt_at = None
    assert len(nodes.HARTDraw.execute(model, "a fox", 1, 4.5, 1)[0]) == 1


def test_the_workflow_fits_the_nodes(nodes):
    file = PACKAGE / "example_workflows" / "draw.json"
    workflow = json.loads(file.read_text("utf-8"))
    by_id = {node["id"]: node for node in workflow["nodes"]}
    for node in workflow["nodes"]:
        if node["type"] in BUILT_IN:
            continue
        schema = getattr(nodes, node["type"]).define_schema()
        names = [(each.id, each.type) for each in schema.inputs]
        wired = [(each["name"], each["type"]) for each in node["inputs"]]
        assert [name for name in names if name in wired] == wired
        widgets = [each for each in schema.inputs if (each.id, each.type) not in wired]
        values = [each for each in node["widgets_values"] if each != "randomize"]
        assert len(values) == len(widgets)
        for widget, value in zip(widgets, values, strict=True):
            assert value in getattr(widget, "options", [value])
        outputs = [(each["name"], each["type"]) for each in node["outputs"]]
        assert outputs == [(each.display_name, each.type) for each in schema.outputs]
    for number, source, slot, target, entry, kind in workflow["links"]:
        assert number in by_id[source]["outputs"][slot]["links"]
        assert by_id[source]["outputs"][slot]["type"] == kind
        assert by_id[target]["inputs"][entry]["link"] == number


@pytest.mark.skipif(sys.version_info < (3, 11), reason="there is no tomllib")
def test_the_registry_takes_the_project_file():
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text("utf-8"))
    name = project["project"]["name"]
    assert re.fullmatch(r"[a-z][a-z0-9]*([-_.][a-z0-9]+)*", name)
    assert "comfyui" not in name
    assert project["project"]["version"] == __version__
    assert "Repository" in project["project"]["urls"]
    assert {"PublisherId", "DisplayName", "Icon"} <= set(project["tool"]["comfy"])
