"""The agent as it runs: a turn of the reconciler every interval, metrics beside it, until it is told to stop.

SIGTERM and SIGINT end it after the turn at hand. Killed in the middle of one, it loses nothing: the next agent finds
every limit in the files. Lines of its log go to `say`.
"""

import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from epcgroup.agent import recommend
from epcgroup.agent.claims import account
from epcgroup.agent.config import Config, DevicePlugins, Nri
from epcgroup.agent.policy import wanted
from epcgroup.agent.reconcile import Once, Reconciler, Snapshot
from epcgroup.agent.tree import MOUNTS, Tree, find_root
from epcgroup.errors import InputError
from epcgroup.interface import UNLIMITED, max_line
from epcgroup.manifest import annotations
from epcgroup.units import format_bytes

if TYPE_CHECKING:
    from epcgroup.agent.nri import Plugin
    from epcgroup.agent.outbox import Outbox

Say = Callable[[str], None]


def reconciler(config: Config, say: Say, *, dry_run: bool = False) -> Reconciler:
    """InputError when this host has no such cgroup2 tree."""
    root = config.cgroup_root or find_root(MOUNTS.read_text(errors="surrogateescape"))
    return Reconciler(
        Tree(root, config.resource),
        config.source,
        config.rules,
        say,
        node=config.node,
        enable_misc=config.enable_misc,
        dry_run=dry_run,
    )


def run(config: Config, say: Say, *, dry_run: bool = False) -> None:
    """Until SIGTERM or SIGINT. InputError when it cannot start; nothing ends it afterwards."""
    stop = threading.Event()
    agent = reconciler(config, say, dry_run=dry_run)
    with ExitStack() as stack:
        for number in (signal.SIGTERM, signal.SIGINT):
            stack.callback(signal.signal, number, signal.signal(number, lambda *_: stop.set()))
        nri = None if config.nri is None else _nri(config.nri, agent, say, stack)
        if config.device_plugin is not None:
            _device_plugin(config.device_plugin, say, stack)
        if config.listen is not None:
            _serve(config, agent, nri, say, stack)
        outbox = _outbox(config, agent, say, dry_run, stack)
        say(f"agent: {agent.tree.shown('/')}, {config.resource}, mode {_modes(config)}, every {config.interval:g} s")
        while not stop.is_set():
            turn = agent.turn()
            if nri is not None:
                nri.offer(turn)
            if outbox is not None:
                outbox.tell(turn)
            stop.wait(config.interval)
        say("agent: stopped")


def look_once(config: Config, say: Say, *, dry_run: bool = False) -> tuple[Reconciler, Snapshot]:
    """One turn, told to the API server before it returns."""
    agent = reconciler(config, say, dry_run=dry_run)
    with ExitStack() as stack:
        outbox = _outbox(config, agent, say, dry_run, stack)
        snapshot = agent.turn()
        if outbox is not None:
            outbox.work(snapshot)
    return agent, snapshot


def _outbox(config: Config, agent: Reconciler, say: Say, dry_run: bool, stack: ExitStack) -> "Outbox | None":
    if config.api_server is None or config.node is None:
        return None
    from epcgroup.agent.advertise import Advertiser
    from epcgroup.agent.events import EventRecorder
    from epcgroup.agent.outbox import Outbox

    once = Once(say)
    advertiser = recorder = None
    if config.advertise is not None:
        reserve = config.reserve_bytes
        advertiser = Advertiser(
            config.api_server, config.node, config.advertise, say, once, reserve_bytes=reserve, dry_run=dry_run
        )
    if config.events:
        recorder = EventRecorder(config.api_server, config.node, agent, once, dry_run)
    outbox = Outbox(once, advertiser, recorder)
    stack.callback(outbox.close)
    return outbox


def _nri(config: Nri, agent: Reconciler, say: Say, stack: ExitStack) -> "Plugin":
    try:
        from epcgroup.agent.nri import Plugin
    except ModuleNotFoundError as error:
        raise InputError(f"needs {error.name}: pip install 'epcgroup[agent]'", key="nri") from None

    plugin = Plugin(agent, say, config)
    stack.callback(plugin.close)
    plugin.start()
    return plugin


def _device_plugin(config: DevicePlugins, say: Say, stack: ExitStack) -> None:
    try:
        from epcgroup.agent.device_plugin import Plugin
    except ModuleNotFoundError as error:
        raise InputError(f"needs {error.name}: pip install 'epcgroup[agent]'", key="device_plugin") from None

    plugin = Plugin(config, say)
    stack.callback(plugin.close)
    plugin.start()


