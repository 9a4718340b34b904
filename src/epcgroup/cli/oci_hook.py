"""Limit a container's EPC memory: for an OCI runtime to call as a createRuntime hook.

The container's state comes on standard input. What the bundle's annotations say (epc-limit.nri.io/container.NAME,
epcgroup.io/limit.NAME and so on, as for pods), else its unified "misc.max", becomes misc.max of the container's
cgroup before any process of it runs; a bundle that says neither is left alone. Exit status 0; else the runtime does not
start the container, and the line on standard error says why. The live daemon sets the limit, or with --tree the kernel;
where that has no sgx_epc the container starts without one, and a line says so. In config.json:

  "hooks": {"createRuntime": [{"path": "/usr/bin/epcgroup", "args": ["epcgroup", "oci-hook"]}]}
"""

import argparse
import json
import sys
from pathlib import Path

from epcgroup.cli import daemon
from epcgroup.errors import InputError
from epcgroup.interface import EPC
from epcgroup.live import cgroups
from epcgroup.manifest import annotations, oci
from epcgroup.units import quoted

MAX_STATE = 1 << 20


def set_arguments(parser: argparse.ArgumentParser) -> None:
    daemon.set_arguments(parser)
    parser.add_argument(
        "--tree",
        metavar="DIR",
        nargs="?",
        const="",
        help="write the kernel's misc.max in this cgroup2 tree (without DIR: where it is mounted); no daemon",
    )


def main(args: argparse.Namespace) -> int:
    pid, bundle = _state(sys.stdin.buffer.read(MAX_STATE))
    pod = oci.read_config(bundle)
    (container,) = pod.containers
    limit = annotations.container_limit(pod.annotations, container.name)
    if limit is None:
        limit = container.limit_bytes
    if limit is None:
        return 0
    try:
        group = cgroups.path_of(pid)
    except OSError as error:
        raise InputError(error.strerror or str(error), where="state", key=f"pid {pid}") from error
    if args.tree is None:
        daemon.set_limit(args.directory, group, limit)
    else:
        _write(args.tree, group, limit)
    return 0


def _write(root: str, group: str, limit_bytes: int) -> None:
    from epcgroup.agent.tree import MOUNTS, Tree, find_root

    tree = Tree(root or find_root(MOUNTS.read_text(errors="surrogateescape")), EPC)
    file = tree.shown(group, "misc.max")
    if tree.value(group, "misc.max") is None:
        print(f"epcgroup: {file} has no {EPC}: the container starts without a limit", file=sys.stderr)
        return
    try:
        tree.write(group, "misc.max", tree.max_line(limit_bytes))
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror})", where=file) from None


def _state(text: bytes) -> tuple[int, Path]:
    """pid and bundle of the state that a runtime hands to its hooks."""
    try:
        state = json.loads(text)
    except ValueError:
        state = None
    if not isinstance(state, dict):
        raise InputError("not the JSON state of a container; an OCI runtime calls this", where="standard input")
    pid, bundle = state.get("pid"), state.get("bundle")
    if type(pid) is not int or pid <= 0:
        raise InputError(f"{quoted(pid)} is not a process; in createRuntime there is one", where="state", key="pid")
    if not isinstance(bundle, str) or not bundle.startswith("/"):
        raise InputError(f"{quoted(bundle)} is not an absolute path", where="state", key="bundle")
    return pid, Path(bundle)
