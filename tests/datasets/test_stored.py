from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.datasets
from published_formats import idx, write_cifar, write_mnist

from robust_cli.datasets.cifar import Cifar10, Cifar100
from robust_cli.datasets.mnist import FashionMnist, Mnist
from robust_cli.datasets.stored import Stored, root_folder
from robust_cli.messages import UserError


@pytest.mark.parametrize("kind", [Mnist, FashionMnist, Cifar10, Cifar100])
def test_files_are_read_to_the_byte(kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind in (Mnist, FashionMnist):
        written = write_mnist(tmp_path, kind.torchvision_name)
    else:
        written = write_cifar(tmp_path, kind, monkeypatch)
    for split in ("train", "test"):
        pixels, labels = written[split]
        images = kind(root=str(tmp_path)).split(split)
        assert np.array_equal(images.pixels.numpy(), pixels)
        assert images.labels.tolist() == labels.tolist()
        assert images.indices.tolist() == list(range(len(labels)))
        assert images.shape == kind.shape
        assert images.class_names == kind.class_names
        assert images.pixels.is_contiguous()
        assert torch.equal(images.float(), torch.from_numpy(pixels).float() / 255)
        assert (tmp_path / kind.files[0]).is_file()


def test_the_root_is_the_setting_then_the_variable_then_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUST_DATA", str(tmp_path / "variable"))
    assert root_folder(str(tmp_path / "setting")) == tmp_path / "setting"
    assert root_folder(None) == tmp_path / "variable"
    monkeypatch.setenv("ROBUST_DATA", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert root_folder(None) == tmp_path / "cache" / "robust"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert root_folder(None) == tmp_path / ".cache" / "robust"
    assert root_folder("~/data") == tmp_path / "data"


def refused(dataset: Stored) -> str:
    with pytest.raises(UserError) as caught:
        dataset.split("test")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", [Mnist, FashionMnist, Cifar10, Cifar100])
def test_missing_files_name_the_folder_and_the_cures(kind: Any, tmp_path: Path) -> None:
    text = refused(kind(root=str(tmp_path)))
    assert all(word in text for word in (str(tmp_path), kind.title, "dataset.root=", "ROBUST_DATA", "dataset.download=true"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("file", "content"), [
    ("t10k-images-idx3-ubyte", idx(np.zeros((7, 28, 28)))[:-5]),  # cut off
    ("t10k-images-idx3-ubyte", b""),
    ("t10k-images-idx3-ubyte", b"<html>not found</html>" * 50),
    ("t10k-images-idx3-ubyte", idx(np.zeros((7, 32, 32)))),
    ("t10k-images-idx3-ubyte", idx(np.zeros((6, 28, 28)))),  # fewer images than labels
    ("t10k-labels-idx1-ubyte", idx(np.zeros(7))[:-1]),
    ("t10k-labels-idx1-ubyte", idx(np.full(7, 10))),  # an eleventh class
])
def test_damaged_idx_files_give_one_line(file: str, content: bytes, tmp_path: Path) -> None:
    write_mnist(tmp_path, "MNIST")
    (tmp_path / "MNIST" / "raw" / file).write_bytes(content)
    text = refused(Mnist(root=str(tmp_path)))
    assert "damaged" in text
    assert str(tmp_path / "MNIST" / "raw") in text
    assert "dataset.download=true" in text


def test_a_changed_batch_is_refused_before_it_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path, Cifar10, monkeypatch)
    mark = tmp_path / "it ran"

    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (mark,)

    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps(Hostile()))
    assert "damaged" in refused(Cifar10(root=str(tmp_path)))
    assert not mark.exists()


@pytest.mark.parametrize("kind", [FashionMnist, Cifar100])
def test_a_failed_download_gives_one_line(kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                          capsys: pytest.CaptureFixture[str]) -> None:
    def fails(*_: object, **__: object) -> None:
        print("\r 10%", file=sys.stderr)
        raise OSError("<urlopen error\nno route to host>")

    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", fails)
    monkeypatch.setattr(torchvision.datasets.cifar, "download_and_extract_archive", fails)
    text = refused(kind(root=str(tmp_path), download=True))
    assert "could not be fetched" in text
    assert "no route to host" in text
    assert capsys.readouterr().err == ""


def test_download_fetches_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(url: str, download_root: str, **_: object) -> None:
        if not (tmp_path / "cache" / "MNIST").exists():
            write_mnist(tmp_path / "cache", "MNIST")
        name = Path(url).stem
        (Path(download_root) / name).write_bytes((tmp_path / "cache" / "MNIST" / "raw" / name).read_bytes())

    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", fetch)
    assert len(Mnist(root=str(tmp_path / "data"), download=True).split("train")) == 12
    assert len(Mnist(root=str(tmp_path / "data")).split("test")) == 7


@pytest.mark.parametrize(("line", "words"), [
    ("raise RuntimeError('operator torchvision::nms does not exist')", ("torchvision::nms does not exist", torch.__version__)),
    ("raise ImportError('undefined symbol')", ("undefined symbol", "pip install --upgrade torch torchvision")),
    ("import a_module_that_is_not_there", ("a_module_that_is_not_there", "pip install torchvision")),
])
def test_a_torchvision_that_does_not_work_gives_one_line(line: str, words: tuple[str, ...], tmp_path: Path,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path, "MNIST")
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(line)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    text = refused(Mnist(root=str(tmp_path)))
    assert all(word in text for word in words)


def test_a_failed_download_leaves_no_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(root: str, **_: Any) -> None:
        (Path(root) / "MNIST" / "raw").mkdir(parents=True)
        raise RuntimeError("no network")

    monkeypatch.setattr(torchvision.datasets, "MNIST", download)
    assert "could not be fetched" in refused(Mnist(root=str(tmp_path / "new"), download=True))
    assert not (tmp_path / "new").exists()
    (tmp_path / "mine").mkdir()
    assert "could not be fetched" in refused(Mnist(root=str(tmp_path / "mine"), download=True))
    assert (tmp_path / "mine").is_dir()
    assert not any((tmp_path / "mine").iterdir())
