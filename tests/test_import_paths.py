"""Importing does nothing, and every path that programs written for HART import from works."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent

VQGAN = "create_discriminator NLayerDiscriminator NLayerDiscriminatorConfig weights_init"
HART_UTILS = (
    "default_prompts llm_system_prompt max_seq_len max_batch_size tokenize_fn encode_prompts "
    "lru_json_load get_device"
)
CONFIGURATIONS = "VARTransformerConfig VARTransformerT2IConfig HARTForC2IConfig HARTForT2IConfig"
TRANSFORMER = "HARTForT2I mask_by_order CopyableGenerator SharedAdaLin"
AUTOENCODER_CONFIGURATIONS = "HARTAutoEncoderConfig HARTAutoEncoderWithDiscConfig"

PATHS = {
    "hart.modules.models.transformer": f"{CONFIGURATIONS} {TRANSFORMER} AdaLNSelfAttn "
    "AdaLNBeforeHead LlamaRMSNormFused TimestepEmbedder DiffLoss HARTAutoEncoder "
    "HARTAutoEncoderWithDisc HARTHybridQuantizer gumbel_softmax_with_rng "
    "sample_with_top_k_top_p_ get_device",
    "hart.modules.models.transformer.configuration": CONFIGURATIONS,
    "hart.modules.models.transformer.hart_transformer_t2i": TRANSFORMER,
    "hart.modules.models.autoencoder": f"{AUTOENCODER_CONFIGURATIONS} HARTAutoEncoder "
    "HARTAutoEncoderWithDisc HARTHybridQuantizer VARQuantizer Encoder Decoder "
    "create_discriminator",
    "hart.modules.models.autoencoder.configuration": AUTOENCODER_CONFIGURATIONS,
    "hart.modules.models.autoencoder.hart_autoencoder": "HARTAutoEncoder",
    "hart.modules.models.autoencoder.hart_autoencoder_with_disc": "HARTAutoEncoderWithDisc",
    "hart.modules.models.autoencoder.quantize": "HARTHybridQuantizer VectorQuantizer2",
    "hart.modules.models.autoencoder.quantize.hart_hybrid_quantize": "HARTHybridQuantizer",
    "hart.modules.models.autoencoder.quantize.var_quantize_multiple_res": "VectorQuantizer2 Phi "
    "PhiShared PhiPartiallyShared PhiNonShared",
    "hart.modules.networks.basic_hart": "FFN TimestepEmbedder LlamaRMSNorm LlamaRMSNormFused "
    "LlamaMLP AdaLNSelfAttn AdaLNBeforeHead SelfAttention LlamaAttention "
    "MultiHeadCrossAttention LlamaRotaryEmbedding LlamaRotaryEmbedding1D "
    "FusedLlamaRotaryEmbedding1D FusedLlamaRotaryEmbedding1DWithPos "
    "FusedLlamaRotaryEmbedding2DWithPos FusedRoPEFunc FusedRoPEFuncWithPos get_position_ids "
    "get_position_ids_1d rotate_half apply_rotary_pos_emb context_pooling get_xattn_mask",
    "hart.modules.networks.basic_vae": "Encoder Decoder nonlinearity Normalize Upsample2x "
    "Downsample2x ResnetBlock AttnBlock make_attn",
    "hart.modules.networks.utils": "sample_with_top_k_top_p_ gumbel_softmax_with_rng drop_path "
    "DropPath",
    "hart.modules.diffusion": "create_diffusion GaussianDiffusion SpacedDiffusion "
    "space_timesteps gd",
    "hart.modules.diffusion.diffloss": "DiffLoss SimpleMLPAdaLN ResBlock FinalLayer "
    "TimestepEmbedder modulate",
    "hart.modules.diffusion.gaussian_diffusion": "GaussianDiffusion ModelMeanType ModelVarType "
    "LossType mean_flat get_beta_schedule get_named_beta_schedule betas_for_alpha_bar",
    "hart.modules.diffusion.respace": "space_timesteps SpacedDiffusion",
    "hart.modules.diffusion.diffusion_utils": "normal_kl approx_standard_normal_cdf "
    "continuous_gaussian_log_likelihood discretized_gaussian_log_likelihood",
    "hart.modules.losses.vqgan": VQGAN,
    "hart.modules.losses.vqgan.discriminator": "NLayerDiscriminator create_discriminator "
    "weights_init",
    "hart.modules.losses.vqgan.configuration_disc": "NLayerDiscriminatorConfig",
    "hart.utils": f"{HART_UTILS} safety_check",
    "hart.utils.tools": HART_UTILS,
    "hart.utils.safety_check": "is_dangerous",
}

TO_TRANSFORMERS = [
    "from transformers import AutoConfig, AutoModel; "
    f"AutoModel.from_config(AutoConfig.for_model({kind!r}, {sizes}))"
    for kind, sizes in (
        ("hart_transformer_t2i", "depth=1, embed_dim=32, num_heads=2, diff_width=32"),
        ("hart_autoencoder", "ch=32, ch_mult=(1, 1)"),
        ("hart_autoencoder_with_disc", "ch=32, ch_mult=(1, 1)"),
    )
]
NAMES = [f"from {path} import {name}" for path, names in PATHS.items() for name in names.split()]
MISSING = ["import hart.modules.utils", "from hart.modules.utils.network import anything"]

# One fresh interpreter for all checks, what imports least first. Each line of a step runs in a
# namespace of its own, as a program has it. After a step: what failed, by line, what was printed,
# and which of the watched modules are loaded.
STEPS = {
    "package": ["import hart"],
    "utilities": [
        "import hart.utils, hart.utils.images, hart.modules.diffusion.diffloss; "
        "from hart.utils import safety_check"
    ],
    "model": ["import hart.modules.models.transformer.hart_transformer_t2i_enhanced"],
    "transformers": TO_TRANSFORMERS,
    "names": NAMES,
    "missing": MISSING,
}
WATCHED = ("torch", "transformers", "numpy", "PIL", "matplotlib", "gradio")
PROGRAM = """
import contextlib, io, json, os, sys

