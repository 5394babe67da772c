"""Behaviour of the diffusion head: randomness, guidance, dtypes and errors."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hart.modules.diffusion.diffloss import DiffLoss, SimpleMLPAdaLN, TimestepEmbedder

CHANNELS, WIDTH = 4, 16


@pytest.fixture
def head() -> DiffLoss:
    torch.manual_seed(0)
    head = DiffLoss(CHANNELS, 8, depth=2, width=WIDTH, num_sampling_steps=8)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return head.eval()


@pytest.fixture
def z() -> torch.Tensor:
    return torch.randn(6, 8, generator=torch.Generator().manual_seed(1))


class RecordingSource:
    """A noise source that notes what it is asked for."""

    def __init__(self, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.calls: list[tuple[tuple[int, ...], str]] = []

    def __call__(self, shape, kind):
        self.calls.append((tuple(shape), kind))
        return torch.randn(shape, generator=self.generator)


def test_fresh_network_predicts_zero():
    net = SimpleMLPAdaLN(CHANNELS, WIDTH, 2 * CHANNELS, 8, 2)
    out = net(torch.randn(3, CHANNELS), torch.tensor([0, 5, 999]), torch.randn(3, 8))
    assert torch.equal(out, torch.zeros(3, 2 * CHANNELS))


def test_state_dict_holds_weights_only(head):
    block = [f"res_blocks.{r}.{p}" for r in range(2)
             for p in ("in_ln", "mlp.0", "mlp.2", "adaLN_modulation.1")]  # fmt: skip
    layers = ["time_embed.mlp.0", "time_embed.mlp.2", "cond_embed", "input_proj", *block,
              "final_layer.linear", "final_layer.adaLN_modulation.1"]  # fmt: skip
    expected = {f"net.{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    assert set(head.state_dict()) == expected


@pytest.mark.parametrize("cfg", [1.0, 2.0])
def test_a_call_without_noise_source_leaves_the_generator_where_upstream_does(head, z, cfg):
    torch.manual_seed(3)
    head.sample(z, cfg=cfg)
    after = torch.rand(1)
    torch.manual_seed(3)
    torch.randn(6 if cfg == 1.0 else 3, CHANNELS)
    for _ in range(8):
        torch.randn(6, CHANNELS)
    assert torch.equal(after, torch.rand(1))


@pytest.mark.parametrize(("cfg", "rows"), [(1.0, 6), (2.0, 3)])
def test_noise_source_is_asked_only_for_the_rows_that_matter(head, z, cfg, rows):
    source = RecordingSource()
    head.sample(z, cfg=cfg, noise_source=source)
    assert source.calls == [((rows, CHANNELS), "initial")] + [((rows, CHANNELS), "step")] * 8


def test_noise_source_leaves_the_global_generator_alone(head, z):
    before = torch.get_rng_state()
    head.sample(z, noise_source=RecordingSource())
    assert torch.equal(before, torch.get_rng_state())


def test_second_half_of_the_noise_does_not_reach_the_first_half(head, z):
    steps = [torch.randn(6, CHANNELS) for _ in range(8)]
    initial = torch.randn(3, CHANNELS).repeat(2, 1)

    def run(second_half_scale):
        noise = [torch.cat([s[:3], s[3:] * second_half_scale]) for s in steps]
        return head.gen_diffusion.p_sample_loop(
            head.net.forward_with_cfg,
            (6, CHANNELS),
            initial,
            model_kwargs={"c": z, "cfg_scale": 2.0},
            noise_source=lambda shape, kind: noise.pop(0),
        )[:3]

    assert torch.equal(run(1.0), run(-3.0))


def test_rows_do_not_depend_on_their_batch(head, z):
    """Per-row noise makes a row's result independent of the rows beside it."""
    initial, *steps = torch.randn(9, 3, CHANNELS)

    def sample(rows):
        noise = iter([initial, *steps])
        condition = torch.cat([z[:3][rows], z[3:][rows]])
        return head.sample(condition, cfg=2.0, noise_source=lambda *_: next(noise)[rows])

    alone = sample(slice(1, 2))[0]
    torch.testing.assert_close(alone, sample(slice(None))[1], atol=1e-5, rtol=1e-5)


