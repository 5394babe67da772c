"""Draw with the model alone, in a loop of your own, as HART's own scripts do.

    python examples/own_loop.py "a strawberry on a pink background" "a large cookie"

``HARTPipeline`` does all of this in one call; here are its parts, for a program that has its own.
"""

from __future__ import annotations

import sys

from transformers import AutoModel, AutoTokenizer

from hart import HARTForT2IEnhanced
from hart.demo import DEMO_CHECKPOINT
from hart.utils.images import to_pil
from hart.utils.prompts import encode_prompts


def main() -> None:
    model = HARTForT2IEnhanced.from_pretrained(DEMO_CHECKPOINT / "llm").eval()
    text_model = AutoModel.from_pretrained(DEMO_CHECKPOINT / "text_model").eval()
    tokenizer = AutoTokenizer.from_pretrained(DEMO_CHECKPOINT / "text_model")
    model.set_cache_config("hybrid")

    for seed, prompt in enumerate(sys.argv[1:], start=1):
        _, mask, position_ids, features = encode_prompts(
            [prompt], text_model, tokenizer, model.context_token, use_llm_system_prompt=True
        )
        pictures = model.autoregressive_infer_cfg(
            B=1,
            label_B=features,
            context_position_ids=position_ids,
            context_mask=mask,
            g_seed=seed,
            cfg=4.5,
            more_smooth=True,
        )
        to_pil(pictures)[0].save(f"{seed}.png")
    saved = model.get_cache_statistics()["saved_share"]
    print(f"{len(sys.argv) - 1} pictures, {saved:.0%} of the transformer's work saved")


if __name__ == "__main__":
    main()