steps, watched = json.load(sys.stdin)
files = set(os.listdir())
done = {}

def refuse():
    raise SystemExit("a device was asked for")

def run(lines):
    failures, printed = {}, io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        for line in lines:
            try:
                exec(line, {})
            except (Exception, SystemExit) as error:
                failures[line] = f"{type(error).__name__}: {error}"
    loaded = [name for name in watched if name in sys.modules]
    return {"failures": failures, "printed": printed.getvalue(), "loaded": loaded}

for name, lines in steps.items():
    if name == "utilities":  # transformers, which the next step imports, asks for devices itself
        import torch
        asked = torch.cuda.is_available, torch.backends.mps.is_available
        torch.cuda.is_available = torch.backends.mps.is_available = refuse
    done[name] = run(lines)
    if name == "utilities":
        torch.cuda.is_available, torch.backends.mps.is_available = asked
    if name == "model":
        done[name]["cuda"] = torch.cuda.is_initialized()
        done[name]["new_files"] = sorted(set(os.listdir()) - files)
print(json.dumps(done))
"""


@pytest.fixture(scope="module")
def imports() -> dict[str, dict]:
    """What every step did."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps([STEPS, WATCHED]),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # nothing else was printed


def test_importing_the_package_imports_nothing_heavy(imports):
    assert imports["package"] == {"failures": {}, "printed": "", "loaded": []}


def test_importing_the_utilities_asks_for_no_device_and_leaves_transformers_out(imports):
    assert imports["utilities"]["failures"] == {}
    assert imports["utilities"]["printed"] == ""
    assert "transformers" not in imports["utilities"]["loaded"]


def test_importing_the_model_does_nothing(imports):
    """No output, no file, no optional package, no CUDA context."""
    model = imports["model"]
    assert model["failures"] == {}
    assert model["printed"] == ""
    assert not {"matplotlib", "gradio"} & set(model["loaded"])
    assert model["cuda"] is False
    assert model["new_files"] == []


def test_importing_the_model_makes_the_classes_known_to_transformers(imports):
    assert imports["transformers"]["failures"] == {}


def test_every_public_name_can_be_imported_from_its_path(imports):
    assert imports["names"]["failures"] == {}


def test_what_cannot_be_imported_there_says_why(imports):
    failures = imports["missing"]["failures"]
    assert list(failures) == MISSING
    for reason in failures.values():
        assert reason.startswith("ImportError: hart.modules.utils does not exist here")
