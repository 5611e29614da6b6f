"""State dicts in the field's layouts: each is mapped to the bit, and a wrong variant of each is refused with its line."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from robust_cli.messages import UserError
from robust_cli.models.checkpoints import Found, load_state
from robust_cli.models.classifier import classifier

State = Mapping[str, torch.Tensor]
MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]


def network(seed: int) -> nn.Module:
    """Convolution, batch norm that has seen something, dense layer."""
    torch.manual_seed(seed)
    made = nn.Sequential()
    made.add_module("conv1", nn.Conv2d(3, 4, 3, padding=1))
    made.add_module("bn1", nn.BatchNorm2d(4))
    made.add_module("flat", nn.Flatten())
    made.add_module("linear", nn.Linear(4 * 6 * 6, 5))
    made(torch.rand(8, 3, 6, 6))
    return made.eval()


class NormalizeLayer(nn.Module):
    """As Cohen et al. write it: its numbers are no buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.means, self.sds = torch.tensor(MEAN), torch.tensor(STD)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images - self.means[:, None, None]) / self.sds[:, None, None]


class InsideNormalised(nn.Module):
    """As RobustBench writes it: buffers beside the network's own layers."""

    def __init__(self, made: nn.Module, names: tuple[str, str] = ("mu", "sigma")) -> None:
        super().__init__()
        for name, values in zip(names, (MEAN, STD), strict=True):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1))
        for name, part in made.named_children():
            self.add_module(name, part)


