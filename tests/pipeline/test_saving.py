"""What is saved and loaded again draws the same pictures and keeps its table."""

from __future__ import annotations

import json

import accelerate
import peft
import pytest
import torch

from hart.evaluation.random_weights import random_pipeline
from hart.modules.models.transformer.hart_transformer_t2i_enhanced import HARTForT2IEnhanced
from hart.modules.networks.basic_hart_enhanced import CacheConfig
from hart.pipeline import HARTPipeline, VARPipeline
from tests.pipeline.checkpoint_folder import STAGES
from tests.product import product
from tests.tiny_models import draw, fill, tiny_model
from tests.var.checkpoint import make_var_checkpoint

CACHE = CacheConfig(skip_stages=STAGES[-2:], cache_stages=STAGES[-3:-1], threshold=0.3)


def pictures(pipeline, conditions, **options) -> list[bytes]:
    output = pipeline(conditions, seed=3, quiet=True, **options)
    return [image.tobytes() for image in output.images]


@pytest.fixture
def model():
    model = tiny_model(HARTForT2IEnhanced)
    model.set_cache_config("original")
    model.calibration = True
    draw(model)
    model.calibration = False
    return model


def test_a_model_keeps_its_table(model, tmp_path):
    model.save_pretrained(tmp_path / "llm")
    loaded = HARTForT2IEnhanced.from_pretrained(tmp_path / "llm", vae=model.vae_proxy[0])
    assert not loaded.similarity.is_empty
    assert loaded.similarity == model.similarity
    assert loaded.similarity_path == tmp_path / "llm" / "cache_similarity.json"
    assert loaded.cache_config == model.cache_config
    assert draw(loaded).equal(draw(model))


def test_the_table_in_memory_is_saved_and_not_the_file_it_once_came_from(model, tmp_path):
    model.save_similarity_data(tmp_path / "old.json")
    model.config.sim_path = str(tmp_path / "old.json")
    fill(model, 0.125)
    model.save_pretrained(tmp_path / "llm")
    loaded = HARTForT2IEnhanced.from_pretrained(tmp_path / "llm")
    assert loaded.cache_similarity_attn[0][0] == 0.125
    assert model.config.sim_path == str(tmp_path / "old.json")


def test_a_model_without_a_table_leaves_none_behind(model, tmp_path):
    model.save_pretrained(tmp_path / "llm")
    model.clear_similarity_data()
    assert model.similarity_path is None
    model.save_pretrained(tmp_path / "llm")
    assert HARTForT2IEnhanced.from_pretrained(tmp_path / "llm").similarity.is_empty


def test_an_assumed_table_is_not_saved_as_if_it_were_measured(model, tmp_path):
    model.similarity.assumed = True
    model.save_pretrained(tmp_path / "llm")
    assert HARTForT2IEnhanced.from_pretrained(tmp_path / "llm").similarity.is_empty


def test_a_damaged_table_beside_the_weights_is_ignored_with_one_warning(model, tmp_path):
    model.save_pretrained(tmp_path / "llm")
    (tmp_path / "llm" / "cache_similarity.json").write_text("{")
    with pytest.warns(UserWarning, match="ignored") as caught:
        loaded = HARTForT2IEnhanced.from_pretrained(tmp_path / "llm")
    assert len(caught) == 1
    assert loaded.similarity.is_empty


@product(1, dtype=["bfloat16", "float32"])
def test_a_pipeline_is_saved_as_a_checkpoint(shared_checkpoint, tmp_path, dtype):
    pipeline = HARTPipeline.from_pretrained(
        shared_checkpoint, device="cpu", dtype=dtype, cache=CACHE, system_prompt="Draw:\r\n"
    )
    pipeline.calibrate(["a fox"], quiet=True)
    pipeline.save_pretrained(tmp_path / "saved")
    loaded = HARTPipeline.from_pretrained(tmp_path / "saved", device="cpu", dtype=dtype)
    assert loaded.system_prompt == "Draw:\r\n"
    assert loaded.model.cache_config == CACHE
    assert loaded.model.similarity == pipeline.model.similarity
    assert not pipeline.model.similarity.is_empty
    assert pictures(loaded, ["a fox", "a hen"]) == pictures(pipeline, ["a fox", "a hen"])
    assert loaded.model.cache_statistics.total().reused > 0


