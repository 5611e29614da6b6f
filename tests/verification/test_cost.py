"""What a pass is said to cost is what it costs, and what does not fit is refused at once, with what to change."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from robust_cli.messages import UserError
from robust_cli.models.classifier import classifier
from robust_cli.models.cnn_small import CnnSmall
from robust_cli.models.resnet import BasicBlock, ResNet
from robust_cli.models.wrn import Wrn
from robust_cli.verification import cost as costs
from robust_cli.verification.bounds import Ball, margins, widest_row
from robust_cli.verification.cost import Cost, available_bytes, check_fits, cost, images_that_fit, projected_cost
from robust_cli.verification.program import Program
from robust_cli.verification.projections import projected_margins
from robust_cli.verification.reading import read

Shape = tuple[int, int, int]
GREY, COLOUR = (1, 28, 28), (3, 32, 32)


def dense(shape: Shape, width: int = 100) -> nn.Module:
    pixels = shape[0] * shape[1] * shape[2]
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, 2 * width), nn.ReLU(), nn.Linear(2 * width, width), nn.ReLU(),
                         nn.Linear(width, 50), nn.ReLU(), nn.Linear(50, 10))


def residual(shape: Shape) -> nn.Module:
    """The first blocks of a resnet20, with 4 and 6 channels."""
    return nn.Sequential(nn.Conv2d(shape[0], 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
                         BasicBlock(4, 4, 1, nn.Identity()), BasicBlock(4, 6, 2, nn.Conv2d(4, 6, 1, 2)),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10))


def program_of(network: nn.Module, shape: Shape) -> Program:
    """Of weights such that about half of the units are unstable at a radius of 0.1."""
    return read(classifier(network, [0.1] * shape[0], [0.3] * shape[0]).eval(), shape)


KINDS: dict[str, Callable[[], tuple[nn.Module, Shape]]] = {
    "cnn_small on 1x28x28": lambda: (CnnSmall(GREY, 10), GREY), "cnn_small on 3x32x32": lambda: (CnnSmall(COLOUR, 10), COLOUR),
    "dense": lambda: (dense(GREY), GREY), "residual on 1x14x14": lambda: (residual((1, 14, 14)), (1, 14, 14)),
    "residual on 3x10x10": lambda: (residual((3, 10, 10)), (3, 10, 10))}


@pytest.fixture(params=KINDS)
def program(request: pytest.FixtureRequest) -> Program:
    torch.manual_seed(0)
    return program_of(*KINDS[request.param]())


def some(program: Program, n: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(n, *program.nodes[0].shape, dtype=dtype), torch.arange(n) % 10


class Held(TorchDispatchMode):
    """Bytes of all tensors that were made and are still there, and the most that ever were."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.most = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self.alive:
                storage = tensor.untyped_storage()
                self.alive[storage._cdata] = storage.nbytes()
                weakref.finalize(storage, self.alive.pop, storage._cdata)
        self.most = max(self.most, sum(self.alive.values()))
        return made


class Counted(TorchDispatchMode):
    """Multiplications and additions of matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        if function.overloadpacket in flop_registry:
            self.operations += flop_registry[function.overloadpacket](*args, **(kwargs or {}), out_val=made)
        return made


class Nothing(TorchDispatchMode):
    """No operation at all."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{function} was computed")


def kept(bounds: Callable[[], torch.Tensor], program: Program) -> int:
    """Bytes that autograd saves, each storage once, but for weights."""
    layers = [getattr(node.part, "layer", None) for node in program.nodes]
    weights = {tensor.untyped_storage().data_ptr() for layer in layers if layer is not None for tensor in layer.parameters()}
    saved: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no address is used twice
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        found = bounds()
    assert found.requires_grad
    return sum(tensor.untyped_storage().nbytes() for place, tensor in saved.items() if place not in weights)


def test_what_is_kept_for_the_gradient_is_what_autograd_saves(program: Program) -> None:
    """Within an eighth: what has the size of a layer (boxes, slopes, masks) is not counted, nor are kernels as matrices."""
    for n in (1, 4):
        images, labels = some(program, n)
        measured = kept(lambda images=images, labels=labels: margins(program, images, labels, Ball("l2", 0.1)), program)
        assert 0.875 < cost(program).kept_bytes(n) / measured < 1.125, f"{n} images"


