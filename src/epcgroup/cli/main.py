"""The command line: `epcgroup SUBCOMMAND ...`.

A subcommand is one file of this folder with `set_arguments(parser)` and `main(args) -> int`, imported when it is
called, so that `--help` never loads the engine. Input that cannot be used and refusals of the machine are one line on
standard error and exit status 2; ^C is 130; a reader that went away is nothing to talk about.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Iterable, Sequence
from typing import NoReturn

from epcgroup import __version__
from epcgroup.errors import InputError, MachineError, nearest

# Subcommand -> module and what it does, in one line.
SUBCOMMANDS = {
    "run": ("epcgroup.cli.run", "simulate pods on an SGX node, with and without EPC limits"),
    "report": ("epcgroup.cli.report", "show a saved run again: table, JSON or page"),
    "up": ("epcgroup.cli.up", "start the live daemon: an EPC pool of real memory"),
    "down": ("epcgroup.cli.down", "stop the live daemon"),
    "limit": ("epcgroup.cli.limit", "limit the EPC of a cgroup of the live daemon"),
    "status": ("epcgroup.cli.status", "show the live daemon's groups and enclaves"),
    "exec": ("epcgroup.cli.exec", "run a command in a real cgroup under an EPC limit"),
    "python": ("epcgroup.cli.python", "run a numpy program with its arrays under an EPC limit"),
    "runtime": ("epcgroup.cli.runtime", "run an OCI runtime to which the mounted tree is cgroup2"),
    "oci-hook": ("epcgroup.cli.oci_hook", "limit a container, as a createRuntime hook"),
    "record": ("epcgroup.cli.record", "run a command and write down the pages that its enclaves touch"),
    "mount": ("epcgroup.cli.mount", "mount misc.* files over a simulated machine, for tests of agents"),
    "umount": ("epcgroup.cli.umount", "unmount them"),
    "agent": ("epcgroup.cli.agent", "hold a Kubernetes node's pods to their EPC, and serve metrics"),
    "top": ("epcgroup.cli.top", "who uses the EPC: pods and containers, live"),
    "lint": ("epcgroup.cli.lint", "find EPC claims and limits in manifests that cannot work"),
    "convert": ("epcgroup.cli.convert", "write manifests for another family of EPC resources or annotations"),
    "doctor": ("epcgroup.cli.doctor", "what this host can do"),
    "replay": ("epcgroup.cli.replay", "replay an op log on the simulated machine, or check a recorded one"),
}


class _Parser(argparse.ArgumentParser):
    """argparse with our way of refusing: one line, the nearest word, exit status 2."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see {self.prog} --help)")

    def unknown(self, words: Iterable[str]) -> NoReturn:
        """Refuse arguments nobody took."""
        word = next(iter(words))
        if word.startswith("-"):
            options = [option for option in self._option_string_actions if option.startswith("--")]
            raise InputError(f'no option "{word.partition("=")[0]}"{nearest(word.partition("=")[0], options)}')
        self.error(f'one argument too many: "{word}"')


def _parser() -> _Parser:
    parser = _Parser(
        prog="epcgroup",
        description="Limits, accounts for and shows the SGX EPC memory of containers and pods.",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="subcommands:\n"
        + "\n".join(f"  {name:<10} {text}" for name, (_, text) in SUBCOMMANDS.items())
        + "\n\n`epcgroup SUBCOMMAND --help` tells more.",
    )
    parser.add_argument("--version", action="version", version=f"epcgroup {__version__}")
    parser.add_argument("subcommand", nargs="?", metavar="SUBCOMMAND", help=argparse.SUPPRESS)
    parser.usage = "epcgroup [--version] [--help] SUBCOMMAND ..."
    return parser


def _run(argv: Sequence[str]) -> int:
    parser = _parser()
    if not argv:
        parser.print_help(sys.stderr)
        return 2
    if argv[0].startswith("-"):
        _, rest = parser.parse_known_args(argv[:1])
        parser.unknown(rest)
    name = argv[0]
    if name not in SUBCOMMANDS:
        raise InputError(f'no subcommand "{name}"{nearest(name, SUBCOMMANDS)}')
    module_name, text = SUBCOMMANDS[name]
    module = importlib.import_module(module_name)
    sub = _Parser(prog=f"epcgroup {name}", description=module.__doc__ or text, allow_abbrev=False,
                  formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    module.set_arguments(sub)
    args, rest = sub.parse_known_args(argv[1:])
    if rest:
        sub.unknown(rest)
    return int(module.main(args))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit status."""
    try:
        status = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return status
    except (InputError, MachineError) as refusal:
        text = refusal.strerror if isinstance(refusal, MachineError) else str(refusal)
        print(f"epcgroup: {text}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The interpreter flushes standard output once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("epcgroup: interrupted", file=sys.stderr)
        return 130
