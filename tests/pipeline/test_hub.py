"""Hub names and folders take the same parameters. No hub is reached: fetched models are local."""

from __future__ import annotations

import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch

from hart.modules.models.transformer.hart_transformer_t2i import HARTForT2I
from hart.modules.models.transformer.hart_transformer_t2i_enhanced import HARTForT2IEnhanced
from hart.modules.models.transformer.var_transformer_c2i_enhanced import VARForC2IEnhanced
from hart.pipeline import HARTPipeline, VARPipeline
from hart.utils.hub import local_path
from hart.utils.weights import CheckpointError
from tests.pipeline.checkpoint_folder import make_checkpoint
from tests.tiny_models import tiny_vae
from tests.var.checkpoint import make_var_checkpoint

NAME = "someone/hart-tiny"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory) -> Path:
    """A hub cache as the client lays it out, with a model in the revision ``v2``."""
    cache = tmp_path_factory.mktemp("hub")
    repository = cache / "models--someone--hart-tiny"
    make_checkpoint(repository / "snapshots" / COMMIT / "inside")
    (repository / "refs").mkdir()
    (repository / "refs" / "v2").write_text(COMMIT)
    return cache


@pytest.fixture
def hub(cache_dir):
    """Keywords that find the model in the cache."""
    return {"cache_dir": cache_dir, "revision": "v2", "local_files_only": True}


@pytest.fixture
def root(cache_dir) -> Path:
    return cache_dir / "models--someone--hart-tiny" / "snapshots" / COMMIT


def test_a_model_in_the_clients_own_cache(hub, root):
    assert local_path(NAME, **hub) == root
    assert local_path(NAME, subfolder="inside/llm", **hub) == root / "inside" / "llm"
    with pytest.raises(CheckpointError, match=r"someone/hart-tiny: no such folder, and it could"):
        local_path(NAME, **{**hub, "revision": "v3"})
    with pytest.raises(CheckpointError, match=r"outside: no such folder"):
        local_path(NAME, subfolder="outside", **hub)


@pytest.mark.parametrize("model_class", [HARTForT2I, HARTForT2IEnhanced])
def test_a_transformer_by_name_is_the_transformer_from_its_folder(hub, root, model_class):
    options = {
        "dtype": torch.bfloat16,
        "device": "cpu",
        "cond_drop_rate": 0.25,
        "output_loading_info": True,
    }
    found, info = model_class.from_pretrained(NAME, subfolder="inside/llm", **hub, **options)
    expected, expected_info = model_class.from_pretrained(root / "inside" / "llm", **options)
    assert info == expected_info
    assert found.dtype == torch.bfloat16
    assert found.config.to_dict() == expected.config.to_dict()
    assert found.vae_proxy[0].config.ch_mult == (1, 1)
    for (name, value), other in zip(
        found.state_dict().items(), expected.state_dict().values(), strict=True
    ):
        assert torch.equal(value, other), name


def test_an_autoencoder_is_attached_to_either(hub, root):
    vae = HARTForT2I.from_pretrained(root / "inside" / "llm").vae_proxy[0]
    for place, options in ((NAME, hub), (root, {})):
        model = HARTForT2I.from_pretrained(place, subfolder="inside/llm", vae=vae, **options)
        assert model.vae_proxy[0] is vae
    with pytest.raises(ValueError, match="vocab_size"):
        HARTForT2I.from_pretrained(NAME, subfolder="inside/llm", vae=tiny_vae(), **hub)


def test_averaged_weights_are_asked_for_alike(hub, root):
    for place, options in ((NAME, hub), (root, {})):
        with pytest.raises(CheckpointError, match="ema_model"):
            HARTForT2I.from_pretrained(place, subfolder="inside/llm", use_ema=True, **options)


@pytest.mark.parametrize("keyword", ["device_map", "gguf_file"])
def test_what_neither_takes_is_refused_alike(hub, root, keyword):
    for place, options in ((NAME, hub), (root, {})):
        with pytest.raises(TypeError, match=f"does not take '{keyword}'"):
            HARTForT2I.from_pretrained(
                place, subfolder="inside/llm", **options, **{keyword: "auto"}
            )


def test_a_pipeline_by_name_draws_what_its_folder_draws(hub, root):
    options = {"device": "cpu", "dtype": "bfloat16", "cache": "original", "system_prompt": ""}
    options |= {"use_ema": False, "subfolder": "inside"}
    by_name = HARTPipeline.from_pretrained(NAME, **options, **hub)
    by_folder = HARTPipeline.from_pretrained(root, **options)
    assert by_name.dtype == torch.bfloat16
    assert by_name.model.cache_config == by_folder.model.cache_config
    pictures = [p("a fox", quiet=True).images[0].tobytes() for p in (by_name, by_folder)]
    assert pictures[0] == pictures[1]


def test_an_unknown_option_is_named():
    with pytest.raises(TypeError, match="unknown option 'revison'; known are subfolder, revision"):
        HARTPipeline.from_pretrained(NAME, revison="v2")


def test_a_name_in_parsed_arguments_is_no_reason_for_fresh_weights(monkeypatch, root):
    fetched = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", _local(root / "inside/llm", fetched))
    parser = HARTForT2IEnhanced.add_cache_arguments(_parser())
    args = parser.parse_args(["--model_path", NAME])
    config = HARTForT2I.from_pretrained(root / "inside" / "llm").config
    model = HARTForT2IEnhanced.from_args_and_config(args, config)
    expected = HARTForT2I.from_pretrained(root / "inside" / "llm")
    assert torch.equal(model.head.weight, expected.head.weight)
    assert fetched == [(NAME, {})]


def _parser():
    import argparse

    parser = argparse.ArgumentParser()
    parser.add_argument("--model_path")
    return parser


def _local(folder: Path, fetched: list):
    def snapshot_download(name, **options):
        fetched.append((name, options))
        return str(folder)

    return snapshot_download


@pytest.mark.slow
def test_var_by_name(monkeypatch, tmp_path):
    folder = make_var_checkpoint(tmp_path / "var")
    fetched = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", _local(folder, fetched))
    file = next(file.name for file in folder.glob("var*.pth"))
    expected = VARPipeline.from_pretrained(folder / file, device="cpu")
    for place in ("someone/var-tiny", f"someone/var-tiny/{file}"):
        found = VARPipeline.from_pretrained(place, device="cpu", revision="v2", token="secret")
        assert torch.equal(found.model.head.weight, expected.model.head.weight)
        model = VARForC2IEnhanced.from_pretrained(place, torch_dtype="bfloat16", revision="v2")
        assert model.dtype == torch.bfloat16
    whole, one = {"revision": "v2"}, {"revision": "v2", "allow_patterns": [file, "vae*.pth"]}
    secret = {"token": "secret"}
    assert fetched == [
        ("someone/var-tiny", whole | secret),
        ("someone/var-tiny", whole),
        ("someone/var-tiny", one | secret),
        ("someone/var-tiny", one),
    ]
    with pytest.raises(CheckpointError, match="a VAR checkpoint"):
        HARTPipeline.from_pretrained("someone/var-tiny")


def test_a_subfolder_of_var_files(tmp_path):
    make_var_checkpoint(tmp_path / "repository" / "d16")
    pipeline = VARPipeline.from_pretrained(tmp_path / "repository", "cpu", subfolder="d16")
    assert pipeline.folders.transformer.parent.name == "d16"
    shutil.rmtree(tmp_path / "repository" / "d16")
    with pytest.raises(CheckpointError, match="d16: no such folder"):
        VARPipeline.from_pretrained(tmp_path / "repository", "cpu", subfolder="d16")
