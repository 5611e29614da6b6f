"""Models that were not made here: TorchScript files, torchvision's architectures, and the questions put to any of them."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robust_cli.messages import UserError, check, suggestion
from robust_cli.models.classifier import frozen

# Operations with which a TorchScript file could reach the disk or code that torch does not ship.
_REACHING = re.compile(rb"\b(save|load|from_file)\s*\(|\bops\.(?!(prim|aten|quantized|torchvision)\b)")
_CLOSE = {"fp32": 1e-3, "bf16": 0.05}  # of the largest logit; what rounding does in other batch sizes stays far below


class Fixed(nn.Module):
    """A program with its weights inside: nothing of it can be trained, moved or switched to another mode."""

    trainable = False
    answer: Callable[[torch.Tensor], Any]

    def __init__(self, answer: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.__dict__["answer"] = answer  # not a part in nn.Module's sense: its modes and memory formats are its own

    def forward(self, images: torch.Tensor) -> Any:
        return self.answer(images)


class TorchScript(Fixed):
    """A TorchScript file (torch.jit.save): images [n, C, H, W] to logits [n, K].

    Loading it runs no Python, but the program in it is its author's: files that reach for the disk or for operations that torch
    does not ship are refused. It runs without the executor's optimisations, which depend on how often it ran before.
    """

    def __init__(self, file: str, device: str = "cpu") -> None:
        content = contents(file)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is (deprecated|not supported)", FutureWarning)
            warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is (deprecated|not supported)", DeprecationWarning)
            try:
                _check_script(content, file)
                script = torch.jit.load(io.BytesIO(content), map_location=device)
            except (RuntimeError, ValueError) as error:
                raise UserError(f"model.file: {file}: expected a TorchScript file as torch.jit.save writes it, found a damaged "
                                f"or other one ({one_line(error)})") from error
        if hasattr(script, "training"):
            script.eval()
        for parameter in script.parameters():
            parameter.requires_grad_(False)
        super().__init__(script)

    def forward(self, images: torch.Tensor) -> Any:
        with torch.jit.optimized_execution(False):
            return self.answer(images)


def _check_script(content: bytes, file: str) -> None:
    reader = torch._C.PyTorchFileReader(io.BytesIO(content))
    names = reader.get_all_records()
    if "constants.pkl" not in names:
        raise UserError(f"model.file: {file}: holds weights and no program; name its class, model._target_=my_package.MyNet "
                        f"model.weights={file}")
    for name in names:
        if name.endswith(".py") and (found := _REACHING.search(reader.get_record(name))):
            raise UserError(f"model.file: {file}: its program uses {found[0].decode().strip('( ')}, with which it could reach "
                            "files or foreign code; script a model that only computes")


def torchvision_model(name: str, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """One of torchvision's classifiers by its name there (resnet18, ...), without weights.

    Raises Wrong for a name that is none, and for images without three channels, which all of them take.
    """
    import torchvision

    names = torchvision.models.list_models(module=torchvision.models)
    near = suggestion(name, names) if len(suggestion(name, names)) < 200 else "such as resnet18"
    check(name in names, "name", f"one of torchvision's classifiers ({near})", name)
    check(shape[0] == 3, "shape", "images with 3 channels, which torchvision's models take", list(shape))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The default weight initialization", FutureWarning)
        return torchvision.models.get_model(name, weights=None, num_classes=classes)


def contents(file: str) -> bytes:
    """A file whole, so that what is checked is what is loaded. Raises UserError."""
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise UserError(f"model.file: {file}: expected a model's file, cannot read it ({error.strerror})") from error


def one_line(error: BaseException) -> str:
    """The end of an error's text, where torch says what was wrong, without the name of its kind before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (re.sub(r"^[\w.]*(Error|Exception): ", "", lines[-1]) if lines else type(error).__name__)[:160]


def check_answers(model: nn.Module, shape: tuple[int, int, int], classes: int, dataset: str, device: torch.device,
                  precision: str) -> None:
    """Raise UserError unless the model is a classifier of a data set's images: [n, C, H, W] in [0, 1] to finite logits [n, K],
    the same whenever it is asked and whatever else is in the batch."""
    generator = torch.Generator().manual_seed(0)
    light = torch.linspace(0.2, 1, 8).view(8, 1, 1, 1)  # images that differ in what batch norm looks at
    images = (torch.rand(8, *shape, generator=generator) * light).to(device)
    close = _CLOSE[precision]
    one = _answers(model, images[:1], classes, dataset, precision)
    whole = _answers(model, images, classes, dataset, precision)
    if not _close(whole, _answers(model, images, classes, dataset, precision), close):
        raise UserError("model: expected the same answer to the same images, found another each time (dropout, or noise of its "
                        "own, was left on); save it in evaluation mode: model.eval()")
    elsewhere = _answers(model, torch.cat([1 - images[4:], images[:4]]), classes, dataset, precision)
    if not (_close(whole[:1], one, close) and _close(whole[:4], elsewhere[4:], close)):
        raise UserError("model: expected each image's answer whatever else is in the batch, found one that depends on the others "
                        "(batch norm left in training mode?); save it in evaluation mode: model.eval()")


def check_bf16(model: nn.Module, shape: tuple[int, int, int], classes: int, dataset: str, device: torch.device) -> None:
    """Raise UserError unless bf16 changes what the model computes: a program that fixes its own precision would be called bf16
    and be none."""
    images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)).to(device)
    answers = [_answers(model, images, classes, dataset, precision) for precision in ("fp32", "bf16")]
    if torch.equal(*answers):
        raise UserError("precision: expected a model that can compute in bf16, found one that fixes its own precision; set "
                        "precision=fp32")


def _answers(model: nn.Module, images: torch.Tensor, classes: int, dataset: str, precision: str) -> torch.Tensor:
    asked, expected = list(images.shape), [len(images), classes]
    try:
        with frozen(model), torch.no_grad(), torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
            found = model(images)
    except UserError:
        raise
    except Exception as error:  # whatever somebody's network raises
        where = f" on {images.device.type} in {precision}" if images.device.type != "cpu" or precision != "fp32" else ""
        raise UserError(f"model: expected logits {expected} for dataset={dataset}, the model cannot take its images "
                        f"{asked}{where} ({type(error).__name__}: {one_line(error)})") from error
    if not isinstance(found, torch.Tensor):
        raise UserError(f"model: expected logits {expected} for dataset={dataset}, the model answers a {type(found).__name__}")
    if list(found.shape) != expected or not found.is_floating_point():
        what = "" if found.is_floating_point() else f" of {found.dtype}"
        raise UserError(f"model: expected logits {expected} for dataset={dataset}, the model answers {list(found.shape)}{what}")
    if not found.isfinite().all():
        raise UserError("model: expected finite logits, the model answers with infinities or NaN; are these the right weights?")
    return found.float()


def _close(one: torch.Tensor, other: torch.Tensor, close: float) -> bool:
    return bool((one - other).abs().max() <= close * one.abs().max())
