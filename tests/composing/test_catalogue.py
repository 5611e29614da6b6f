"""What `robust list` and `--help` read from the configs, and that the configs keep their form."""

from __future__ import annotations

import importlib

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from robust_cli.composing import catalogue, schema
from robust_cli.messages import UserError

CONF = catalogue.conf_folder()
FILES = sorted(file for file in CONF.glob("*/*.yaml"))
PLUGINS = [file for file in FILES if file.parent.name in ("dataset", "model", "regime", "sampling", "certificate", "attack")]
GIVEN = {"model": {"shape", "classes", "device"}, "sampling": {"samples", "selection_samples"}}  # by the program


@pytest.mark.parametrize("command", catalogue.COMMANDS)
def test_every_key_of_a_command_has_its_meaning_and_its_schemas_default(command):
    found = catalogue.keys(CONF / f"{command}.yaml")
    assert [key for key, _, comment in found if len(comment) < 5] == []
    plain = yaml.safe_load((CONF / f"{command}.yaml").read_text())
    own = {key: value for key, value in plain.items() if key not in ("defaults", "hydra")}
    defaults = OmegaConf.to_container(OmegaConf.structured(schema.SCHEMAS[command]), enum_to_str=True)
    assert own == {key: value for key, value in defaults.items() if value not in ("???", {})}  # groups are among the defaults
    assert {key.partition(".")[0] for key, _, _ in found} == set(own)


@pytest.mark.parametrize("file", FILES, ids=[f"{file.parent.name}/{file.stem}" for file in FILES])
def test_every_choice_says_what_it_is_and_where_it_comes_from(file):
    text, source = catalogue.summary(file)
    assert len(text) > 10
    assert source
    if file.parent.name != "experiment":  # it sets what has its meaning elsewhere
        assert [key for key, _, comment in catalogue.keys(file) if len(comment) < 3] == []


def settings_of(file):
    """A choice's own keys; of a regime those that it composes, from another regime and from its attack, as well."""
    if file.parent.name != "regime":
        return yaml.safe_load(file.read_text())
    schema.register()
    OmegaConf.register_new_resolver("robust_job", lambda *_: "", replace=True)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_container(compose("train", [f"regime={file.stem}"]).regime, resolve=True)


@pytest.mark.parametrize("file", PLUGINS, ids=[f"{file.parent.name}/{file.stem}" for file in PLUGINS])
def test_every_choice_names_a_class_and_all_of_its_settings(file):
    import inspect

    plain = settings_of(file)
    module, _, name = plain["_target_"].rpartition(".")
    parameters = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    assert set(plain) - {"_target_"} == set(parameters) - GIVEN.get(file.parent.name, set())
    if file.parent.name in ("certificate", "attack"):
        assert f"# @package {file.parent.name}.{file.stem}" in file.read_text().splitlines()


def test_keys_keep_their_nesting(tmp_path):
    (tmp_path / "x.yaml").write_text(
        "# X. Source: me\ndefaults:\n  - _self_\n_target_: a.B\na: 1  # one\nb:\n  c: [1, 2]  # two, # three\n  d:\n    e: x\n"
        "f: 'a#b'  # four\nhydra:\n  mode: RUN\n")
    assert catalogue.keys(tmp_path / "x.yaml")[:3] == [("a", "1", "one"), ("b.c", "[1, 2]", "two, # three"), ("b.d.e", "x", "")]


def test_maps_in_one_line_are_keys_of_their_own(tmp_path):
    (tmp_path / "x.yaml").write_text("a: {b: 40, c: {d: null, e: [1, 2]}, f: text}  # all\n")
    assert catalogue.keys(tmp_path / "x.yaml") == [("a.b", "40", "all"), ("a.c.d", "null", "all"), ("a.c.e", "[1, 2]", "all"),
                                                   ("a.f", "text", "all")]


def test_targets_are_those_of_the_groups_only():
    found = catalogue.targets([CONF])
    assert "robust_cli.regimes.stability.Stability" in found
    assert not [target for target in found if "composing" in target]


def test_list_shows_all_choices_and_their_keys(robust):
    out = robust("list").out
    for file in PLUGINS:
        assert f"\n  {file.stem} " in out
    assert "[SO (Li et al. 2018)" in out
    assert "regime.noise_std=0.5" in robust("list", "regime/stability").out
    assert "attack.pgd_l2.steps=40" in robust("list", "attack.pgd_l2").out
    assert "  training.epochs=40" in robust("list", "experiment/mnist_stability").out
    with pytest.raises(UserError, match="pgd_l3: no such attack; did you mean pgd_l2"):
        catalogue.listing(["attack/pgd_l3"], [CONF])


@pytest.mark.parametrize("group", catalogue.groups([CONF]))
def test_the_lines_of_a_group_begin_in_one_column(group):
    found = catalogue.choices(group, [CONF])
    lines = catalogue.listing([group], [CONF]).splitlines()[1:]
    columns = {line.index(catalogue.summary(file)[0], 2 + len(name))
               for line, (name, file) in zip(lines, found.items(), strict=True)}
    assert len(columns) == 1
    assert columns.pop() > 2 + max(map(len, found))


@pytest.mark.parametrize(("command", "groups", "others"), [
    ("train", ["dataset", "model", "regime", "cluster", "experiment"], ["certificate", "attack"]),
    ("certify", ["dataset", "model", "sampling", "certificate", "cluster"], ["attack", "regime"]),
    ("attack", ["dataset", "model", "attack", "cluster"], ["certificate", "regime", "sampling"]),
])
def test_help_shows_the_commands_own_groups_and_keys(robust, command, groups, others):
    out = robust(command, "--help").out
    listed = [line.split()[0] for line in out.partition("Groups")[2].partition("Keys")[0].splitlines()[1:] if line.strip()]
    assert set(groups) <= set(listed)
    assert not set(others) & set(listed)
    for key, _, comment in catalogue.keys(CONF / f"{command}.yaml"):
        assert f"  {key}=" in out
        assert comment in out
    assert "digits*" in out or command != "train"


def test_every_command_composes(robust):
    for command in catalogue.COMMANDS:
        assert robust(command, "--cfg", "job").code == 0
    for experiment in catalogue.choices("experiment", [CONF]):
        ended = robust("train", "--cfg", "job", f"experiment={experiment}")
        assert ended.code == 0, ended.err


def test_an_experiment_sets_what_it_says(robust):
    robust.done("train", "experiment=mnist_stability", "dataset.root=x", "seed=3")
    config = robust.seen[0][0]
    assert (config.training.epochs, config.regime.weight, config.choices.dataset, config.seed) == (40, 2.0, "mnist", 3)
