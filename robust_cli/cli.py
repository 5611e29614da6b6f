"""The command line. What can be answered without torch and Hydra is answered without them."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from robust_cli import __version__
from robust_cli.messages import UserError, suggestion

_WORDS = ("train", "certify", "attack", "merge", "report", "list")
_HYDRA = ("train", "certify", "attack")
_HELP = """robust: train image classifiers, certify how far their answers hold, and attack them

  robust train    dataset=mnist model=cnn_small regime=stability    a model in a run folder under outputs/
  robust certify  run=latest samples=10000                          radii that no l2 attack can break
  robust attack   run=latest attack=[pgd_l2,second_order]           robust accuracy under attacks
  robust merge    FOLDER... [--output DIR]                          one run out of the shards of a certify run
  robust report   FOLDER|FILE.tsv... [--output DIR]                 figures, tables and one page of any runs
  robust list     [GROUP | GROUP/CHOICE]                            what can be composed, with sources

robust COMMAND --help   the command's groups and keys        robust --version   the version
Tab completion in bash:   eval "$(robust -sc install=bash)"
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``robust ARGV``; the exit code is 0, 2 for a mistake, 130 when interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(words)
    except UserError as error:
        return _refused(words, error, str(error))
    except KeyboardInterrupt:
        print(f"{_prefix(words)}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `robust list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        from robust_cli.runs.folder import refused_by_system

        if (line := refused_by_system(error)) is None:
            raise
        return _refused(words, error, line)


def _refused(words: Sequence[str], error: BaseException, line: str) -> int:
    """A mistake's one line, after its traceback where that is asked for."""
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        traceback.print_exception(error)
    print(f"{_prefix(words)}: {line}", file=sys.stderr)
    return 2


def _prefix(words: Sequence[str]) -> str:
    return f"robust {words[0]}" if words and words[0] in _WORDS else "robust"


def _dispatch(words: list[str]) -> int:
    first, rest = (words[0], words[1:]) if words else ("--help", [])
    if first in ("-h", "--help", "help"):
        print(_HELP, end="")
        return 0
    if first in ("--version", "-V"):
        print(f"robust {__version__}")
        return 0
    if first in ("-sc", "--shell-completion"):
        return _complete(rest)
    if first in _HYDRA:
        return _hydra(first, rest)
    if first == "merge":
        return _merge(rest)
    if first == "report":
        return _report(rest)
    if first == "list":
        return _list(rest)
    raise UserError(f"no such command {first!r}; {suggestion(first, _WORDS)}")


def _hydra(command: str, words: list[str]) -> int:
    from robust_cli.composing import catalogue
    from robust_cli.composing.words import arranged, config_dirs, make_importable

    folders = config_dirs(words)
    if "--help" in words or "-h" in words:
        print(catalogue.help_of(command, [*folders, catalogue.conf_folder()]))
        return 0
    if "--version" in words:
        return _dispatch(["--version"])
    make_importable(folders)
    sys.argv = [sys.argv[0], *arranged(words)]
    return _call(command)


def _call(command: str) -> int:
    from robust_cli.runs.allocator import keep_freed_memory

    keep_freed_memory()
    # Threads of one operation that wait by spinning slow each other down tenfold when another process has a core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is loaded
    run: Callable[[], int] = importlib.import_module(f"robust_cli.commands.{command}").main
    return run()


def _complete(words: list[str]) -> int:
    """Hydra's bash script asks `robust -sc query=bash` with the line in COMP_LINE."""
    from robust_cli.composing.completion import candidates

    line = os.environ.get("COMP_LINE", "")
    command = "train"
    if any(word.startswith("query=") for word in words):
        found = candidates(line, _WORDS)
        if found is not None:
            print(" ".join(found))
            return 0
        executable, command, rest = [*line.split(maxsplit=2), ""][:3]
        os.environ["COMP_LINE"] = f"{executable} {rest}" + (" " if line.endswith(" ") and not rest.endswith(" ") else "")
    sys.argv = [sys.argv[0], "-sc", *words]
    return _call(command)


class _Parser(argparse.ArgumentParser):
    """Mistakes in one line, as everywhere."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def _merge(words: list[str]) -> int:
    parser = _Parser("robust merge", description="One certify run out of its parts, made with shard=1/n to shard=n/n.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="the parts' run folders")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where to write (default: a new folder beside the first part)")
    asked = parser.parse_args(words)
    from robust_cli.commands.merge import merge

    merge(asked.folders, asked.output)
    return 0


def _report(words: list[str]) -> int:
    parser = _Parser("robust report", description="Figures, tables and one page of run folders, compared and cross-checked.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="run folders, folders that hold some, or "
                        "TSV files of certificates made by others (idx label predict radius correct time)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where to write (default: a new folder under outputs/)")
    parser.add_argument("--tsv-noise-std", type=float, metavar="STD", help="what the TSV files were made with, where FILE.json "
                        "beside one does not say it: noise in pixel units of [0, 1]")
    parser.add_argument("--tsv-samples", type=int, metavar="N", help="... number of draws that bound the class's probability")
    parser.add_argument("--tsv-failure-probability", type=float, metavar="ALPHA", help="... failure probability of each radius")
    parser.add_argument("--tsv-dataset", metavar="NAME", help="... our name of the data set that idx counts, to pair images by")
    asked = parser.parse_args(words)
    from robust_cli.commands.report import report

    for path in asked.folders:
        if not path.exists():
            raise UserError(f"{path}: no such folder; expected run folders that robust train, certify or attack has written")
    said = {key.removeprefix("tsv_"): value for key, value in vars(asked).items() if key.startswith("tsv_") and value is not None}
    report(asked.folders, asked.output, said)
    return 0


def _list(words: list[str]) -> int:
    from robust_cli.composing import catalogue
    from robust_cli.composing.words import config_dirs

    parser = _Parser("robust list", description="What can be composed, with a line and a source each.")
    parser.add_argument("names", nargs="*", metavar="GROUP or GROUP/CHOICE", help="only these; a choice shows its keys")
    parser.add_argument("-cd", "--config-dir", metavar="DIR", help="your own configs beside ours")
    asked = parser.parse_args(words)
    print(catalogue.listing(asked.names, [*config_dirs(words), catalogue.conf_folder()]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
