"""Pictures as the autoencoder's tokens, made once in chunks and drawn from at random."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from hart.demo.captions import caption
from hart.modules.models.autoencoder.hart_autoencoder import HARTAutoEncoder
from hart.utils.files import replacing
from recipes.demo.data import render_batch
from recipes.demo.loop import image_layout, training_autocast

CAPTIONS_PER_PICTURE = 4
PICTURES_AT_ONCE = 16


@dataclass(frozen=True)
class Supply:
    """How many pictures a phase draws from.

    Attributes:
        seed: chunk k is rendered from the generator seeded with (seed, k).
        chunk: pictures in a chunk.
        chunks: number of them.
    """

    seed: int
    chunk: int
    chunks: int


class TokenData:
    """Token ids, last-stage values and several captions of many pictures.

    Chunks are files in ``folder``; what is not there yet is rendered and tokenised.

    Attributes:
        ids: (n, tokens before the last stage + last stage) int16.
        rest: (n, last stage, Z) float16, what the last stage has to express.
        captions: per picture a list of captions.
    """

    def __init__(
        self, vae: HARTAutoEncoder, folder: Path, supply: Supply, quiet: bool, device: str
    ) -> None:
        self.vae, self.folder, self.supply = vae, folder, supply
        self.device = device
        self.sides = vae.config.v_patch_nums
        wanted = tqdm(range(supply.chunks), desc="tokens", disable=True if quiet else None)
        chunks = [self.chunk(k) for k in wanted]
        self.ids = torch.cat([chunk["ids"] for chunk in chunks])
        self.rest = torch.cat([chunk["rest"] for chunk in chunks])
        self.captions = [captions for chunk in chunks for captions in chunk["captions"]]

    def sample(self, rng: np.random.Generator, n: int):
        """Ids per stage, last-stage values (n, last, Z) and captions of random pictures."""
        rows = rng.integers(0, len(self.ids), n)
        ids = self.ids[rows].long().to(self.device).split([side**2 for side in self.sides], dim=1)
        captions = [self.captions[r][rng.integers(CAPTIONS_PER_PICTURE)] for r in rows]
        return list(ids), self.rest[rows].float().to(self.device), captions

    def chunk(self, k: int) -> dict:
        """Chunk k from its file, which is made first if it is not there."""
        file = self.folder / f"tokens-{self.supply.seed}-{k:04d}.pt"
        if file.is_file():
            return torch.load(file, weights_only=True)
        made = self._tokenise(np.random.default_rng([self.supply.seed, k]))
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(file) as beside:
            torch.save(made, beside)
        return made

    @torch.no_grad()
    def _tokenise(self, rng: np.random.Generator) -> dict:
        all_ids, all_rest, captions = [], [], []
        for start in range(0, self.supply.chunk, PICTURES_AT_ONCE):
            batch = render_batch(rng, min(PICTURES_AT_ONCE, self.supply.chunk - start))
            images = batch.images.to(self.device, memory_format=image_layout(self.device))
            with training_autocast(self.device):
                f = self.vae.quant_conv(self.vae.encoder(images)).float()
            *ids, rest = self.vae.quantize.f_to_idxBl_and_frest(f)
            all_ids.append(torch.cat(ids, dim=1).to("cpu", torch.int16))
            all_rest.append(rest.to("cpu", torch.float16))
            for scene in batch.scenes:
                captions.append([caption(scene, rng) for _ in range(CAPTIONS_PER_PICTURE)])
        return {
            "ids": torch.cat(all_ids),
            "rest": torch.cat(all_rest),
            "captions": captions,
        }
