"""Programs from files and the questions put to any model: what is no classifier of a data set's images is refused in a line."""

from __future__ import annotations

import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from robust_cli.messages import UserError, Wrong
from robust_cli.models.checkpoints import load_state
from robust_cli.models.exported import Exported, _is_symbolic
from robust_cli.models.foreign import TorchScript, check_answers, check_bf16, torchvision_model

SHAPE, CLASSES, CPU = (1, 8, 8), 3, torch.device("cpu")


def network(dropout: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    parts: list[nn.Module] = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, CLASSES)]
    made = nn.Sequential(*parts, *([nn.Dropout()] if dropout else []))
    made(torch.rand(8, *SHAPE))
    return made.eval()


def images(n: int = 5) -> torch.Tensor:
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(1))


def scripted(model: nn.Module, path: Path, traced: bool = False, frozen: bool = False) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = torch.jit.trace(model, images(), check_trace=False) if traced else torch.jit.script(model)
        (torch.jit.freeze(made) if frozen else made).save(str(path))
    return str(path)


def exported(model: nn.Module, path: Path, batch: Any = None) -> str:
    shapes = ({0: batch if batch is not None else torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(model, (images(),), dynamic_shapes=shapes), path)
    return str(path)


def ask(model: nn.Module, shape: tuple[int, int, int] = SHAPE, classes: int = CLASSES, precision: str = "fp32") -> None:
    check_answers(model, shape, classes, "digits", CPU, precision)


def line(call: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(params=["scripted", "traced", "exported", "exported, automatic batch"])
def program(request: pytest.FixtureRequest, tmp_path: Path) -> nn.Module:
    if request.param in ("scripted", "traced"):
        return TorchScript(scripted(network(), tmp_path / "net.pt", traced=request.param == "traced")).eval()
    batch = torch.export.Dim.AUTO if "automatic" in request.param else None
    return Exported(exported(network(), tmp_path / "net.pt2", batch)).eval()


def test_programs_answer_bit_for_bit_as_the_model_they_were_made_from(program: nn.Module) -> None:
    ask(program)
    for n in (1, 2, 64):
        for _ in range(3):  # executors that optimise after some runs would differ
            with torch.inference_mode():
                assert torch.equal(program(images(n)), network()(images(n)))


def test_gradients_reach_the_image_and_not_the_weights(program: nn.Module) -> None:
    found, expected = images().requires_grad_(), images().requires_grad_()
    program(found).square().sum().backward()
    network()(expected).square().sum().backward()
    assert found.grad is not None
    assert torch.allclose(found.grad, expected.grad, atol=1e-6)
    assert found.grad.abs().sum() > 0
    assert list(program.parameters()) == []


def test_programs_can_be_put_into_a_sequence_and_frozen_as_any_model(program: nn.Module) -> None:
    whole = nn.Sequential(program).train().to(memory_format=torch.channels_last).eval()
    assert not any(part.training for part in whole.modules())
    ask(whole, precision="bf16")
    check_bf16(whole, SHAPE, CLASSES, "digits", CPU)


def test_a_frozen_script_has_its_weights_in_its_code(tmp_path: Path) -> None:
    model = TorchScript(scripted(network(), tmp_path / "net.pt", frozen=True))
    ask(model)
    assert torch.allclose(model(images()), network()(images()), atol=1e-5)


def test_a_program_that_fixes_its_precision_is_not_called_bf16() -> None:
    class Stubborn(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", enabled=False):
                return images.float().flatten(1) @ torch.eye(64)[:, :CLASSES]

    assert "found one that fixes its own precision" in line(lambda: check_bf16(Stubborn(), SHAPE, CLASSES, "digits", CPU))


@pytest.mark.parametrize(("shape", "classes", "text"), [
    (SHAPE, 10, "model: expected logits [1, 10] for dataset=digits, the model answers [1, 3]"),
    ((3, 8, 8), 3, "model: expected logits [1, 3] for dataset=digits, the model cannot take its images [1, 3, 8, 8] ("),
    ((1, 28, 28), 3, "model: expected logits [1, 3] for dataset=digits, the model cannot take its images [1, 1, 28, 28] ("),
])
def test_images_and_classes_of_another_data_set(program: nn.Module, shape: Any, classes: int, text: str) -> None:
    said = line(lambda: ask(program, shape, classes))
    assert said.startswith(text)
    assert said.count("Error: ") == text.endswith("(")  # torch's own line names the kind of error again


class Answers(nn.Module):
    """A model that answers whatever is asked of it."""

    def __init__(self, answer: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, images: torch.Tensor) -> Any:
        return self.answer(images)


@pytest.mark.parametrize(("answer", "text"), [
    (lambda x: (x, x), "expected logits [1, 3] for dataset=digits, the model answers a tuple"),
    (lambda x: x[:, 0, 0, :3].argmax(1), "the model answers [1] of torch.int64"),
    (lambda x: x[:, 0, 0, :3].long(), "the model answers [1, 3] of torch.int64"),
    (lambda x: x[:, 0, 0, :3] / 0, "expected finite logits"),
    (lambda x: x[:1, 0, 0, :3], "expected logits [8, 3] for dataset=digits, the model answers [1, 3]"),
    (lambda x: x[:, 0, 0, :3] - x[:, 0, 0, :3].mean(0), "one that depends on the others"),
    (lambda x: x[:, 0, 0, :3] + torch.arange(len(x))[:, None], "one that depends on the others"),
    (lambda x: x[:, 0, 0, :3] + torch.rand(len(x), 3), "found another each time"),
    (lambda x: 1 / 0, "the model cannot take its images [1, 1, 8, 8] (ZeroDivisionError: division by zero)"),
])
def test_what_is_no_classifier_is_refused(answer: Callable[[torch.Tensor], Any], text: str) -> None:
    assert text in line(lambda: ask(Answers(answer)))


def test_rounding_is_no_dependence_on_the_batch() -> None:
    for scale in (1e-3, 1.0, 1e3):
        ask(Answers(lambda x: scale * (x[:, 0, 0, :3] + 1e-5 * torch.arange(len(x))[:, None])))  # noqa: B023
        with pytest.raises(UserError):
            ask(Answers(lambda x: scale * (x[:, 0, 0, :3] + 1e-2 * torch.arange(len(x))[:, None])))  # noqa: B023


@pytest.mark.parametrize(("dropout", "text"), [(True, "found another each time"), (False, "one that depends on the others")])
@pytest.mark.parametrize("traced", [True, False])
def test_a_script_left_in_training_mode(dropout: bool, text: str, traced: bool, tmp_path: Path) -> None:
    """Traced, that is baked in; a script is switched to evaluation mode, as any model is."""
    model = TorchScript(scripted(network(dropout).train(), tmp_path / "net.pt", traced=traced)).eval()
    if not traced:
        ask(model)
    else:
        assert text in line(lambda: ask(model))


def test_batch_norm_of_large_images_is_noticed_too() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3)
    model = Answers(lambda x: nn.functional.batch_norm(x, None, None, training=True).mean((2, 3)) * 1e-3)
    assert "one that depends on the others" in line(lambda: ask(model, (3, 96, 96)))
    ask(Answers(lambda x: norm.eval()(x).mean((2, 3)) * 1e-3), (3, 96, 96))


def test_a_fixed_batch_says_how_to_export(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(network(), (images(),)), tmp_path / "net.pt2")
    found = line(lambda: Exported(str(tmp_path / "net.pt2")))
    assert "was exported for batches of exactly 5; export it for any number of images" in found
    assert "dynamic_shapes=({0: torch.export.Dim('batch')},)" in found


def test_each_kind_of_file_is_told_from_the_others(tmp_path: Path) -> None:
    script, program = scripted(network(), tmp_path / "s.pt"), exported(network(), tmp_path / "e.pt2")
    weights = str(tmp_path / "w.pth")
    torch.save(network().state_dict(), weights)
    assert "holds weights and no program" in line(lambda: TorchScript(weights))
    assert "found another" in line(lambda: Exported(weights))
    assert "found another" in line(lambda: Exported(script))
    assert f"model=torchscript model.file={script}" in line(lambda: load_state(network(), script, 1))
    assert f"model=exported model.file={program}" in line(lambda: load_state(network(), program, 1))
    for made in (TorchScript, Exported):
        (tmp_path / "cut").write_bytes(Path(script if made is TorchScript else program).read_bytes()[:-300])
        assert "found a damaged or other one" in line(lambda: made(str(tmp_path / "cut")))  # noqa: B023
        assert "cannot read it (No such file or directory)" in line(lambda: made(str(tmp_path / "nothing")))  # noqa: B023


def test_a_script_that_writes_files_is_refused(tmp_path: Path) -> None:
    class Writes(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            torch.save(images, "it ran")
            return images.flatten(1)[:, :3]

    path = scripted(Writes(), tmp_path / "net.pt")
    assert "its program uses" in line(lambda: TorchScript(path))


def rewritten(file: str, change: Callable[[str, bytes], bytes], more: dict[str, bytes] | None = None) -> str:
    """The archive with its records changed."""
    target = io.BytesIO()
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        top = old.namelist()[0].partition("/")[0]
        for entry in old.infolist():
            new.writestr(entry.filename, change(entry.filename.partition("/")[2], old.read(entry.filename)))
        for name, content in (more or {}).items():
            new.writestr(f"{top}/{name}", content)
    path = Path(file).with_name("hostile.pt2")
    path.write_bytes(target.getvalue())
    return str(path)


MARK: list[str] = []


class Hostile:
    def __reduce__(self) -> tuple[object, ...]:
        return MARK.append, ("it ran",)


def in_graph(old: str, new: str) -> Callable[[str, bytes], bytes]:
    def change(name: str, content: bytes) -> bytes:
        if name != "models/model.json":
            return content
        assert old in content.decode()
        return content.decode().replace(old, new).encode()

    return change


def in_constants(name: str, content: bytes) -> bytes:
    if name != "data/constants/model_constants_config.json":
        return content
    return json.dumps({"config": {"x": {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True,
                                        "tensor_meta": None}}}).encode()


def in_weights(name: str, content: bytes) -> bytes:
    if name == "data/weights/weight_0":
        return pickle.dumps(Hostile())
    if name != "data/weights/model_weights_config.json":
        return content
    config = json.loads(content)
    config["config"]["0.weight"]["use_pickle"] = True
    return json.dumps(config).encode()


HOSTILE: dict[str, tuple[Callable[[str, bytes], bytes], dict[str, bytes]]] = {
    "an operator that is a system call": (in_graph("torch.ops.aten.relu.default", "torch.os.system"), {}),
    "an operator that reads files": (in_graph("torch.ops.aten.relu.default", "torch.ops.aten.from_file.default"), {}),
    "an operator of an extension": (in_graph("torch.ops.aten.relu.default", "#mine:x"), {}),
    "a size that is a call": (in_graph("Symbol('", "__import__('os').system('"), {}),
    "a size that looks up an attribute": (in_graph("Symbol('", "Symbol.x('"), {}),
    "a name that is code": (in_graph('"name": "relu"', '"name": "relu=print(1)"'), {}),
    "a guard that is a call": (in_graph('"guards_code": []', '"guards_code": ["print(1)"]'), {}),
    "a pickled constant": (in_constants, {"data/constants/opaque_obj_0": pickle.dumps(Hostile())}),
    "a pickled weight": (in_weights, {}),
    "pickled sample inputs": (lambda name, content: pickle.dumps(Hostile()) if name.startswith("data/sample") else content, {}),
    "compiled code": (lambda name, content: content, {"data/aotinductor/model/x.so": b"x"}),
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_hostile_export_is_refused_before_it_is_loaded(attack: str, tmp_path: Path) -> None:
    change, more = HOSTILE[attack]
    file = rewritten(exported(network(), tmp_path / "net.pt2"), change, more)
    assert "could run its author's code" in line(lambda: Exported(file))
    assert MARK == []


def test_an_export_that_is_only_rewritten_is_loaded(tmp_path: Path) -> None:
    """So what is refused above is refused for what was changed."""
    file = rewritten(exported(network(), tmp_path / "net.pt2"), lambda name, content: content)
    assert torch.equal(Exported(file)(images()), network()(images()))


@pytest.mark.parametrize(("text", "expected"), [
    ("Symbol('s0', positive=True, integer=True)", True), ("Mul(Integer(2), Symbol('s0'))", True), ("2*s0 + 1", True),
    ("s0 // 4", True), ("Max(1, s0)", True), ("exit()", False), ("(lambda: 1)()", False), ("[1]", False), ("s0.x", False),
    ("Symbol('a b')", False), ("__import__", False), ("(" * 300, False),
])
def test_symbolic_sizes(text: str, expected: bool) -> None:
    assert _is_symbolic(text) == expected


def test_torchvisions_models_by_name(tmp_path: Path) -> None:
    torch.manual_seed(3)
    original = torchvision_model("squeezenet1_1", (3, 32, 32), 10).eval()
    torch.save({"state_dict": nn.DataParallel(original).state_dict()}, tmp_path / "w.pth")
    model = torchvision_model("squeezenet1_1", (3, 32, 32), 10).eval()
    load_state(model, tmp_path / "w.pth", 3)
    ask(model, (3, 32, 32), 10)
    pixels = torch.rand(2, 3, 32, 32)
    assert torch.equal(model(pixels), original(pixels))
    with pytest.raises(Wrong, match="one of torchvision's classifiers \\(did you mean resnet18"):
        torchvision_model("resnt18", (3, 32, 32), 10)
    with pytest.raises(Wrong, match="3 channels"):
        torchvision_model("resnet18", (1, 28, 28), 10)
    other = torchvision_model("squeezenet1_1", (3, 32, 32), 100)
    assert "expected shape [100, 512, 1, 1], found [10, 512, 1, 1]" in line(lambda: load_state(other, tmp_path / "w.pth", 3))
