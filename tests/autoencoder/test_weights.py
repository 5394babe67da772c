"""``hart.utils.weights`` on its own."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hart.utils.weights import (
    CheckpointError,
    find_weight_files,
    load_into,
    read_headers,
    read_state_dict,
)


def test_safetensors_are_preferred_to_pickles(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    torch.save({"a": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    assert find_weight_files(tmp_path) == [tmp_path / "model.safetensors"]
    assert read_state_dict(tmp_path)["a"] == 1


def test_empty_folder_names_what_was_looked_for(tmp_path):
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        find_weight_files(tmp_path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"ema_model\.bin: no such"):
        read_state_dict(tmp_path / "ema_model.bin")


@pytest.mark.parametrize(
    "index",
    ["{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}'],
)
def test_unusable_index_is_refused(tmp_path, index):
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=r"index\.json"):
        find_weight_files(tmp_path)


def test_index_cannot_point_outside_its_folder(tmp_path):
    outside = tmp_path / "secret.safetensors"
    save_file({"a": torch.ones(1)}, outside)
    folder = tmp_path / "model"
    folder.mkdir()
    index = {"weight_map": {"a": "../secret.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="inside this folder"):
        find_weight_files(folder)


class Hostile:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code in a weight file was executed')",))


@pytest.mark.parametrize("content", [Hostile(), {"a": Hostile()}])
def test_code_in_a_pickle_is_not_executed(tmp_path, content):
    file = tmp_path / "ema_model.bin"
    file.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(CheckpointError, match=r"ema_model\.bin"):
        read_state_dict(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [([1], "holds a list"), ({"a": 1}, "'a' is a int"), ({"a": {"b": 1}}, "'a' is a dict")],
)
def test_pickle_without_a_flat_state_dict_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "x.bin")
    with pytest.raises(CheckpointError, match=message):
        read_state_dict(tmp_path / "x.bin")


def test_key_in_two_shards_is_refused(tmp_path):
    for i in (1, 2):
        save_file({"a": torch.ones(1)}, tmp_path / f"model-{i}.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="'a' is also in another shard"):
        read_state_dict(tmp_path)


def test_prefix_is_cut_off_and_integers_keep_their_type(tmp_path):
    content = {"x.a": torch.ones(2), "x.n": torch.tensor(3), "y.a": torch.ones(1)}
    torch.save(content, tmp_path / "m.bin")
    state = read_state_dict(tmp_path / "m.bin", prefix="x.", dtype=torch.bfloat16)
    assert {k: v.dtype for k, v in state.items()} == {"a": torch.bfloat16, "n": torch.int64}


def test_module_on_meta_takes_the_tensors_over_without_a_copy():
    with torch.device("meta"):
        module = nn.Linear(2, 3)
    state = {"weight": torch.ones(3, 2, dtype=torch.float16), "bias": torch.ones(3)}
    load_into(module, state)
    assert module.weight.data_ptr() == state["weight"].data_ptr()
    assert module.weight.requires_grad


def test_module_with_storage_gets_a_copy():
    module = nn.Linear(2, 3)
    state = {"weight": torch.ones(3, 2), "bias": torch.ones(3)}
    load_into(module, state)
    state["weight"].zero_()
    assert module.weight.sum() == 6


def test_ignored_keys_may_be_missing_surplus_or_misshapen():
    module = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    state = module.state_dict()
    del state["0.bias"]
    state["disc.weight"] = torch.ones(1)
    state["1.bias"] = torch.ones(5)
    with pytest.raises(CheckpointError, match=r"file\.bin.*'0\.bias' is missing.*2 more"):
        load_into(module, state, source="file.bin")
    load_into(module, state, ignore=("disc.*", "*.bias"))


@pytest.mark.parametrize("name", ["x.safetensors", "x.bin"])
def test_headers_have_shapes_and_dtypes_but_no_values(tmp_path, name):
    content = {"a.w": torch.ones(2, 3, dtype=torch.float16), "b": torch.tensor(3)}
    (save_file if name.endswith("safetensors") else torch.save)(content, tmp_path / name)
    headers = read_headers(tmp_path / name)
    assert {key: (t.shape, t.dtype) for key, t in headers.items()} == {
        key: (t.shape, t.dtype) for key, t in content.items()
    }
    assert all(tensor.is_meta for tensor in headers.values())


def test_a_large_file_is_refused_by_its_header_without_being_read(tmp_path):
    """64 GB, of which the disk holds a hundred bytes: reading it would take minutes."""
    from hart.modules.models.autoencoder import HARTAutoEncoder, HARTAutoEncoderConfig

    size = 1 << 36
    header = {"encoder.x": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    text = json.dumps(header).encode()
    HARTAutoEncoderConfig(ch=32, ch_mult=(1,)).save_pretrained(tmp_path)
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + size)
    with pytest.raises(CheckpointError, match=r"'encoder\.conv_in\.weight' is missing"):
        HARTAutoEncoder.from_tokenizer_folder(tmp_path)


def test_weights_of_two_dtypes_need_one_to_be_loaded_in(tmp_path):
    from hart.modules.models.autoencoder import HARTAutoEncoder, HARTAutoEncoderConfig

    model = HARTAutoEncoder(HARTAutoEncoderConfig(ch=32, ch_mult=(1,)))
    model.quant_conv.half()
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"float16 and torch\.float32; give the dtype"):
        HARTAutoEncoder.from_tokenizer_folder(tmp_path)
    loaded = HARTAutoEncoder.from_tokenizer_folder(tmp_path, dtype=torch.float32)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
