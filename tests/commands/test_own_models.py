"""Models that were not trained here, through the whole commands: the same answers as the model they were made from."""

from __future__ import annotations

import shlex
import shutil
import warnings
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from invoking import Answer, robust
from published_formats import write_cifar
from torch import nn

from robust_cli.datasets.cifar import Cifar10
from robust_cli.models.classifier import classifier
from robust_cli.models.cnn_small import CnnSmall
from robust_cli.models.foreign import torchvision_model
from robust_cli.models.weights import load
from robust_cli.runs.folder import RunFolder

FEW = ("subset=first:5", "seed=3")
CERTIFY = (*FEW, "noise_std=0.5", "samples=100", "selection_samples=20", "certificate=neyman_pearson")
ATTACK = (*FEW, "attack=[pgd_l2]", "attack.pgd_l2.steps=2", "budgets.l2=[1]")

NET = """
from torch import nn
from robust_cli.models.cnn_small import CnnSmall
from robust_cli.models.normalisation import Normalisation

class Net(nn.Module):
    def __init__(self, mean_of_mine: float = 0.5, classes: int = 10) -> None:
        super().__init__()
        self.first, self.rest = Normalisation([mean_of_mine], [1.0]), CnnSmall((1, 28, 28), classes)

    def forward(self, images):
        return self.rest(self.first(images))
"""


def named(prefix: str, part: nn.Module) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in part.state_dict().items()}


