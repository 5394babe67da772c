"""The recorded tokenizer, built by hand and loaded."""

from __future__ import annotations

import pytest

from hart.modules.models.autoencoder import (
    HARTAutoEncoder,
    HARTAutoEncoderWithDisc,
    HARTAutoEncoderWithDiscConfig,
)
from tests.golden_data import GoldenCase, load_case

RECORDED_DISC_WIDTH = 8


@pytest.fixture(scope="session")
def golden() -> GoldenCase:
    return load_case("tokenizer")


def build(golden: GoldenCase, **overrides: object) -> HARTAutoEncoderWithDisc:
    fields = {**golden.config, "disc_ndf": RECORDED_DISC_WIDTH, **overrides}
    return HARTAutoEncoderWithDisc(HARTAutoEncoderWithDiscConfig.from_dict(fields)).eval()


@pytest.fixture(scope="session")
def with_disc(golden: GoldenCase) -> HARTAutoEncoderWithDisc:
    model = build(golden)
    model.load_state_dict(golden.weights(), strict=True)
    return model


@pytest.fixture(scope="session")
def vae(with_disc: HARTAutoEncoderWithDisc) -> HARTAutoEncoder:
    return with_disc.vae
