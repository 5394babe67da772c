"""Metrics that need trained weights: LPIPS, FID, CLIP score, and the demo's attribute reader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image as Pictures
from transformers import AutoModel, CLIPModel
from transformers.image_utils import OPENAI_CLIP_MEAN as CLIP_MEAN
from transformers.image_utils import OPENAI_CLIP_STD as CLIP_STD

from hart.demo.evaluate import pictures_to_tensor, read_pictures
from hart.demo.reader import AttributeReader, accuracy
from hart.evaluation.extras import import_extra
from hart.evaluation.image_metrics import Images
from hart.utils.errors import CheckpointError, one_line
from hart.utils.text_folders import load_text_model, load_tokenizer
from hart.utils.weights import load_into, read_state_dict

Device = torch.device | str


class LpipsDistance:
    """Learned perceptual distance to the reference (LPIPS, arXiv 1801.03924), AlexNet version.

    ``weights`` are the state dict of ``lpips.LPIPS(net="alex")``, saved with ``torch.save``. It
    holds backbone and calibration, so that nothing is fetched.

    Raises:
        MissingExtraError: the package ``lpips`` is not installed.
        CheckpointError: the file is missing, damaged or of another network.
    """

    def __init__(self, weights: str | Path, device: Device = "cpu") -> None:
        lpips = import_extra("lpips", "LPIPS", extra="lpips")
        # pnet_rand leaves the backbone without weights instead of fetching them.
        net = lpips.LPIPS(net="alex", pretrained=False, pnet_rand=True, verbose=False)
        load_into(net, read_state_dict(weights), source=weights)
        self._net, self._device = net.to(device).eval(), device

    @torch.no_grad()
    def __call__(self, images: Images, reference: Images, prompts: Sequence[str]) -> dict[str, Any]:
        """``lpips``: mean distance, 0 for equal pictures."""
        distances = [
            self._net(*(pictures_to_tensor([p]).to(self._device) for p in pair)).item()
            for pair in zip(images, reference, strict=True)
        ]
        return {"lpips": float(np.mean(distances))}


class FrechetDistance:
    """Fréchet Inception distance to the reference pictures (FID, arXiv 1706.08500).

    It compares the distributions of all pictures, not pairs, and is biased upwards when they are
    fewer than some thousands. ``weights`` are the package ``torch-fidelity``'s of Inception, a
    state dict.

    Raises:
        MissingExtraError: the package ``torch-fidelity`` is not installed.
        CheckpointError: the file is missing, damaged or of another network.
    """

    def __init__(self, weights: str | Path, device: Device = "cpu") -> None:
        inception = import_extra("torch_fidelity.feature_extractor_inceptionv3", "FID", extra="fid")
        self._metric = import_extra("torch_fidelity.metric_fid", "FID", extra="fid")
        read_state_dict(weights)  # the package would also run code from a file; this refuses it
        try:
            net = inception.FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(weights)
            )
        # The package checks nothing; what torch raises depends on what is wrong with the file.
        except Exception as error:
            raise CheckpointError(
                f"{weights}: not torch-fidelity's Inception ({one_line(error)})"
            ) from error
        self._net, self._device = net.to(device).eval(), device

    def __call__(self, images: Images, reference: Images, prompts: Sequence[str]) -> dict[str, Any]:
        """``fid``, 0 for equal pictures; ValueError if there are fewer than two."""
        if len(images) < 2:
            raise ValueError(f"FID compares distributions: {len(images)} picture is too few for it")
        statistics = [self._statistics(pictures) for pictures in (images, reference)]
        distance = self._metric.fid_statistics_to_metric(*statistics, verbose=False)
        return {"fid": max(distance[self._metric.KEY_METRIC_FID], 0.0)}  # rounding goes below 0

    @torch.no_grad()
    def _statistics(self, images: Images) -> dict[str, np.ndarray]:
        features = []
        for image in images:
            pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None]
            features.append(self._net(pixels.to(self._device))[0].cpu())
        return self._metric.fid_features_to_statistics(torch.cat(features))


class ClipScore:
    """Agreement of picture and prompt (CLIP score, arXiv 2104.08718): ``max(100 cos, 0)``.

    Raises:
        ValueError: ``folder`` does not hold a CLIP model and its tokenizer, in the layout of
            ``transformers``.
    """

    def __init__(self, folder: str | Path, device: Device = "cpu") -> None:
        if not Path(folder).is_dir():
            raise ValueError(f"{folder}: no such folder of a CLIP model")
        self._model = load_text_model("CLIP model", Path(folder), AutoModel)
        if not isinstance(self._model, CLIPModel):
            kind = type(self._model).__name__
            raise CheckpointError(f"{folder}: cannot load a CLIP model, it holds a {kind}")
        self._tokenizer = load_tokenizer("CLIP model", Path(folder))
        self._model = self._model.to(device).eval()
        self._device = device

    @torch.no_grad()
    def __call__(self, images: Images, reference: Images, prompts: Sequence[str]) -> dict[str, Any]:
        """``clip_score``: mean over the pictures; the reference is not looked at."""
        scores = [self._score(*pair) for pair in zip(images, prompts, strict=True)]
        return {"clip_score": float(np.mean(scores))}

    def _score(self, image: Pictures.Image, prompt: str) -> float:
        config = self._model.config
        limit = config.text_config.max_position_embeddings
        tokens = self._tokenizer(prompt, truncation=True, max_length=limit, return_tensors="pt")
        pixels = _clip_pixels(image, config.vision_config.image_size)
        output = self._model(
            input_ids=tokens.input_ids.to(self._device),
            attention_mask=tokens.attention_mask.to(self._device),
            pixel_values=pixels.to(self._device),
        )
        cosine = F.cosine_similarity(output.image_embeds, output.text_embeds).item()
        return max(100 * cosine, 0.0)


def _clip_pixels(image: Pictures.Image, side: int) -> torch.Tensor:
    """CLIP's preprocessing: bicubic, square, normalised per channel; (1, 3, side, side)."""
    resized = image.convert("RGB").resize((side, side), Pictures.Resampling.BICUBIC)
    unit = (pictures_to_tensor([resized]) + 1) / 2
    mean, std = (unit.new_tensor(v).view(1, 3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    return (unit - mean) / std


class AttributeAccuracy:
    """How much of its caption a demo picture shows.

    Args:
        reader: tells the attributes of a picture, from ``load_reader``.
        labels: class index of every attribute, (prompts,), from ``held_out_prompts``.
        images_per_prompt: pictures of each prompt, which follow one another.
    """

    def __init__(
        self,
        reader: AttributeReader,
        labels: Mapping[str, torch.Tensor],
        images_per_prompt: int = 1,
    ) -> None:
        self._reader = reader
        self._labels = {k: v.repeat_interleave(images_per_prompt) for k, v in labels.items()}

    def __call__(self, images: Images, reference: Images, prompts: Sequence[str]) -> dict[str, Any]:
        """``attribute_accuracy``, the mean over the ``attributes`` in [0, 1], which follow."""
        shares = accuracy(read_pictures(list(images), self._reader), self._labels)
        return {"attribute_accuracy": sum(shares.values()) / len(shares), "attributes": shares}