def prefixed(state: State, prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def cohen(made: nn.Module, **more: Any) -> dict[str, Any]:
    return {"epoch": 90, "arch": "cifar_resnet110", "state_dict": nn.Sequential(NormalizeLayer(), made).state_dict(),
            "optimizer": torch.optim.SGD(made.parameters(), lr=0.1, momentum=0.9).state_dict(), **more}


LAYOUTS: dict[str, tuple[Callable[[nn.Module], Any], str, str]] = {  # what is saved, its entry, its prefix
    "alone": (lambda made: made.state_dict(), "", ""),
    "state_dict": (lambda made: {"state_dict": made.state_dict(), "epoch": 3, "best": np.float64(0.9)}, "state_dict", ""),
    "model_state_dict": (lambda made: {"model_state_dict": made.state_dict()}, "model_state_dict", ""),
    "model": (lambda made: {"model": made.state_dict(), "args": argparse.Namespace(lr=0.1)}, "model", ""),
    "net": (lambda made: {"net": prefixed(made.state_dict(), "module."), "acc": 0.9}, "net", "module."),
    "deeper": (lambda made: {"checkpoint": {"model": made.state_dict()}, "epoch": 3}, "checkpoint.model", ""),
    "DataParallel": (lambda made: nn.DataParallel(made).state_dict(), "", "module."),
    "Lightning": (lambda made: {"state_dict": prefixed(made.state_dict(), "model."), "epoch": 1}, "state_dict", "model."),
    "network.": (lambda made: prefixed(made.state_dict(), "net."), "", "net."),
    "Cohen": (cohen, "state_dict", "1."),
    "Cohen, DataParallel": (lambda made: cohen(nn.DataParallel(made)), "state_dict", "1.module."),
    "SmoothAdv": (lambda made: cohen(made, state_dict=nn.DataParallel(nn.Sequential(NormalizeLayer(), made)).state_dict()),
                  "state_dict", "module.1."),
    "RobustBench": (lambda made: {"state_dict": prefixed(InsideNormalised(made).state_dict(), "module.")},
                    "state_dict", "module."),
    "RobustBench, model.": (lambda made: prefixed(InsideNormalised(made, ("mean", "std")).state_dict(), "model."), "", "model."),
    "ours": (lambda made: classifier(made, MEAN, STD).state_dict(), "", "network."),
    "compiled": (lambda made: prefixed(made.state_dict(), "_orig_mod."), "", "_orig_mod."),
    "beside an average": (lambda made: {"state_dict": made.state_dict(), "ema_state_dict": network(7).state_dict()},
                          "state_dict", ""),
}
WITH_BUFFERS = ("RobustBench", "RobustBench, model.", "ours")


def written(content: Any, path: Path, legacy: bool = False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def loaded(content: Any, path: Path, **how: Any) -> Found:
    """Load into other weights; the answers must then be the saved model's."""
    target, images = network(1), torch.rand(4, 3, 6, 6)
    found = load_state(target, written(content, path), 3, **how)
    assert torch.equal(target(images), network(0)(images))
    assert all(torch.equal(tensor, network(0).state_dict()[name]) for name, tensor in target.state_dict().items())
    return found


def refused(content: Any, path: Path, **how: Any) -> str:
    """The one line; the network must be left as it was."""
    target = network(1)
    with pytest.raises(UserError) as caught:
        load_state(target, content if isinstance(content, Path) else written(content, path), 3, **how)
    assert all(torch.equal(tensor, network(1).state_dict()[name]) for name, tensor in target.state_dict().items())
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_mapped_to_the_bit(layout: str, tmp_path: Path) -> None:
    save, entry, prefix = LAYOUTS[layout]
    found = loaded(save(network(0)), tmp_path / "w.pth")
    assert (found.entry, found.prefix) == (entry, prefix)
    assert found.hides_a_layer == (layout in ("Cohen", "Cohen, DataParallel", "SmoothAdv"))
    if layout in WITH_BUFFERS:
        assert torch.equal(torch.tensor(found.mean), torch.tensor(MEAN))
        assert torch.equal(torch.tensor(found.std), torch.tensor(STD))
    else:
        assert (found.mean, found.std) == (None, None)


def changed(content: Any, change: Callable[[dict[str, torch.Tensor]], None]) -> Any:
    """The content with its state dict changed, wherever that is."""
    if all(isinstance(value, torch.Tensor) for value in content.values()):
        state = dict(content)
        change(state)
        return state
    return {key: changed(value, change) if key in ("state_dict", "model_state_dict", "model", "net", "checkpoint") else value
            for key, value in content.items()}


def name_of(state: State, ending: str) -> str:
    return next(name for name in state if name.endswith(ending))


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "beside an average"])
def test_a_wrong_variant_of_every_layout_is_refused(layout: str, tmp_path: Path) -> None:
    content, path = LAYOUTS[layout][0](network(0)), tmp_path / "w.pth"
    missing = refused(changed(content, lambda state: state.pop(name_of(state, "linear.bias"))), path)
    assert "these are not the weights of this model" in missing
    assert "tensor linear.bias is missing;" in missing
    more = refused(changed(content, lambda state: state.update({name_of(state, "bn1.bias") + "2": torch.zeros(4)})), path)
    assert "bn1.bias2 that the model lacks;" in more
    other = refused(changed(content, lambda state: state.update({name_of(state, "linear.weight"): torch.zeros(7, 144)})), path)
    assert "tensor linear.weight: expected shape [5, 144], found [7, 144];" in other
    beside = refused(changed(content, lambda state: state.update({"linear2.conv1.weight": torch.zeros(4)})), path)
    assert "the file has a tensor linear2.conv1.weight that the model lacks;" in beside


@pytest.mark.parametrize("layout", WITH_BUFFERS)
def test_a_normalisation_of_other_images_or_in_part_is_refused(layout: str, tmp_path: Path) -> None:
    content, path = LAYOUTS[layout][0](network(0)), tmp_path / "w.pth"
    end = "mu" if layout == "RobustBench" else "mean"
    for numbers in ([123.7, 116.3, 103.5], [0.5, 0.5]):
        other = changed(content, lambda state: state.update({name_of(state, end): torch.tensor(numbers)}))  # noqa: B023
        assert "is not one of images in [0, 1] with 3 channel(s)" in refused(other, path)
    part = refused(changed(content, lambda state: state.pop(name_of(state, end))), path)
    assert "that the model lacks" in part


def test_numbers_deep_in_the_network_are_no_normalisation(tmp_path: Path) -> None:
    state = network(0).state_dict() | {"bn1.inner.mean": torch.zeros(3), "bn1.inner.std": torch.ones(3)}
    assert "bn1.inner.mean that the model lacks" in refused(state, tmp_path / "w.pth")


def test_one_number_serves_all_channels(tmp_path: Path) -> None:
    found = loaded(network(0).state_dict() | {"normalize.mean": torch.tensor(0.5), "normalize.std": torch.tensor([0.25])},
                   tmp_path / "w.pth")
    assert (found.mean, found.std) == ([0.5] * 3, [0.25] * 3)