def test_guidance_mixes_noise_and_keeps_each_halfs_variance(head, z):
    x, t = torch.randn(6, CHANNELS), torch.full((6,), 428)
    plain = head.net(torch.cat([x[:3], x[:3]]), t, z)
    guided = head.net.forward_with_cfg(x, t, z, 1.5)
    expected = 2.5 * plain[:3, :CHANNELS] - 1.5 * plain[3:, :CHANNELS]
    torch.testing.assert_close(guided[:3, :CHANNELS], expected)
    torch.testing.assert_close(guided[3:, :CHANNELS], expected)
    torch.testing.assert_close(guided[:, CHANNELS:], plain[:, CHANNELS:])


def test_guidance_zero_is_the_conditional_network(head, z):
    guided = head.sample(z, cfg=0.0, noise_source=RecordingSource())[:3]
    plain = head.sample(z[:3], cfg=1.0, noise_source=RecordingSource())
    torch.testing.assert_close(guided, plain)


def test_temperature_zero_uses_the_initial_noise_only(head, z):
    initial = torch.randn(6, CHANNELS)

    def source(scale):
        return lambda shape, kind: initial if kind == "initial" else torch.randn(shape) * scale

    one = head.sample(z, temperature=0.0, cfg=1.0, noise_source=source(1.0))
    two = head.sample(z, temperature=0.0, cfg=1.0, noise_source=source(7.0))
    assert torch.equal(one, two)


def test_residuals_stay_in_the_scaled_range(head, z):
    assert head.sample(z, cfg=50.0).abs().max() <= 0.6 + 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cfg", [1.0, 2.0])
def test_half_weights_work_without_autocast_and_keep_a_float32_state(head, z, dtype, cfg):
    exact = head.sample(z, cfg=cfg, noise_source=RecordingSource())
    half = copy.deepcopy(head).to(dtype)
    actual = half.sample(z, cfg=cfg, noise_source=RecordingSource())
    assert actual.dtype == torch.float32
    assert half.net.time_embed(torch.tensor([3])).dtype == dtype
    assert (actual - exact)[:3].abs().mean() < 0.05


def test_autocast_keeps_a_float32_state(head, z):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = head.sample(z, cfg=2.0, noise_source=RecordingSource())
    assert actual.dtype == torch.float32


class RefuseFloat64(TorchDispatchMode):
    """Stands in for MPS, which has no float64 tensors."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            assert not (isinstance(leaf, torch.Tensor) and leaf.dtype == torch.float64), func
        return result


def test_no_float64_tensor_is_made_in_sampling_or_training(head, z):
    with RefuseFloat64():
        head.sample(z, cfg=2.0)
        head(torch.rand(6, CHANNELS), z)


def test_sampling_leaves_its_arguments_alone_and_makes_no_graph(head, z):
    before = z.clone()
    assert not head.sample(z, cfg=2.0).requires_grad
    assert torch.equal(z, before)


def test_training_loss_reaches_every_parameter(head, z):
    head(torch.rand(6, CHANNELS), z).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())


def test_masked_rows_do_not_count(head, z):
    target = torch.rand(6, CHANNELS)
    mask = torch.tensor([1.0, 1, 0, 1, 0, 0])
    torch.manual_seed(2)
    one = head(target, z, mask)
    torch.manual_seed(2)
    two = head(torch.where(mask[:, None] > 0, target, -target), z, mask)
    torch.testing.assert_close(one, two)


@pytest.mark.parametrize("where", ["constructor", "call"])
def test_unknown_sampler_is_refused_when_sampling(z, where):
    head = DiffLoss(
        CHANNELS, 8, 1, WIDTH, "4", sampler="ddim" if where == "constructor" else "iddpm"
    )
    with pytest.raises(NotImplementedError, match="ddim"):
        head.sample(z, sampler=None if where == "constructor" else "ddim")


def test_odd_number_of_rows_with_guidance_is_refused(head, z):
    with pytest.raises(ValueError, match="even number of rows"):
        head.sample(z[:5], cfg=2.0)


def test_odd_embedding_width_ends_in_a_zero_column():
    embedding = TimestepEmbedder.timestep_embedding(torch.tensor([0, 7]), 5)
    assert embedding.shape == (2, 5)
    assert embedding[:, 4].tolist() == [0.0, 0.0]
    assert embedding[0].tolist() == [1.0, 1.0, 0.0, 0.0, 0.0]


def test_denoise_takes_precomputed_embeddings(head, z):
    x, t = torch.randn(6, CHANNELS), torch.full((6,), 571)
    y = head.net.time_embed(t) + head.net.cond_embed(z)
    assert torch.equal(head.net.denoise(x, y), head.net(x, t, z))
