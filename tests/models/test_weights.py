from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from robust_cli.messages import UserError
from robust_cli.models.classifier import classifier
from robust_cli.models.weights import fingerprint, load, save

SETTINGS = {"_target_": "a.Network", "width": 8, "shape": [1, 3, 4]}


def model(seed: int = 0, width: int = 8) -> nn.Sequential:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Flatten(),
                            nn.Linear(48, width), nn.BatchNorm1d(width), nn.Linear(width, 3))
    return classifier(network, [0.5], [0.25])


def test_what_is_loaded_is_what_was_saved_to_the_bit(tmp_path: Path) -> None:
    saved, loaded = model(0), model(1)
    saved.get_buffer("network.3.running_var").add_(0.125)
    save(saved, tmp_path / "model.safetensors")
    load(loaded, tmp_path / "model.safetensors")
    for name, tensor in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    original = fingerprint(saved, SETTINGS, "fp32")
    assert fingerprint(loaded, SETTINGS, "fp32") == original != fingerprint(model(1), SETTINGS, "fp32")
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_tied_and_channels_last_weights_are_saved(tmp_path: Path) -> None:
    first, second = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)
    network: nn.Module = nn.Sequential(first, second).to(memory_format=torch.channels_last)
    second.weight = first.weight
    before = fingerprint(network, {}, "fp32")
    save(network, tmp_path / "w")
    with torch.no_grad():
        first.weight.zero_()
    load(network, tmp_path / "w")
    assert fingerprint(network, {}, "fp32") == before
    assert not first.weight.is_contiguous()
    first.weight.data = first.weight.data.contiguous()
    assert fingerprint(network, {}, "fp32") == before


def test_the_fingerprint_sees_the_last_bit_of_every_tensor() -> None:
    network = model()
    found = {fingerprint(network, SETTINGS, "fp32")}
    for tensor in network.state_dict().values():
        last = tensor.view(-1)[-1:]
        bits = last.view(torch.int64 if last.element_size() == 8 else torch.int32)
        bits ^= 1
        found.add(fingerprint(network, SETTINGS, "fp32"))
        bits ^= 1
    assert len(found) == 1 + len(network.state_dict())
    assert len(network.state_dict()) == 2 + 2 + 2 + 5 + 2  # normalisation, convolution, dense, batch norm, dense
    assert fingerprint(network, SETTINGS, "fp32") in found


def test_the_fingerprint_sees_settings_precision_types_and_unsaved_buffers() -> None:
    network = model()
    first = fingerprint(network, SETTINGS, "fp32")
    others = {fingerprint(network, SETTINGS, "bf16"), fingerprint(network, {**SETTINGS, "width": 9}, "fp32"),
              fingerprint(network, {}, "fp32"), fingerprint(model().double(), SETTINGS, "fp32")}
    network.register_buffer("scale", torch.ones(1), persistent=False)
    others.add(fingerprint(network, SETTINGS, "fp32"))
    assert len(others | {first}) == 6
    assert len(first) == 64


def test_the_fingerprint_does_not_see_order_or_mode() -> None:
    network = model()
    first = fingerprint(network, SETTINGS, "fp32")
    assert fingerprint(network.eval(), dict(reversed(SETTINGS.items())), "fp32") == first
    assert fingerprint(network.requires_grad_(False), SETTINGS, "fp32") == first


def test_the_fingerprint_takes_half_precision_and_single_numbers() -> None:
    network = nn.Linear(2, 2).bfloat16()
    network.register_buffer("count", torch.tensor(3))
    assert fingerprint(network, {}, "bf16") != fingerprint(network.float(), {}, "bf16")


def refused(network: nn.Module, path: Path) -> str:
    """The one line; the model must be left as it was."""
    before = fingerprint(network, {}, "fp32")
    with pytest.raises(UserError) as caught:
        load(network, path)
    assert fingerprint(network, {}, "fp32") == before
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("keep", [0, 4, 100, -1, -200])
def test_a_file_that_was_cut_off_is_refused(keep: int, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save(model(), path)
    path.write_bytes(path.read_bytes()[:keep])
    assert "damaged" in refused(model(1), path)


def test_garbage_and_hostile_pickles_are_refused(tmp_path: Path) -> None:
    mark, path = tmp_path / "it ran", tmp_path / "model.safetensors"

    class Hostile:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (mark,)

    for content in (b"\xff" * 1000, b"{}", pickle.dumps(Hostile())):
        path.write_bytes(content)
        assert "damaged" in refused(model(), path)
    torch.save({"x": Hostile()}, path)
    assert "damaged" in refused(model(), path)
    assert not mark.exists()


def test_no_file_is_refused(tmp_path: Path) -> None:
    assert "found none" in refused(model(), tmp_path / "nothing")
    assert "found none" in refused(model(), tmp_path)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save(model(width=6), path)
    text = refused(model(), path)
    assert "tensor network.2.bias: expected shape [8], found [6]" in text
    assert "(and 6 more such)" in text

    save(model(), path)
    tensors = load_file(path)
    weight = tensors.pop("network.0.weight")
    save_file(tensors, path)
    assert "tensor network.0.weight is missing" in refused(model(), path)
    save_file({**tensors, "network.0.weight": weight, "extra": weight.clone()}, path)
    assert "a tensor extra that the model lacks" in refused(model(), path)
    save_file({**tensors, "network.0.weight": weight.bfloat16()}, path)
    assert "expected torch.float32, found torch.bfloat16" in refused(model(), path)