def test_averages_are_taken_by_name_only(tmp_path: Path) -> None:
    path, average = tmp_path / "w.pth", network(0).state_dict()
    assert refused({"epoch": 3, "ema_state_dict": average}, path).endswith("to take those: model.entry=ema_state_dict")
    wrong = {"state_dict": {"x": torch.zeros(3)}, "ema_state_dict": average}
    assert "only as running averages" in refused(wrong, path)
    assert loaded({"ema_state_dict": average, "epoch": 1}, path, entry="ema_state_dict").entry == "ema_state_dict"
    both = {"model": network(5).state_dict(), "model_ema": average}
    assert loaded(both, path, entry="model_ema").entry == "model_ema"
    assert loaded({"swa": prefixed(average, "module.") | {"n_averaged": torch.tensor(3)}}, path, entry="swa").prefix == "module."


def test_what_fits_twice_is_refused_until_it_is_named(tmp_path: Path) -> None:
    both, path = {"model": network(0).state_dict(), "best_model": network(5).state_dict()}, tmp_path / "w.pth"
    assert "in more than one way (entry model, names as they are and entry best_model" in refused(both, path)
    assert loaded(both, path, entry="model").entry == "model"
    assert "model.entry=modle: no such state dict; there are: best_model, model" in refused(both, path, entry="modle")
    twice = prefixed(network(0).state_dict(), "student.") | prefixed(network(5).state_dict(), "other.")
    assert "that the model lacks" in refused(twice, path)


def test_half_precision_is_widened_and_nothing_is_narrowed(tmp_path: Path) -> None:
    target, half = network(1), {name: t.half() if t.is_floating_point() else t for name, t in network(0).state_dict().items()}
    load_state(target, written(half, tmp_path / "w.pth"), 3)
    assert torch.equal(target.state_dict()["linear.weight"], half["linear.weight"].float())
    double = {name: t.double() if t.is_floating_point() else t for name, t in network(0).state_dict().items()}
    assert "expected torch.float32, found torch.float64" in refused(double, tmp_path / "w.pth")


def test_counters_of_old_batch_norms_may_be_missing(tmp_path: Path) -> None:
    old = {name: tensor for name, tensor in network(0).state_dict().items() if "num_batches" not in name}
    target = network(1)
    load_state(target, written(old, tmp_path / "w.pth"), 3)
    assert torch.equal(target(torch.ones(1, 3, 6, 6)), network(0)(torch.ones(1, 3, 6, 6)))


def test_safetensors_and_torchs_old_format(tmp_path: Path) -> None:
    save_file(dict(network(0).state_dict()), tmp_path / "w.safetensors")
    for path in (tmp_path / "w.safetensors", written(cohen(network(0)), tmp_path / "w.pth.tar", legacy=True)):
        target = network(1)
        load_state(target, path, 3)
        assert torch.equal(target.state_dict()["conv1.weight"], network(0).state_dict()["conv1.weight"])


def test_pickled_models_are_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "it ran"

    class Hostile:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (mark,)

    for content in ({"state_dict": network(0).state_dict(), "x": Hostile()}, Hostile()):
        assert "holds a pickled object (" in refused(content, tmp_path / "w.pth")
        assert not mark.exists()
    assert "holds a pickled object (torch.nn.modules" in (text := refused(network(0), tmp_path / "w.pth"))
    assert text.endswith("save the state dict alone: torch.save(model.state_dict(), 'weights.pth')")
    (tmp_path / "raw.pkl").write_bytes(pickle.dumps(Hostile()))
    refused(tmp_path / "raw.pkl", tmp_path)
    assert not mark.exists()


@pytest.mark.parametrize("content", [b"", b"PK", b"\x80\x02", b"{}", b"\xff" * 900, b"PK\x03\x04" + b"\0" * 300])
def test_damaged_files_are_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    assert "expected weights as safetensors or as torch.save writes a state dict" in refused(tmp_path / "w.pth", tmp_path)


def test_files_without_weights_and_no_files(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "nothing.pth", tmp_path)
    assert "found a folder" in refused(tmp_path, tmp_path)
    assert "expected a state dict (names with tensors), found list" in refused([1, 2], tmp_path / "w.pth")
    assert "expected a state dict (names with tensors), found none" in refused({"epoch": 3}, tmp_path / "w.pth")
