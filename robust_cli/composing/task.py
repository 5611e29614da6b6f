"""A command: Hydra around a function that gets the final config and its run folder, and what must hold whatever it does."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from robust_cli.composing import folders, schema
from robust_cli.composing.catalogue import conf_folder
from robust_cli.composing.completion import cleaned
from robust_cli.composing.explain import Stop, explain
from robust_cli.composing.final import final
from robust_cli.composing.names import job_name
from robust_cli.composing.resuming import same
from robust_cli.composing.saved_run import read_checked
from robust_cli.messages import UserError, Wrong
from robust_cli.runs import console
from robust_cli.runs.folder import RunFolder, shown
from robust_cli.runs.ranks import Ranks, ranks
from robust_cli.runs.signals import Stopped, listening

Body = Callable[[DictConfig, RunFolder], None]


class Command:
    """A command of the console script. Calling it runs it on ``sys.argv`` and gives the exit code.

    Launchers pickle ``job``; it travels as the name of its module, so that a worker imports it.
    """

    def __init__(self, name: str, body: Body) -> None:
        self.name, self.body, self.started = name, body, False
        functools.update_wrapper(self, body)
        del self.__dict__["__wrapped__"]

    def __reduce__(self) -> tuple[Callable[[str, str], Any], tuple[str, str]]:
        return _imported, (self.body.__module__, self.body.__qualname__)

    def __call__(self) -> int:
        """Compose, run, and turn mistakes into one line on standard error: 0 done, 2 a mistake, 130 interrupted."""
        _prepare()
        self.started = False
        run = hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name=self.name)(self.job)
        before = os.environ.get("HYDRA_FULL_ERROR")
        os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing, and we print
        try:
            if any(word in ("-sc", "--shell-completion") for word in sys.argv):
                with contextlib.redirect_stdout(io.StringIO()) as found:
                    run()
                text = found.getvalue()
                print(cleaned(text, self.name) if any(word.startswith("query=") for word in sys.argv) else text)
            else:
                run()
        except (Exception, Stop, KeyboardInterrupt) as error:
            return self._ended(error, wanted=before == "1")
        finally:
            os.environ["HYDRA_FULL_ERROR"] = before or "0"
        return 0

    def _ended(self, error: BaseException, wanted: bool) -> int:
        folders.discard_claimed()
        if isinstance(error, KeyboardInterrupt):
            print(f"robust {self.name}: interrupted{_how_to_go_on()}", file=sys.stderr)
            return 130
        line, code = (error.line, error.code) if isinstance(error, Stop) else (self._line(error), 2)
        if not line:
            code, wanted = 1, True
        if wanted and code:
            traceback.print_exception(error.__cause__ if isinstance(error, Stop) and error.__cause__ else error)
        if line:
            print(f"robust {self.name}: {line}", file=sys.stderr if code else sys.stdout)
        return code

    def _line(self, error: BaseException) -> str:
        line, sweep = explain(error) or "", folders.claimed_sweep()
        if not line and not self.started and sweep is None:  # then it is about the config, whatever Hydra says of it
            if isinstance(error, ValueError):
                line = " ".join(str(error).split())
            elif isinstance(error, AssertionError):
                line = "these defaults cannot be composed; in an experiment's defaults the overrides must come last"
        return f"{line} (a job of the sweep {sweep}; the others ran on)" if line and sweep else line

    def job(self, config: DictConfig) -> None:
        """What Hydra runs, here or in a worker: one run."""
        self.started = True
        _check_ranks(self.name)
        settings = cast(DictConfig, HydraConfig.get())
        alone = settings.mode != RunMode.MULTIRUN
        # Relative where that is possible: this is what the user reads and types again.
        path = Path(settings.runtime.output_dir)
        folder = RunFolder(path if settings.job.chdir else shown(path))
        try:
            with listening():
                self._run(final(config, settings), folder, alone)
        except Stopped as stopped:  # before there was anything to go on with, or one of several processes
            raise Stop(f"stopped by {stopped.name}", stopped.code) from stopped
        except (UserError, Wrong, OSError) as error:
            line = explain(error)
            if line is None:
                raise
            if not folder.config.exists():
                folders.discard(folder.path)
            if alone:
                raise Stop(line, 2) from error
            raise

    def _run(self, config: DictConfig, folder: RunFolder, alone: bool) -> None:
        process = ranks()
        if not process.leads:
            self._follow(config, folder, process)
            return
        with folder.held():
            self._lead(config, folder, alone, process)

    def _lead(self, config: DictConfig, folder: RunFolder, alone: bool, process: Ranks) -> None:
        """The process of a run that makes its folder and writes its results; alone but for those that follow it."""
        fresh = _begin(folder, config)
        if folder.state == "complete":
            print(f"{folder}: complete, nothing left to do")
            return
        folder.set_state("running", self.name)
        process.wait()
        try:
            with console.log_to(folder.log):
                self._work(config, folder)
        except (UserError, Wrong):
            if fresh and alone:
                folders.discard(folder.path)
            raise
        except (KeyboardInterrupt, Stopped) as interrupt:
            what, code = "interrupted", 130
            if isinstance(interrupt, Stopped):
                what, code = f"stopped by {interrupt.name}", interrupt.code
            how = f"robust {self.name} resume={folder}" if alone else f"type it again with hydra.sweep.dir={folder.path.parent}"
            raise Stop(f"{what}; to go on: {how}", code) from interrupt
        folder.set_state("complete", self.name)

    def _follow(self, config: DictConfig, folder: RunFolder, process: Ranks) -> None:
        """One of several processes of a run, which another leads."""
        if folder.state != "complete":
            console.be_quiet()
            process.wait()
            self.body(config, folder)

    def _work(self, config: DictConfig, folder: RunFolder) -> None:
        try:
            self.body(config, folder)
        except Exception as error:
            why = explain(error) or f"{type(error).__name__}: {error}"
            with contextlib.suppress(OSError):  # the disk may be full, which is then what `error` says
                folder.set_state(f"failed: {why}", self.name)
                with folder.log.open("a", encoding="utf-8") as log:
                    log.write(f"failed: {why}\n")
            raise


def command(name: str) -> Callable[[Body], Command]:
    """Make ``main(config, folder)`` of a module of robust_cli.commands the command of that name."""
    return functools.partial(Command, name)


def _imported(module: str, name: str) -> Any:
    _prepare()
    return getattr(importlib.import_module(module), name)


def _prepare() -> None:
    folders.forget()
    schema.register()
    OmegaConf.register_new_resolver("robust_job", job_name, replace=True)


def _how_to_go_on() -> str:
    """After an interrupt while jobs ran elsewhere."""
    sweep = folders.claimed_sweep()
    if sweep is None:
        return ""
    running = f"; jobs given to a cluster run on (their ids: {sweep}/.submitit)" if (Path(sweep) / ".submitit").exists() else ""
    return f"; to go on: type it again with hydra.sweep.dir={sweep}{running}"


def _check_ranks(command: str) -> None:
    process = ranks()
    if process.size > 1 and command != "certify":
        raise UserError(f"torchrun: only robust certify shares its images between processes, this is robust {command}; "
                        "start it without torchrun")


def _begin(folder: RunFolder, config: DictConfig) -> bool:
    """Write the config into a new run; in one that has begun, see that it is the same. True for a new run."""
    saved = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    assert isinstance(saved, dict)
    if not folder.config.exists():
        folder.path.mkdir(parents=True, exist_ok=True)
        saved["resume"] = None
        with folder.config.open("x", encoding="utf-8") as file:
            file.write(OmegaConf.to_yaml(OmegaConf.create(saved)))
        return True
    wanted = _targets_in(saved)
    difference = same(read_checked(folder, wanted, wanted, "resume"), {str(key): value for key, value in saved.items()})
    if difference:
        raise UserError(f"{folder}: holds another run: {difference}; name another folder")
    return False


def _targets_in(node: Any) -> set[str]:
    found = {str(node["_target_"])} if isinstance(node, dict) and "_target_" in node else set()
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        found |= _targets_in(child)
    return found