def test_the_most_that_a_step_holds_is_near(program: Program) -> None:
    """Within a factor of 1.7, rather below: a backward pass lets go of what it has used, which is not modelled."""
    images, labels = some(program, 4)
    with Held() as held:
        margins(program, images, labels, Ball("l2", 0.1)).sum().backward()
    assert 0.6 < held.most / cost(program).training_bytes(4) < 1.1


@pytest.mark.parametrize("at_once", [2**25, 2**18])
def test_the_most_that_a_certificate_holds_is_near(program: Program, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robust_cli.verification.bounds._AT_ONCE", at_once)
    monkeypatch.setattr(costs, "_AT_ONCE", at_once)
    images, labels = some(program, 8)
    with torch.no_grad(), Held() as held:
        margins(program, images, labels, Ball("l2", 0.1))
    assert 0.6 < held.most / (cost(program).certifying_bytes(8) / 2) < 1.2  # float32 here


def test_what_projections_keep(program: Program) -> None:
    """Where most layers have more unstable units than vectors; others cost less than is said."""
    images, labels = some(program, 3)
    generator = torch.Generator()
    measured = kept(lambda: projected_margins(program, images, labels, Ball("l2", 0.5), 20, generator), program)
    assert 0.85 < projected_cost(program, 20).kept_bytes(3) / measured < 1.2


def test_multiplications_are_those_that_torch_counts() -> None:
    """Of dense layers, where no convolution is done as a larger product; torch counts an addition beside each."""
    program = program_of(dense(GREY), GREY)
    images, labels = some(program, 1)
    with torch.no_grad(), Counted() as counted:
        margins(program, images, labels, Ball("l2", 0.1))
    assert 0.95 < 2 * cost(program).multiplications / counted.operations < 1.05


def test_hand_counted() -> None:
    """Layers of 4, 3, 2 and 2 values. Kept of each image's rows: three tensors about a ReLU, one at each other layer and at the
    image; what no ReLU has changed yet is the same for all images."""
    layers = nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2)
    made = cost(program_of(nn.Sequential(*layers), (1, 2, 2)))
    assert list(made.rows.values()) == [3, 2, 2]
    assert [layer.widest for layer in made.layers] == [4, 4, 4]
    assert [layer.kept for layer in made.layers] == [0, 6 + 8, 4 + 8 + 4 + 12 + 6 + 8]
    assert [layer.shared for layer in made.layers] == [9 + 12, 4 + 12, 0]
    assert [layer.multiplications for layer in made.layers] == [36 + 2 * 12, 12 + 18 + 24 + 2 * 8, 8 + 12 + 12 + 18 + 24 + 2 * 8]
    assert made.most.name == "margins"


def test_rows_are_as_wide_as_those_of_the_pass(program: Program) -> None:
    made = cost(program)
    assert [layer.widest for layer in made.layers[:-1]] == [widest_row(program, program.nodes[place].inputs[0])
                                                            for place in program.relus]


def numbers(made: Cost) -> list[int]:
    return [made.multiplications, made.kept_bytes(8), made.training_bytes(8), made.certifying_bytes(8), made.widest_row]


@pytest.mark.parametrize(("smaller", "larger"), [
    ((dense(GREY, 40), GREY), (dense(GREY, 60), GREY)), ((dense(GREY), GREY), (dense(COLOUR), COLOUR)),
    ((CnnSmall((1, 20, 20), 10), (1, 20, 20)), (CnnSmall(GREY, 10), GREY)),
    ((ResNet((3, 8, 8), 10, 8), (3, 8, 8)), (ResNet((3, 16, 16), 10, 8), (3, 16, 16)))])
def test_larger_layers_cost_more(smaller: tuple[nn.Module, Shape], larger: tuple[nn.Module, Shape]) -> None:
    few, many = (program_of(*network) for network in (smaller, larger))
    assert all(a <= b for a, b in zip(numbers(cost(few)), numbers(cost(many)), strict=True))
    assert cost(few).kept_bytes(1) < cost(many).kept_bytes(1)
    for k in (10, 50):
        a, b = projected_cost(few, k), projected_cost(many, k)
        assert a.kept_bytes(8) <= b.kept_bytes(8)
        assert a.multiplications < b.multiplications
    assert projected_cost(many, 10).kept_bytes(8) < projected_cost(many, 50).kept_bytes(8)


