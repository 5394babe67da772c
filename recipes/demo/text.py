"""Training the demo's text encoder: a tiny Qwen2 model that reads captions of scenes.

Linear heads on its hidden states must name every attribute of the scene, at the last token of
the caption and at the last position of the text context. The heads are then thrown away: what
stays is a frozen model from whose features any network that follows can take the attributes.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2Model

from hart.demo.captions import all_words, canonical_caption, caption, corpus
from hart.demo.reader import accuracy
from hart.demo.scene import ATTRIBUTES, Scene, sample_scene, scene_labels
from hart.utils.files import write_json
from hart.utils.prompts import encode_prompts, tokenize_fn
from recipes.demo.loop import Phase, run_phase

CONTEXT_TOKENS = 32
"""Text positions of the demo."""

DEMO_SYSTEM_PROMPT = "Describe a picture of one thing on a background.\nUser Prompt:\n"
"""Instruction that the demo puts before a prompt; see ``encode_prompts``."""

PAD_TOKEN = "<|endoftext|>"
"""Padding of the demo's tokenizer; the published Qwen2 models pad with the same text."""

# The pre-tokenizer of the published Qwen2, which transformers 5 puts into any tokenizer that lies
# beside a Qwen2 model; another one would be lost on loading.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_VOCABULARY = 4000
_CORPUS, _CORPUS_SEED = 20_000, 3
_BATCH = 64
_PHASE = Phase(name="text", steps=1600, learning_rate=3e-3, seed=5)
_INSTRUCTED_SHARE = 0.75  # of the batches; the others go without the instruction
_CANONICAL_SHARE = 0.15  # of the captions
_STRANGE_SHARE = 0.1  # of the captions get a token that no caption has
_STRESSED_SHARE = 0.15  # of the captions have words in upper or title case
_CAPITAL_SHARE = 0.2  # of the captions begin with a capital
_FULL_STOP_SHARE = 0.1  # of the captions end with a full stop
_NEXT_TOKEN_WEIGHT = 0.1
_CHECKED = 2000
_CHECK_SEED = 2**31  # far from the seeds of the training steps


def train_text(
    folder: Path, scale: float = 1.0, quiet: bool = False, device: str = "cpu"
) -> tuple[Qwen2Model, PreTrainedTokenizerFast, dict]:
    """Train the demo's text model; resumes from ``folder``, where the phase keeps its state.

    Args:
        folder: for the training state and the log.
        scale: share of the full number of training steps and of the captions measured on.
        quiet: no progress bar.
        device: where to train, and where the model stays.

    Returns:
        The frozen model in evaluation mode (features of 128 values), its tokenizer, and a report:
        ``parameters``, ``vocabulary``, ``steps``, ``minutes``, and ``accuracy`` as in
        :func:`measure`.

    Raises:
        ValueError: if ``scale`` is not positive.
    """
    if not scale > 0:
        raise ValueError(f"scale is {scale}, must be above 0")
    tokenizer = train_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_PHASE.seed)
        probed = ProbedTextModel(Qwen2Model(demo_text_config(len(tokenizer)))).to(device)
    steps = max(1, round(_PHASE.steps * scale))
    phase = Phase(_PHASE.name, steps, _PHASE.learning_rate, _PHASE.seed)
    probed.train()
    done = run_phase(phase, probed, _loss_function(probed, tokenizer), Path(folder), quiet)
    probed.eval().requires_grad_(False)
    report = {
        "parameters": sum(p.numel() for p in probed.model.parameters()),
        "vocabulary": len(tokenizer),
        "steps": done.steps,
        "minutes": round(done.seconds / 60, 2),
        "accuracy": measure(probed, tokenizer, max(16, round(_CHECKED * min(scale, 1.0)))),
    }
    return probed.model, tokenizer, report


def demo_text_config(vocabulary: int) -> Qwen2Config:
    """The demo's text model: two layers of width 128."""
    return Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.05,
        use_cache=False,
        bos_token_id=None,
        eos_token_id=None,
    )


