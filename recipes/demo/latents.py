"""Every training scene as the encoder's continuous map, and such maps as tokens with mistakes."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from hart.demo.scene import ATTRIBUTES, Scene, is_held_out
from hart.modules.models.autoencoder.hart_autoencoder import HARTAutoEncoder
from hart.modules.models.autoencoder.quantize.maps import downsample, to_map, to_rows
from hart.modules.models.autoencoder.quantize.var_quantize_multiple_res import nearest_code
from hart.utils.files import replacing
from recipes.demo.autoencoder import encode
from recipes.demo.render import render

CHUNK, AT_ONCE = 256, 4


def training_scenes(seed: int) -> list[Scene]:
    """All scenes that are not held out, in an order that the seed decides."""
    scenes = [Scene(*values) for values in itertools.product(*ATTRIBUTES.values())]
    scenes = [scene for scene in scenes if not is_held_out(scene)]
    return [scenes[i] for i in np.random.default_rng(seed).permutation(len(scenes))]


class LatentData:
    """The encoder's maps of scenes, encoded once and kept in chunks of a folder.

    Attributes:
        maps: (n, Z, P, P) float16.
        scenes: what each map shows.
    """

    def __init__(
        self, vae: HARTAutoEncoder, folder: Path, scenes: list[Scene], quiet: bool, device: str
    ) -> None:
        self.vae, self.folder, self.scenes, self.device = vae, folder, scenes, device
        starts = range(0, len(scenes), CHUNK)
        wanted = tqdm(starts, desc="latents", disable=True if quiet else None)
        self.maps = torch.cat([self._chunk(start) for start in wanted])

    def sample(self, rng: np.random.Generator, n: int) -> tuple[torch.Tensor, list[Scene]]:
        """Maps (n, Z, P, P), float32, of random scenes, and the scenes."""
        rows = rng.integers(0, len(self.scenes), n)
        return self.maps[rows].float().to(self.device), [self.scenes[row] for row in rows]

    def _chunk(self, start: int) -> torch.Tensor:
        file = self.folder / f"latents-{start:05d}.pt"
        if file.is_file():
            return torch.load(file, weights_only=True)
        made = self._encoded(self.scenes[start : start + CHUNK])
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(file) as beside:
            torch.save(made, beside)
        return made

    @torch.no_grad()
    def _encoded(self, scenes: list[Scene]) -> torch.Tensor:
        # Channels last takes a seventh of the time that the plain layout does on a CPU.
        self.vae.encoder.to(memory_format=torch.channels_last)
        maps = []
        for begin in range(0, len(scenes), AT_ONCE):
            images = render(scenes[begin : begin + AT_ONCE]).to(self.device)
            images = images.contiguous(memory_format=torch.channels_last)
            maps.append(encode(self.vae, images).to("cpu", torch.float16))
        return torch.cat(maps).contiguous()


class Tokens(NamedTuple):
    """Maps as a teacher-forced step takes them.

    Attributes:
        wanted: per stage the ids to predict, int64 (B, side * side).
        inputs: of the stages after the first, (B, L - 1, Z) float32.
        rest: what the last stage has to express, (B, P * P, Z) float32; empty without it.
    """

    wanted: list[torch.Tensor]
    inputs: torch.Tensor
    rest: torch.Tensor


@torch.no_grad()
def tokens_with_mistakes(
    quantizer: nn.Module, f: torch.Tensor, stages: int, noise: torch.Tensor
) -> Tokens:
    """Quantize maps as generation does that chooses wrong codes, and say what is right after them.

    A stage's input holds the codes nearest to noisy values, its target is the code nearest to what
    is then really missing. So the model learns to mend its own mistakes, and meets no sequence of
    tokens twice (Han et al., Infinity, arXiv 2412.04431, do so with the bits of their tokens).

    Args:
        f: (B, Z, P, P) float32.
        stages: how many to quantize, from the first.
        noise: standard deviation in units of each stage's own, per picture, (B,).
    """
    sides, codes = quantizer.v_patch_nums, quantizer.codes()
    f_hat, wanted, inputs, rest = torch.zeros_like(f), [], [], f.new_empty(0)
    for si, side in enumerate(sides[:stages]):
        missing = downsample(f - f_hat, (side, side))
        wanted.append(nearest_code(to_rows(missing), codes).view(len(f), -1))
        if si == len(sides) - 1:
            rest = missing.flatten(2).transpose(1, 2).contiguous()
        elif si < stages - 1:
            spread = noise[:, None, None, None] * missing.square().mean().sqrt()
            noisy = missing + spread * torch.randn_like(missing)
            ids = nearest_code(to_rows(noisy), codes)
            chosen = to_map(codes[ids].view(len(f), -1, codes.shape[1]), (side, side))
            f_hat, following = quantizer.get_next_autoregressive_input(
                si, len(sides), f_hat, chosen
            )
            inputs.append(following.flatten(2).transpose(1, 2))
    return Tokens(wanted, torch.cat(inputs, dim=1), rest)