def test_more_images_cost_more(program: Program) -> None:
    for made in (cost(program), projected_cost(program, 50)):
        needed = [(made.training_bytes(n), made.certifying_bytes(n)) for n in (1, 2, 10, 100, 1000)]
        assert needed == sorted(needed)
        assert [certifying for _, certifying in needed] == sorted(certifying for _, certifying in needed)


# ---- Whether it fits ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("make", [lambda: ResNet(COLOUR, 10, 20), lambda: ResNet(COLOUR, 10, 110),
                                  lambda: Wrn(COLOUR, 10, 16, 4)], ids=["resnet20", "resnet110", "wrn"])
def test_networks_too_large_for_exact_training_are_refused_at_once(make: Callable[[], nn.Module]) -> None:
    program = program_of(make(), COLOUR)
    with Nothing(), pytest.raises(UserError) as raised:
        check_fits(program, 64, 16 * 10**9, training=True)
    line = str(raised.value)
    assert "\n" not in line
    for part in ("regime lp_dual: expected bounds that fit into memory (16.0 GB), found", "TB for 64 image(s) at once",
                 "most of it for network.layers.", "rows of up to", "use regime.projections=50 or a smaller network"):
        assert part in line, line
    assert "training.batch_size" not in line  # not one image fits


def test_a_batch_that_would_fit_is_named() -> None:
    program = program_of(CnnSmall(GREY, 10), GREY)
    there = cost(program).training_bytes(20)
    assert images_that_fit(program, 128, there, training=True) == 20
    assert images_that_fit(program, 7, there, training=True) == 7
    assert images_that_fit(program, 128, 1000, training=True) == 0
    check_fits(program, 20, there, training=True)
    with pytest.raises(UserError, match=r"use training\.batch_size=20 or regime\.projections=50 or a smaller network") as raised:
        check_fits(program, 21, there, training=True)
    assert f"{cost(program).training_bytes(21) / 1e9:.1f} GB for 21 image(s)" in str(raised.value)
    assert "network.layers.6 (100 rows of up to 3,136 numbers for each image)" in str(raised.value)


def test_projections_fit_where_exact_bounds_do_not() -> None:
    program = program_of(ResNet(COLOUR, 10, 20), COLOUR)
    check_fits(program, 1, 32 * 10**9, training=True, projections=10)
    with pytest.raises(UserError, match=r"regime\.projections=50"):
        check_fits(program, 1, 32 * 10**9, training=True)
    with pytest.raises(UserError, match=r"vectors of up to .* training\.batch_size=\d+ or regime\.projections below 50"):
        check_fits(program, 512, 32 * 10**9, training=True, projections=50)


def test_certificates_take_parts_of_layers_and_fit_for_longer() -> None:
    program = program_of(ResNet(COLOUR, 10, 20), COLOUR)
    check_fits(program, 1, 4 * 10**9, training=False)
    with pytest.raises(UserError) as raised:
        check_fits(program, 64, 4 * 10**9, training=False)
    line = str(raised.value)
    assert line.startswith("certificate lp_dual: ")
    assert "use a smaller network" in line
    assert "regime" not in line
    fit = images_that_fit(program, 64, 4 * 10**9, training=False)
    assert 1 <= fit < 64
    assert cost(program).certifying_bytes(fit) <= 4 * 10**9 < cost(program).certifying_bytes(fit + 1)


def test_memory_that_is_there() -> None:
    found = available_bytes(torch.device("cpu"))
    assert 10**7 < found < 10**14


def test_a_job_s_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text("3000000000\n")
    (tmp_path / "memory.stat").write_text("anon 2990000000\nfile 12\n")
    monkeypatch.setattr(costs, "_GROUP", tmp_path)
    assert available_bytes(torch.device("cpu")) == 10_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes(torch.device("cpu")) > 10_000_000