def train_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with the normalizer and the pre-tokenizer of the published Qwen2.

    A caption's words are one token each, at the start of a text and behind a space. Every text
    has an encoding, since every byte is a token. The text of the padding token in a prompt is
    ordinary text, so the padding id stands for padding only.
    """
    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[PAD_TOKEN],
        show_progress=False,
    )
    core.train_from_iterator(_tokenizer_texts(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        # All three, or Qwen2's own tokenizer class adds a token that the model does not have.
        pad_token=PAD_TOKEN,
        eos_token=PAD_TOKEN,
        unk_token=PAD_TOKEN,
        padding_side="right",
        model_max_length=256,
        split_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )


def save_text_model(
    model: Qwen2Model,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write ``config.json``, ``model.safetensors`` and the tokenizer into one folder.

    Args:
        dtype: what the weights are stored in; the model keeps it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # The class that stands for Qwen2 in transformers 4 and 5, and so at every loader.
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    settings["tokenizer_class"] = "Qwen2Tokenizer"
    write_json(file, settings)


class ProbedTextModel(nn.Module):
    """The text model with the linear heads that it is trained through."""

    def __init__(self, model: Qwen2Model) -> None:
        super().__init__()
        self.model = model
        width = model.config.hidden_size
        self.heads = nn.ModuleDict({k: nn.Linear(width, len(v)) for k, v in ATTRIBUTES.items()})

    def forward(self, tokens: Tensor, mask: Tensor, prefix: Tensor) -> Tensor:
        """Features (B, M, E) of ``tokens`` (B, M) behind the instruction ``prefix`` (P,)."""
        prefix = prefix.expand(len(tokens), -1)
        mask = torch.cat([torch.ones_like(prefix, dtype=mask.dtype), mask], dim=1)
        output = self.model(torch.cat([prefix, tokens], dim=1), attention_mask=mask)
        return output.last_hidden_state[:, prefix.shape[1] :]

    def attribute_loss(self, features: Tensor, labels: dict[str, Tensor]) -> Tensor:
        """Cross-entropy of features (B, E), summed over the attributes."""
        losses = [F.cross_entropy(head(features), labels[k]) for k, head in self.heads.items()]
        return torch.stack(losses).sum()

    def next_token_loss(self, features: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Cross-entropy of each caption token after the first; the embeddings are the classes."""
        wanted = mask[:, 1:]
        logits = features[:, :-1][wanted] @ self.model.embed_tokens.weight.T
        return F.cross_entropy(logits / features.shape[-1] ** 0.5, tokens[:, 1:][wanted])

    def read(self, features: Tensor) -> dict[str, Tensor]:
        """Most likely class of every attribute, int64 (B,), of features (B, E)."""
        return {name: head(features).argmax(dim=-1) for name, head in self.heads.items()}


def measure(
    probed: ProbedTextModel, tokenizer: PreTrainedTokenizerFast, n: int
) -> dict[str, dict[str, float]]:
    """Accuracy by attribute of the linear heads on ``n`` fresh captions of each kind.

    The kinds are captions of trained triples, of held-out triples, canonical captions, and
    captions of trained triples with capitals and a full stop; each with and without the
    instruction, read at the last position and at the last token.
    """
    scores = {}
    for number, kind in enumerate(("trained", "held_out", "canonical", "written")):
        rng = np.random.default_rng([_CHECK_SEED, number])
        scenes = [sample_scene(rng, kind == "held_out") for _ in range(n)]
        texts = [canonical_caption(s) if kind == "canonical" else caption(s, rng) for s in scenes]
        if kind == "written":
            texts = [_full_stop(_capital(_stressed(text, rng))) for text in texts]
        labels = scene_labels(scenes)
        for instructed in (True, False):
            ends = _encoded_ends(probed.model, tokenizer, texts, instructed)
            for place, features in ends.items():
                name = f"{kind}, {'with' if instructed else 'without'} instruction, {place}"
                read = {k: v.cpu() for k, v in probed.read(features).items()}
                scores[name] = accuracy(read, labels)
    return scores


def _encoded_ends(
    model: Qwen2Model, tokenizer: PreTrainedTokenizerFast, texts: list[str], instructed: bool
) -> dict[str, Tensor]:
    """Features (B, E) at the last position and at the last token, as the pipeline makes them."""
    ends: dict[str, list[Tensor]] = {"last position": [], "last token": []}
    for start in range(0, len(texts), 250):
        _, mask, _, features = encode_prompts(
            texts[start : start + 250],
            model,
            tokenizer,
            CONTEXT_TOKENS,
            system_prompt=DEMO_SYSTEM_PROMPT,
            use_llm_system_prompt=instructed,
        )
        ends["last position"].append(features[:, -1])
        ends["last token"].append(_at_last_token(features, mask))
    return {place: torch.cat(parts) for place, parts in ends.items()}