@pytest.fixture(scope="module")
def made(trained: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the trained run's model in every shape: state dicts of it, a class for it, a script and an export."""
    place = tmp_path_factory.mktemp("made")
    model = classifier(CnnSmall((1, 28, 28), 10), [0.5], [1.0])
    load(model, trained.model)
    model.eval()
    network, images = model.get_submodule("network"), torch.rand(3, 1, 28, 28)
    shutil.copy(trained.model, place / "run.safetensors")
    torch.save({"net": named("module.", network), "epoch": 3}, place / "net.pth")
    torch.save({"state_dict": named("1.", network)}, place / "cohen.pth.tar")
    torch.save(named("first.", model.get_submodule("normalisation")) | named("rest.", network), place / "mine.pth")
    (place / "own_net_of_the_tests.py").write_text(NET)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(model, images).save(str(place / "net.pt"))
    program = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, place / "net.pt2")
    return place


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder with these files in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    monkeypatch.setenv("PYTHONPATH", "")
    (tmp_path / "my").mkdir()
    for file in made.iterdir():
        shutil.copy(file, tmp_path / "my" if file.suffix == ".py" else tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def reference(trained: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The trained run certified as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("reference"))
        return robust("certify", f"run={trained}", *CERTIFY).folder


WAYS = {
    "our architecture, their weights": ("model=cnn_small", "model.weights=net.pth"),
    "our own file": ("model=cnn_small", "model.weights=run.safetensors"),
    "Cohen's layout, normalisation told": ("model=cnn_small", "model.weights=cohen.pth.tar", "model.mean=[0.5]", "model.std=[1]"),
    "their class": ("model._target_=own_net_of_the_tests.Net", "model.weights=mine.pth", "-cd", "my"),
    "TorchScript": ("model=torchscript", "model.file=net.pt"),
    "torch.export": ("model=exported", "model.file=net.pt2"),
}
NAMES = {"our architecture, their weights": "cnn_small-net", "our own file": "cnn_small-run", "their class": "Net-mine",
         "Cohen's layout, normalisation told": "cnn_small-cohen", "TorchScript": "torchscript-net",
         "torch.export": "exported-net"}


def refused(answer: Answer) -> str:
    """The one line of a mistake that left no folder."""
    assert (answer.code, answer.err.count("\n"), answer.folders) == (2, 1, []), answer.err
    return answer.err


@pytest.mark.parametrize("way", WAYS)
def test_every_way_certifies_as_the_run_itself(way: str, here: Path, trained: RunFolder, reference: RunFolder) -> None:
    run = robust("certify", "dataset=digits", *WAYS[way], *CERTIFY).folder
    assert run.votes.read_bytes() == reference.votes.read_bytes()
    assert run.certificates.read_bytes() == reference.certificates.read_bytes()
    about, saved = run.read_about(), yaml.safe_load(run.config.read_text())
    name = NAMES[way]
    assert (about["model"], about["regime"], about["train_run"], about["train_seed"]) == (name, "own", None, None)
    assert run.path.name.endswith(f"_certify_digits_{name}_own")
    file = saved["model"].get("weights") or saved["model"]["file"]
    assert Path(file).is_absolute()
    assert about["model_sha256"] == saved["model_sha256"] == __import__("hashlib").sha256(Path(file).read_bytes()).hexdigest()
    same_network = "architecture" in way or "our own" in way or "Cohen" in way
    assert (about["model_fingerprint"] == trained.read_about()["model_fingerprint"]) == same_network


def test_programs_are_attacked_as_the_run_itself(here: Path, trained: RunFolder) -> None:
    expected = robust("attack", f"run={trained}", "classifier=base", *ATTACK).folder
    for way in ("TorchScript", "torch.export", "their class"):
        run = robust("attack", "dataset=digits", *WAYS[way], *ATTACK).folder
        assert run.read_about()["classifier"] == "base"
        found, wanted = pd.read_csv(run.outcomes), pd.read_csv(expected.outcomes)
        pd.testing.assert_frame_equal(found, wanted, atol=1e-5)  # gradients may be summed in another order


def test_the_folder_of_an_own_model_serves_as_a_run(here: Path, reference: RunFolder) -> None:
    first = robust("certify", "dataset=digits", *WAYS["their class"], *CERTIFY)
    name, _, line = first.out.splitlines()[-1].partition(": ")
    folder = first.folder.path.relative_to(here)
    assert (name, line) == ("next", f"robust attack run={folder} noise_std=0.5 subset=first:5 "
                            "'trust=[own_net_of_the_tests.Net]' -cd my")
    trust = ("trust=[own_net_of_the_tests.Net]", "-cd", "my")
    attacked = robust("attack", f"run={folder}", *trust, "classifier=base", *ATTACK).folder
    assert attacked.read_about()["model_fingerprint"] == first.folder.read_about()["model_fingerprint"]
    again = robust("certify", f"run={attacked}", *trust, *CERTIFY).folder
    assert again.votes.read_bytes() == reference.votes.read_bytes()
    page = robust("report", str(attacked), str(again), str(reference))
    assert page.code == 0, page.err


def test_the_next_command_works_as_it_stands(here: Path) -> None:
    certified = robust("certify", "dataset=digits", *WAYS["TorchScript"], *CERTIFY)
    line = shlex.split(certified.out.splitlines()[-1].partition(": ")[2])
    attacked = robust(*line[1:], "attack=fgsm", "budgets.linf=[0.1]", "gradient_draws=1", "decision_votes=10")
    about = attacked.folder.read_about()
    assert (about["classifier"], about["noise_std"], about["noise"]) == ("smoothed", 0.5, "gaussian")
    line = shlex.split(attacked.out.splitlines()[-1].partition(": ")[2])
    assert line[:2] == ["robust", "report"]
    assert robust(*line[1:]).code == 0


def test_a_class_of_somebody_elses_run_is_not_built_untrusted(here: Path) -> None:
    run = robust("certify", "dataset=digits", *WAYS["their class"], *CERTIFY).folder
    shutil.copy(here / "my" / "own_net_of_the_tests.py", here / "evil.py")
    saved = run.config.read_text()
    assert "trust=[own_net_of_the_tests.Net]" in refused(robust("attack", f"run={run}", "-cd", "my", *ATTACK))
    run.config.write_text(saved.replace("own_net_of_the_tests.Net", "evil.Net"))
    line = refused(robust("attack", f"run={run}", "-cd", "my", "trust=[own_net_of_the_tests.Net]", *ATTACK))
    assert "'evil.Net' is none of the classes that robust ships" in line


def test_a_file_that_is_gone_or_changed_is_noticed(here: Path) -> None:
    run = robust("certify", "dataset=digits", *WAYS["our architecture, their weights"], *CERTIFY).folder
    (here / "net.pth").rename(here / "moved.pth")
    assert f"model.weights={here / 'net.pth'}: expected a file, no such file" in refused(robust("attack", f"run={run}", *ATTACK))
    assert robust("attack", f"run={run}", "model.weights=moved.pth", "classifier=base", *ATTACK).code == 0
    assert "changed since" in refused(robust("attack", f"run={run}", "model.weights=run.safetensors", *ATTACK))
    assert "model: comes from the run" in refused(robust("attack", f"run={run}", "model=lenet", *ATTACK))


def test_an_own_model_is_resumed_after_a_cut(here: Path, reference: RunFolder) -> None:
    words = ["certify", "dataset=digits", *WAYS["their class"], *CERTIFY]
    run = robust(*words).folder
    run.votes.write_bytes(run.votes.read_bytes()[:400])
    run.certificates.unlink()
    run.about.unlink()
    run.set_state("running", "certify")
    assert "is none of the classes" in refused(robust("certify", f"resume={run}", "-cd", "my"))
    changed = robust(*words, f"resume={run}", "model.weights=net.pth")
    assert "changed since" in refused(changed)
    assert robust(*words, f"resume={run}").code == 0
    assert run.votes.read_bytes() == reference.votes.read_bytes()


@pytest.mark.parametrize(("words", "line"), [
    (("model=cnn_small", "model.weights=cohen.pth.tar"), "its names begin with '1.', so that another layer came before"),
    (("model=cnn_small", "model.weights=run.safetensors", "model.mean=[0.4]", "model.std=[1]"),
     "expected those of the weights' own normalisation, mean [0.5], std [1]"),
    (("model=cnn_small", "model.weights=net.pth", "model.mean=[0,0]", "model.std=[1,1]"), "model.mean: expected 1 number(s)"),
    (("model=lenet", "model.weights=net.pth"), "these are not the weights of this model"),
    (("model._target_=own_net_of_the_tests.Net", "+model.mean_of_me=1", "model.weights=mine.pth", "-cd", "my"),
     "model.mean_of_me: not a setting of Net; did you mean mean_of_mine?"),
    (("model._target_=own_net_of_the_tests.nn", "model.weights=mine.pth", "-cd", "my"), "model._target_: expected a class"),
    (("model._target_=collections.OrderedDict", "model.weights=mine.pth"), "expected a torch.nn.Module from collections"),
    (("model=torchscript", "model.file=net.pth"), "holds weights and no program"),
])
def test_what_does_not_go_together_is_one_line(here: Path, words: tuple[str, ...], line: str) -> None:
    assert line in refused(robust("certify", "dataset=digits", *words, *CERTIFY))


def test_a_normalisation_beside_the_weights_is_used(here: Path, made: Path) -> None:
    plain = torch.load(made / "net.pth")["net"]
    torch.save({"mu": torch.full((1, 1, 1, 1), 0.2), "sigma": torch.full((1, 1, 1, 1), 0.5)} | plain, here / "bench.pt")
    words = ("certify", "dataset=digits", "model=cnn_small", *CERTIFY)
    found = robust(*words, "model.weights=bench.pt")
    told = robust(*words, "model.weights=net.pth", "model.mean=[0.2]", "model.std=[0.5]")
    assert "normalised first by mean [0.2], std [0.5], which stood beside the weights" in found.out
    assert found.folder.votes.read_bytes() == told.folder.votes.read_bytes()
    assert found.folder.read_about()["mean"] == pytest.approx([0.2])


def test_logits_are_compared_with_the_data_set(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUST_DATA", str(here / "data"))
    write_cifar(here / "data", Cifar10, monkeypatch)
    answer = robust("certify", "dataset=cifar10", *WAYS["TorchScript"], *CERTIFY)
    assert "expected logits [1, 10] for dataset=cifar10, the model cannot take its images [1, 3, 32, 32]" in refused(answer)
    more = robust("certify", "dataset=digits", *WAYS["their class"], "+model.classes=7", *CERTIFY)
    assert "expected shape [7, 100], found [10, 100]" in refused(more)


def test_torchvision_by_name(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUST_DATA", str(here / "data"))
    write_cifar(here / "data", Cifar10, monkeypatch)
    torch.save(torchvision_model("squeezenet1_1", (3, 32, 32), 10).state_dict(), here / "r.pth")
    words = ("dataset=cifar10", "model=torchvision", "model.name=squeezenet1_1", "model.weights=r.pth")
    mean = ("model.mean=[0.4914,0.4822,0.4465]", "model.std=[0.2470,0.2435,0.2616]")
    plain = robust("certify", *words, *CERTIFY, "subset=first:3")
    assert "images are not normalised before it" in plain.out
    first, second = plain.folder, robust("certify", *words, *mean, *CERTIFY, "subset=first:3").folder
    assert first.read_about()["model"] == "squeezenet1_1-r"
    assert first.read_about()["model_fingerprint"] != second.read_about()["model_fingerprint"]
    assert robust("attack", *words, *ATTACK, "subset=first:3").code == 0
    step = ("training.epochs=1", "training.batch_size=2", "subset=first:4")
    run = robust("train", *words[:-1], *step).folder  # trained here as well
    about = robust("certify", f"run={run}", *CERTIFY, "subset=first:3").folder.read_about()
    assert (about["model"], about["regime"], about["train_run"]) == ("torchvision", "stability", str(run))


def test_a_class_that_brings_its_weights(here: Path, reference: RunFolder) -> None:
    (here / "my" / "own_loader_of_the_tests.py").write_text(
        "import torch\nfrom own_net_of_the_tests import Net\n\ndef loaded():\n    net = Net()\n"
        f"    net.load_state_dict(torch.load({str(here / 'mine.pth')!r}))\n    return net\n")
    words = ("dataset=digits", "model._target_=own_loader_of_the_tests.loaded", "model.weights=included", "-cd", "my")
    run = robust("certify", *words, *CERTIFY).folder
    assert run.votes.read_bytes() == reference.votes.read_bytes()
    assert run.read_about()["model_sha256"] is None


RANDOM = """
import torch
from own_net_of_the_tests import Net

def half_loaded():
    net = Net()
    held = torch.load("mine.pth")
    net.load_state_dict({name: held[name] for name in held if name != "rest.%s"}, strict=False)
    return net

class Buffered(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("directions", torch.randn(784, 10), persistent=False)

    def forward(self, images):
        return images.flatten(1) @ self.directions

class Lazy(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Flatten(), torch.nn.LazyLinear(10))
"""


@pytest.mark.parametrize(("target", "name"), [
    ("own_net_of_the_tests.Net", "rest."),
    ("own_random_of_the_tests.half_loaded", "LAST"),
    ("own_random_of_the_tests.Buffered", "directions"),
    ("own_random_of_the_tests.Lazy", "1.weight"),
])
def test_a_class_that_starts_at_random_brings_no_weights(here: Path, target: str, name: str) -> None:
    last = next(reversed(torch.load(here / "mine.pth").keys())).removeprefix("rest.")
    (here / "my" / "own_random_of_the_tests.py").write_text(RANDOM % last)
    words = ("dataset=digits", f"model._target_={target}", "model.weights=included", "-cd", "my")
    line = refused(robust("certify", *words, *CERTIFY))
    assert "model.weights=included: expected a class that brings its weights, its " in line
    assert name.replace("LAST", f"rest.{last}") in line
    assert "starts at random: give model.weights=<file>" in line


def test_a_shard_says_how_many_images_it_counts(here: Path) -> None:
    answer = robust("certify", "dataset=digits", *WAYS["our own file"], *CERTIFY, "shard=1/2")
    assert "  images: 3 of 5 (shard 1/2) of the test split (subset first:5); " in answer.out
    assert answer.folder.read_about()["images"] == 3


def test_the_command_line_is_recorded_as_it_was_typed(here: Path, trained: RunFolder) -> None:
    shutil.copytree(trained.path, here / "it is")
    for run in (here / "it is", trained.path):
        words = ["certify", f"run={run}", *CERTIFY]
        assert robust(*words).folder.read_record()["command_line"] == ["robust", *words]


def test_bf16_is_another_classifier(here: Path) -> None:
    run = robust("certify", "dataset=digits", *WAYS["torch.export"], *CERTIFY, "precision=bf16").folder
    assert run.read_about()["precision"] == "bf16"


def test_programs_are_not_trained(here: Path) -> None:
    line = refused(robust("train", *WAYS["TorchScript"], "training.epochs=1"))
    assert "expected an architecture to train, got torchscript" in line
