"""Metrics with weights of their own, on tiny real models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPConfig, CLIPModel

from hart.evaluation.learned_metrics import (
    CLIP_MEAN,
    CLIP_STD,
    ClipScore,
    FrechetDistance,
    LpipsDistance,
)
from hart.utils.weights import CheckpointError
from tests.pipeline.checkpoint_folder import TEXT_MODEL

POSITIONS = 10


def picture(seed: int) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = AutoTokenizer.from_pretrained(TEXT_MODEL)
    tokenizer.save_pretrained(folder)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    text = {**size, "vocab_size": len(tokenizer), "max_position_embeddings": POSITIONS}
    vision = {**size, "image_size": 32, "patch_size": 16}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = CLIPConfig(
            text_config={**text, "num_hidden_layers": 1},
            vision_config={**vision, "num_hidden_layers": 1},
            projection_dim=8,
        )
        CLIPModel(config).save_pretrained(folder)
    return folder


def test_clip_score_is_the_cosine_of_picture_and_prompt(clip_folder):
    prompt, image = "a red fox", picture(0)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    tokens = AutoTokenizer.from_pretrained(clip_folder)(prompt, return_tensors="pt")
    with torch.no_grad():
        output = CLIPModel.from_pretrained(clip_folder)(
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            pixel_values=(pixels - mean) / std,
        )
    cosine = torch.cosine_similarity(output.image_embeds, output.text_embeds).item()
    score = ClipScore(clip_folder)([image], [image], [prompt])["clip_score"]
    assert score == pytest.approx(max(100 * cosine, 0), abs=1e-3)


def test_clip_score_is_the_mean_over_pictures_and_never_negative(clip_folder):
    metric = ClipScore(clip_folder)
    images, prompts = [picture(seed) for seed in range(6)], [f"prompt {i}" for i in range(6)]
    single = [
        metric([image], [image], [prompt])["clip_score"]
        for image, prompt in zip(images, prompts, strict=True)
    ]
    assert min(single) >= 0
    mean = sum(single) / len(single)
    assert metric(images, images, prompts)["clip_score"] == pytest.approx(mean)


def test_prompts_longer_than_clips_context_are_cut(clip_folder):
    image = [picture(0)]
    assert ClipScore(clip_folder)(image, image, ["fox " * 5 * POSITIONS])["clip_score"] >= 0


def test_pictures_of_any_size_are_resized_for_clip(clip_folder):
    large = [picture(0).resize((100, 100))]
    assert ClipScore(clip_folder)(large, large, ["a fox"])["clip_score"] >= 0


def assert_refused(metric, file: Path, said: str) -> None:
    """Weights of another network, and a damaged file, are refused and named."""
    torch.save({"x": torch.ones(1)}, file)
    with pytest.raises(CheckpointError, match=said):
        metric(file)
    file.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=rf"{file.name}: not a complete file"):
        metric(file)


# --- LPIPS: only where its package is installed ---------------------------------------------


@pytest.fixture
def lpips_weights(tmp_path) -> Path:
    lpips = pytest.importorskip("lpips")
    torch.manual_seed(0)
    net = lpips.LPIPS(net="alex", pretrained=False, pnet_rand=True, verbose=False)
    torch.save(net.state_dict(), tmp_path / "lpips.pth")
    return tmp_path / "lpips.pth"


def test_lpips_grows_with_the_difference(lpips_weights):
    metric = LpipsDistance(lpips_weights)
    image, other = picture(0).resize((64, 64)), picture(1).resize((64, 64))
    assert metric([image], [image], ["a"]) == {"lpips": 0}
    assert metric([other], [image], ["a"])["lpips"] != 0
    both = metric([image, other], [image, image], ["a", "b"])["lpips"]
    assert both == pytest.approx(metric([other], [image], ["a"])["lpips"] / 2)


def test_weights_of_another_network_are_refused(lpips_weights):
    assert_refused(LpipsDistance, lpips_weights, r"lpips\.pth does not fit LPIPS")


# --- FID: only where its package is installed -----------------------------------------------


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory) -> Path:
    inception = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    file = tmp_path_factory.mktemp("inception") / "inception.pth"
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        # Its constructor insists on weights; these two lines leave it with random ones.
        patch.setattr(inception, "load_state_dict_from_url", lambda *args, **kwargs: {})
        patch.setattr(inception.FeatureExtractorInceptionV3, "load_state_dict", lambda *args: None)
        torch.manual_seed(0)
        net = inception.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
        torch.save(net.state_dict(), file)
    return file


def test_fid_compares_the_pictures_as_a_whole(inception_weights):
    metric = FrechetDistance(inception_weights)
    images, others = [picture(0), picture(1)], [picture(2).rotate(90), picture(3)]
    prompts = ["a", "b"]
    assert metric(images, images, prompts)["fid"] == pytest.approx(0, abs=1e-3)
    assert metric(images, images[::-1], prompts)["fid"] == pytest.approx(0, abs=1e-3)
    assert metric(others, images, prompts)["fid"] > 1e-3
    with pytest.raises(ValueError, match="1 picture is too few"):
        metric(images[:1], images[:1], prompts[:1])


def test_other_files_than_inceptions_weights_are_refused(inception_weights, tmp_path):
    said = r"other\.pth: not torch-fidelity's Inception"
    assert_refused(FrechetDistance, tmp_path / "other.pth", said)