def _at_last_token(features: Tensor, mask: Tensor) -> Tensor:
    """(B, M, E) to (B, E): the last unmasked position of every row."""
    rows = torch.arange(len(features), device=features.device)
    return features[rows, mask.sum(dim=1) - 1]


def _loss_function(probed: ProbedTextModel, tokenizer: PreTrainedTokenizerFast):
    device = probed.model.device
    (instruction,) = tokenize_fn([DEMO_SYSTEM_PROMPT], tokenizer, CONTEXT_TOKENS)
    prefixes = {True: instruction.to(device), False: instruction[:0].to(device)}
    strange = _strange_ids(tokenizer)

    def loss(step: int, rng: np.random.Generator):
        scenes = [sample_scene(rng) for _ in range(_BATCH)]
        rows = [_token_row(scene, rng, tokenizer, strange) for scene in scenes]
        tokens = torch.tensor(rows, device=device)
        labels = {k: v.to(device) for k, v in scene_labels(scenes).items()}
        mask = tokens != tokenizer.pad_token_id
        features = probed(tokens, mask, prefixes[rng.random() < _INSTRUCTED_SHARE])
        at_end = probed.attribute_loss(features[:, -1], labels)
        at_token = probed.attribute_loss(_at_last_token(features, mask), labels)
        following = probed.next_token_loss(features, tokens, mask)
        shown = {"end": at_end.item(), "token": at_token.item(), "next": following.item()}
        return at_end + at_token + _NEXT_TOKEN_WEIGHT * following, shown

    return loss


def _strange_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Token ids that no caption has: prompts contain such words too, and they must not disturb."""
    texts = [*_written_corpus(2000), *_word_lists()]
    known = {i for text in texts for i in tokenizer(text).input_ids} | {tokenizer.pad_token_id}
    return [i for i in range(len(tokenizer)) if i not in known]


def _tokenizer_texts() -> list[str]:
    """Captions, the instruction, and every word in every case at either place."""
    return [*_written_corpus(_CORPUS), *_word_lists() * 10, *[DEMO_SYSTEM_PROMPT] * 10]


def _word_lists() -> list[str]:
    """All words in lower, title and upper case, behind spaces and at the start of lines."""
    cases = [[f(word) for word in all_words()] for f in (str.lower, str.title, str.upper)]
    return [*[" " + " ".join(words) for words in cases], *["\n".join(words) for words in cases]]


def _written_corpus(n: int) -> list[str]:
    rng = np.random.default_rng(_CORPUS_SEED)
    return [_written(text, rng) for text in corpus(n, _CORPUS_SEED)]


def _written(text: str, rng: np.random.Generator) -> str:
    """A caption as people type it: some stress words, some write whole sentences."""
    if rng.random() < _STRESSED_SHARE:
        text = _stressed(text, rng)
    if rng.random() < _CAPITAL_SHARE:
        text = _capital(text)
    return _full_stop(text) if rng.random() < _FULL_STOP_SHARE else text


def _stressed(text: str, rng: np.random.Generator) -> str:
    """One word, or rarely all of them, in upper or title case."""
    words = text.split(" ")
    change = str.upper if rng.random() < 0.6 else str.title
    chosen = range(len(words)) if rng.random() < 0.25 else [int(rng.integers(len(words)))]
    for index in chosen:
        words[index] = change(words[index])
    return " ".join(words)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _full_stop(text: str) -> str:
    return text + "."


def _token_row(
    scene: Scene,
    rng: np.random.Generator,
    tokenizer: PreTrainedTokenizerFast,
    strange: list[int],
) -> list[int]:
    """One caption of the scene as ``CONTEXT_TOKENS`` padded token ids."""
    canonical = rng.random() < _CANONICAL_SHARE
    text = canonical_caption(scene) if canonical else caption(scene, rng)
    ids = tokenizer(_written(text, rng)).input_ids
    if rng.random() < _STRANGE_SHARE:
        ids.insert(int(rng.integers(len(ids) + 1)), strange[int(rng.integers(len(strange)))])
    return (ids + [tokenizer.pad_token_id] * CONTEXT_TOKENS)[:CONTEXT_TOKENS]