def test_a_saved_pipeline_refers_to_nothing_outside(checkpoint, tmp_path):
    """Its autoencoder is the saved one, also if the old one was named by a path."""
    config_file = checkpoint / "llm" / "config.json"
    config = json.loads(config_file.read_text())
    config_file.write_text(json.dumps({**config, "vae_path": str(checkpoint / "tokenizer")}))
    pipeline = HARTPipeline.from_pretrained(checkpoint, device="cpu")
    pipeline.model.use_cache = False
    pipeline.save_pretrained(tmp_path / "saved")
    assert pipeline.model.config.vae_path == str(checkpoint / "tokenizer")
    loaded = HARTPipeline.from_pretrained(tmp_path / "saved", device="cpu")
    assert loaded.folders.autoencoder == tmp_path / "saved" / "tokenizer"
    assert loaded.model.use_cache is False


def test_averaged_weights_of_another_model_are_not_left_to_be_loaded(pipeline, tmp_path):
    (tmp_path / "llm").mkdir()
    (tmp_path / "llm" / "ema_model.bin").touch()
    with pytest.raises(ValueError, match=r"ema_model.bin would be read"):
        pipeline.save_pretrained(tmp_path)


def test_what_cannot_be_saved_says_so(tmp_path):
    with pytest.raises(TypeError, match="RandomTextEncoder cannot be saved"):
        random_pipeline("tiny", 0, "cpu", "float32").save_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == []


def adapt(part: torch.nn.Module) -> None:
    name = next(
        n for n, m in part.named_modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)
    )
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=[name]), part)


def offload(part: torch.nn.Module) -> None:
    accelerate.cpu_offload(part, torch.device("cpu"))


@product(part=["transformer", "autoencoder"], kind=["hart", "var"], change=[adapt, offload])
def test_what_could_not_be_loaded_again_is_not_saved(pipeline, tmp_path, part, kind, change):
    if kind == "var":
        pipeline = VARPipeline.from_pretrained(make_var_checkpoint(tmp_path / "var"), device="cpu")
    model = pipeline.transformer
    change(model if part == "transformer" else model.vae_proxy[0])
    with pytest.raises(ValueError, match=r"is offloaded|is missing.*merge adapters"):
        pipeline.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


# --- VAR ----------------------------------------------------------------------------------------


@pytest.fixture
def var(tmp_path):
    checkpoint = make_var_checkpoint(tmp_path / "var")
    return VARPipeline.from_pretrained(checkpoint, device="cpu", cache="original")


@pytest.mark.slow
def test_a_var_pipeline_is_saved_as_such_checkpoints_are_published(var, tmp_path):
    var.calibrate([1], quiet=True)
    var.save_pretrained(tmp_path / "saved")
    name = var.folders.transformer.name
    assert (tmp_path / "saved" / name).is_file()
    loaded = VARPipeline.from_pretrained(tmp_path / "saved", device="cpu", cache="original")
    assert loaded.model.similarity == var.model.similarity
    assert loaded.similarity_path.parent == tmp_path / "saved"
    assert pictures(loaded, [1, 2]) == pictures(var, [1, 2])


def test_a_folder_with_another_var_model_is_refused(var, tmp_path):
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "var_d99.pth").touch()
    with pytest.raises(ValueError, match=r"holds another model's var_d99.pth"):
        var.save_pretrained(tmp_path / "saved")


def test_what_weights_do_not_tell_is_refused(var, tmp_path):
    var.model.config.norm_eps = 1e-3
    with pytest.raises(ValueError, match=r"norm_eps is 0.001, but VAR's files hold weights alone"):
        var.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_weights_are_saved_as_they_are(var, tmp_path):
    before = {key: value.clone() for key, value in var.model.state_dict().items()}
    var.save_pretrained(tmp_path / "saved")
    state = torch.load(tmp_path / "saved" / var.folders.transformer.name, weights_only=True)
    assert state.keys() == before.keys()
    assert all(torch.equal(state[key], before[key]) for key in before)