def _serve(config: Config, agent: Reconciler, nri: "Plugin | None", say: Say, stack: ExitStack) -> None:
    try:
        from epcgroup.agent.metrics import CONTENT_TYPE, EpcCollector
    except ModuleNotFoundError as error:
        raise InputError(f"needs {error.name}: pip install 'epcgroup[agent]'", key="listen") from None
    from epcgroup.agent.serve import serve

    assert config.listen is not None
    collector = EpcCollector(agent, say, reserve_bytes=config.reserve_bytes, nri=nri)
    server = serve(config.listen, collector.text, CONTENT_TYPE)
    stack.callback(server.server_close)
    stack.callback(server.shutdown)
    host, port = str(server.server_address[0]), server.server_address[1]
    say(f"agent: metrics on http://{f'[{host}]' if ':' in host else host}:{port}/metrics")


def _modes(config: Config) -> str:
    others = "".join(f", {name} {mode}" for name, mode in config.rules.namespaces.items())
    return config.rules.mode + others


def report(agent: Reconciler, snapshot: Snapshot, reserve_bytes: int) -> list[str]:
    """One turn in lines for a person: the node's account, then every limit and what became of it."""
    used = {}
    for uid, group in snapshot.groups.items():
        paths = [group.path] if group.path is not None else group.containers.values()
        used[uid] = sum(agent.value(path, "misc.current") or 0 for path in paths)
    balance = account(snapshot.capacity_bytes, reserve_bytes, snapshot.claims_and_use(used))
    parts = [f"capacity {'unknown' if balance.capacity is None else format_bytes(balance.capacity)}"]
    parts += [f"claimed {format_bytes(balance.claimed)}"]
    parts += [f"unclaimed {format_bytes(balance.unclaimed)}"] if balance.unclaimed is not None else []
    parts += [f"used {format_bytes(balance.used)}", f"over-claimed {format_bytes(balance.over_claimed)}"]
    here = sum(pod.instance.uid in snapshot.groups for pod in snapshot.pods)
    lines = [f"pods: {len(snapshot.pods)} known, {here} with cgroups; EPC: {', '.join(parts)}"]
    for outcome in snapshot.outcomes:
        decision = outcome.decision
        said = outcome.result or {"right": "right", "cannot": "cannot be set"}.get(decision.act, "differs")
        lines.append(f"{said:<17} {decision.line('was' if outcome.result == 'written' else 'is')}")
    return lines


def crio_annotations(config: Config, say: Say) -> list[str]:
    """The limits of all containers as annotations that CRI-O carries out by itself, as YAML to paste from.

    No look at the node: InputError when the source of pods cannot be asked. Where there shall be no limit there is no
    annotation, and of equal pods (replicas) one is shown."""
    known = config.source.look()
    lines: dict[tuple[str, ...], None] = {}  # a set that keeps the order
    for line in known.problems:
        say(line)
    for instance in known.pods:
        pod = wanted(instance, config.rules)
        for line in pod.faults:
            say(line)
        limits = [
            f'    {annotations.CRIO}{name}: "misc.max={max_line(config.resource, limit.bytes)}"  # {limit.reason}'
            for name, limit in pod.containers.items()
            if limit.bytes < UNLIMITED
        ]
        if limits:
            where = instance.pod
            lines[(f"# {where.namespace}/{where.name}", "metadata:", "  annotations:", *limits)] = None
    return [line for pod_lines in lines for line in pod_lines] or ["# no container has a limit"]


def recommendation(agent: Reconciler, snapshot: Snapshot, reserve_bytes: int, headroom_percent: int) -> list[str]:
    """Limits by the peaks that the kernel has kept, as YAML to paste from; nothing is written."""
    uses = {}
    for group in snapshot.groups.values():
        for path in (group.path, *group.containers.values()):
            if path is not None:
                peak, limit = agent.value(path, "misc.peak"), agent.value(path, "misc.max")
                uses[path] = recommend.Use(peak, limit)
    capacity, peak = snapshot.capacity_bytes, agent.value("/", "misc.peak")
    advice = recommend.advise(
        snapshot.pods,
        snapshot.groups,
        uses,
        headroom_percent=headroom_percent,
        node_was_full=bool(capacity and peak and peak > capacity - recommend.NEARLY_FULL),
    )
    return list(recommend.lines(advice, account(capacity, reserve_bytes, []).allocatable))
