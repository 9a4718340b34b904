"""The NRI plugin against a runtime that speaks the real framing: limits at the start, in step, late, broken, gone."""

import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cgroup_nodes import MIB, Node, cid_of, container, uid_of

pytest.importorskip("google.protobuf", reason="needs protobuf (pip install 'epcgroup[agent]')")

import nri_runtime as rt
from hypothesis import given
from hypothesis import strategies as st
from nri_runtime import Connection, Runtime, inner, misc_max, pb, unpb

from epcgroup.agent.config import Nri
from epcgroup.agent.nri import Plugin
from epcgroup.agent.policy import Rules
from epcgroup.agent.reconcile import Reconciler
from epcgroup.agent.source import KubeletFile
from epcgroup.agent.tree import Tree
from epcgroup.agent.ttrpc import Message, Reader, packed
from epcgroup.errors import InputError

PATIENCE = 60


@dataclass
class Running:
    """A plugin and the runtime it talks to."""

    plugin: Plugin
    runtime: Runtime
    agent: object
    lines: list[str] = field(default_factory=list)

    def said(self, text: str) -> list[str]:
        return [line for line in self.lines if text in line]


@pytest.fixture
def nri(tmp_path: Path, agent) -> Iterator[Callable[..., Running]]:
    """`nri(mode="enforce")`: rules by name; the node's pods are known when it starts."""
    running = []

    def start(*, options=None, **rules) -> Running:
        looker = agent(options=options, **rules)
        looker.look()
        runtime = Runtime(tmp_path / "nri.sock")
        lines: list[str] = []
        plugin = Plugin(looker.reconciler, lines.append, Nri(runtime.path), retry=0.02, answer=PATIENCE)
        running.append(Running(plugin, runtime, looker, lines))
        plugin.start()
        return running[-1]

    yield start
    for one in running:
        one.runtime.stop()
        one.plugin.close()
        assert not one.plugin._thread.is_alive()


def wait_for(what: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def create(peer: Connection, pod: bytes, ctr: bytes) -> dict[str, str]:
    """misc.max and the like that CreateContainer is answered with."""
    answer = peer.call("CreateContainer", pb((1, pod), (2, ctr)))
    resources = inner(answer, 1, 6, 2)
    return misc_max(resources[0]) if resources else {}


def updates(answer: bytes, number: int = 1) -> dict[str, dict[str, str]]:
    """container id -> unified, of the updates in an answer."""
    return {
        inner(update, 1)[0].decode(): misc_max(inner(update, 2, 1)[0]) for update in inner(answer, number)
    }


WEB, DB = uid_of(1), uid_of(2)
LIMIT = {"misc.max": f"sgx_epc {10 * MIB}"}


# ---- limits


def test_a_container_starts_with_the_limit_that_its_pod_claims(node, nri):
    node.pod("web", container("app", "10Mi"), container("plain"))
    one = nri(mode="enforce")
    peer = one.runtime.accept()
    peer.handshake()
    assert peer.registered == {1: b"epcgroup", 2: b"90"}
    assert peer.events == 1 << 3 | 1 << 7 | 1 << 10
    assert create(peer, rt.pod(WEB), rt.container("c1", WEB, "app")) == LIMIT
    assert create(peer, rt.pod(WEB), rt.container("c2", WEB, "plain")) == {}
    assert one.said("default/web/app") == [
        "nri: default/web/app starts with sgx_epc 10485760: claim sgx.intel.com/epc; its spec said sgx_epc max"
    ]
    assert one.agent.reconciler.totals.writes["nri", "set"] == 1
    wait_for(lambda: one.plugin.connected)


def test_a_pod_that_appeared_since_the_last_look_is_asked_for_again(node, nri):
    one = nri(mode="enforce")
    peer = one.runtime.accept()
    peer.handshake()
    node.pod("late", container("app", "10Mi"), groups=False)
    one.agent.tell()
    assert create(peer, rt.pod(WEB, "late"), rt.container("c1", WEB)) == LIMIT


def test_of_a_pod_that_nobody_knows_its_annotations_count(nri):
    one = nri(mode="enforce", unclaimed_limit=0)
    peer = one.runtime.accept()
    peer.handshake()
    said = {"epcgroup.io/limit.app": "10Mi", "epcgroup.io/limit.bad": "ten"}
    assert create(peer, rt.pod(DB, annotations=said), rt.container("c1", DB, "app")) == LIMIT
    assert create(peer, rt.pod(DB, annotations=said), rt.container("c2", DB, "bad")) == {}
    assert create(peer, rt.pod(DB), rt.container("c3", DB, "app")) == {}
    assert any("annotation epcgroup.io/limit.bad: " in line for line in one.agent.lines)


@pytest.mark.parametrize(
    ("rules", "capacity", "misc", "options", "said"),
    [
        ({"mode": "observe"}, True, True, {}, []),
        ({"mode": "warn"}, True, True, {}, ["mode warn"]),
        ({"mode": "observe", "namespaces": {"def*": "warn"}}, True, True, {}, ["mode warn"]),
        ({"mode": "enforce"}, True, True, {"dry_run": True}, ["dry run"]),
        ({"mode": "enforce"}, False, True, {}, ["this node has no sgx_epc"]),
        ({"mode": "enforce"}, True, False, {}, ["this node has no misc controller"]),
    ],
)
def test_what_is_not_to_be_enforced_or_cannot_be_is_never_set(node, nri, rules, capacity, misc, options, said):
    node.pod("web", container("app", "10Mi"))
    if not capacity:
        node.write("/", "misc.capacity", "")
    if not misc:
        node.write("/", "cgroup.controllers", "cpu memory")
    one = nri(options=options, **rules)
    peer = one.runtime.accept()
    ctr = rt.container("c1", WEB)
    assert updates(peer.handshake(pb((1, rt.pod(WEB)), (2, rt.container("c0", WEB))))) == {}
    assert create(peer, rt.pod(WEB), ctr) == {}
    assert updates(peer.call("UpdateContainer", pb((1, rt.pod(WEB)), (2, ctr)))) == {}
    assert [line.rpartition(": ")[2] for line in one.said("default/web/app")] == said * 3
    assert one.agent.reconciler.totals.writes["nri", "set"] == 0


@pytest.mark.parametrize(("driver", "shown"), [("cgroupfs", "path"), ("systemd", "path"), ("systemd", "name")])
def test_below_a_group_without_misc_no_container_is_failed_and_the_reconciler_follows(node, nri, driver, shown):
    """As crun before 1.18 leaves it: told to write misc.max it would fail the container."""
    node.driver = driver
    pod = node.pod("web", container("app", "10Mi"))
    (node.root / pod.containers["app"].strip("/") / "misc.max").unlink()
    one = nri(mode="enforce", options={"enable_misc": True})
    node.write(pod.path, "cgroup.subtree_control", "cpu memory pids")  # after the first turn, which enables it
    told = rt.pod(WEB, cgroup_parent=pod.path if shown == "path" else pod.path.rpartition("/")[2])
    peer = one.runtime.accept()
    assert updates(peer.handshake(pb((1, told), (2, rt.container("c0", WEB))))) == {}
    assert create(peer, told, rt.container("c1", WEB)) == {}
    assert updates(peer.call("UpdateContainer", pb((1, told), (2, rt.container("c1", WEB))))) == {}
    file = f"{node.root}{pod.path}/cgroup.subtree_control"
    assert one.said("default/web/app") == [
        f"nri: default/web/app does not get sgx_epc 10485760 (claim sgx.intel.com/epc): no misc in {file}"
    ] * 3
    assert one.agent.reconciler.totals.writes["nri", "set"] == 0
    one.agent.look()
    node.settle()
    one.agent.look()
    assert pod.limit("app") == str(10 * MIB)
    assert create(peer, told, rt.container("c2", WEB)) == LIMIT


@pytest.mark.parametrize("parent", ["", "/kubepods/podlater", "later.slice", "../x", "/a/../..", "/\0", "a\0.slice"])
def test_a_group_that_is_not_there_yet_or_named_otherwise_takes_no_limit_away(node, nri, parent):
    node.pod("web", container("app", "10Mi"))
    one = nri(mode="enforce")
    peer = one.runtime.accept()
    peer.handshake()
    assert create(peer, rt.pod(WEB, cgroup_parent=parent), rt.container("c1", WEB)) == LIMIT


def test_below_a_group_that_cannot_be_read_nothing_is_set(node, nri):
    pod = node.pod("web", container("app", "10Mi"))
    file = node.root / pod.path.strip("/") / "cgroup.subtree_control"
    file.unlink()
    file.mkdir()
    one = nri(mode="enforce")
    peer = one.runtime.accept()
    peer.handshake()
    assert create(peer, rt.pod(WEB, cgroup_parent=pod.path), rt.container("c1", WEB)) == {}
    assert [line.partition("): ")[2] for line in one.said("default/web/app")] == [
        f"{file}: cannot be read (Is a directory)"
    ]


def test_containers_that_run_already_are_brought_into_step(node, nri):
    node.pod("web", container("app", "10Mi"))
    node.pod("db", container("app", "10Mi"))
    one = nri(mode="enforce")
    peer = one.runtime.accept()
    pods = pb((1, rt.pod(WEB)), (1, rt.pod(DB, "db")))
    right = rt.container("right", WEB, "app", LIMIT)
    wrong = rt.container("wrong", DB, "app", {"misc.max": "sgx_epc 5"})
    unlimited, strange = rt.container("unlimited", DB), rt.container("strange", uid_of(9))
    answer = peer.handshake(pods + pb((2, right), (2, wrong), (2, unlimited), (2, strange)))
    assert updates(answer) == {"wrong": LIMIT, "unlimited": LIMIT}
    assert [inner(update, 3) for update in inner(answer, 1)] == [[1], [1]]
    assert one.said("in step") == ["nri: in step with containerd v1.7.24: 4 containers, 2 limits corrected"]


def test_a_synchronize_in_pieces_is_answered_with_the_last(node, nri):
    node.pod("web", container("app", "10Mi"))
    one = nri(mode="enforce")
    peer = one.runtime.accept()
    assert peer.handshake(pb((1, rt.pod(WEB)), (3, 1))) == pb((2, 1))
    answer = peer.call("Synchronize", pb((2, rt.container("c1", WEB))))
    assert updates(answer) == {"c1": LIMIT}


def test_an_update_keeps_the_limit(node, nri):
    node.pod("web", container("app", "10Mi"))
    one = nri(mode="enforce")
    peer = one.runtime.accept()
    peer.handshake()
    old, right = rt.container("c1", WEB, "app", {"misc.max": "sgx_epc 5"}), rt.container("c2", WEB, "app", LIMIT)
    assert updates(peer.call("UpdateContainer", pb((1, rt.pod(WEB)), (2, old)))) == {"c1": LIMIT}
    assert updates(peer.call("UpdateContainer", pb((1, rt.pod(WEB)), (2, right)))) == {}
    other = pb((6, {"misc.max": "sgx_epc max"}))
    assert updates(peer.call("UpdateContainer", pb((1, rt.pod(WEB)), (2, right), (3, other)))) == {"c2": LIMIT}


def test_an_update_of_a_runtime_that_does_not_say_the_spec_keeps_the_limit_without_a_word(node, nri):
    node.pod("web", container("app", "10Mi"))
    one = nri(mode="enforce")
    peer = one.runtime.accept()
    peer.handshake()
    silent = pb((1, rt.pod(WEB)), (2, rt.container("c1", WEB)))
    create(peer, rt.pod(WEB), rt.container("c1", WEB))
    assert len(one.said("default/web/app")) == 1
    assert updates(peer.call("UpdateContainer", silent)) == {"c1": LIMIT}
    assert len(one.said("default/web/app")) == 1
    peer.call("StateChange", pb((1, 11), (2, rt.pod(WEB)), (3, rt.container("c1", WEB))))
    assert updates(peer.call("UpdateContainer", silent)) == {"c1": LIMIT}
    assert one.said("default/web/app")[1].endswith("claim sgx.intel.com/epc; its spec is not known")


def test_a_limit_that_changes_goes_into_the_spec_too(node, nri):
    pod = node.pod("web", container("app", "10Mi"), annotations={})
    identity = pod.containers["app"].rpartition("-")[2].removesuffix(".scope")
    one = nri(mode="enforce")
    peer = one.runtime.accept()
    peer.handshake()
    create(peer, rt.pod(WEB), rt.container(identity, WEB))
    node.items[0]["metadata"]["annotations"]["epcgroup.io/limit.app"] = "3Mi"
    one.agent.tell()
    one.plugin.offer(one.agent.look())
    stream, method, payload = peer.request()
    assert (method, updates(payload)) == ("UpdateContainers", {identity: {"misc.max": f"sgx_epc {3 * MIB}"}})
    peer.respond(stream, pb((1, pb((1, identity)))))  # it failed
    wait_for(lambda: one.said("could not set"))
    one.plugin.offer(one.agent.look())
    stream, method, payload = peer.request()
    assert updates(payload) == {identity: {"misc.max": f"sgx_epc {3 * MIB}"}}
    peer.respond(stream, code=2, message="no")
    wait_for(lambda: one.said("refuses UpdateContainers: 'no'"))
    one.plugin.offer(one.agent.look())
    stream, _, _ = peer.request()
    peer.respond(stream)
    peer.call("StateChange", pb((1, 6), (2, rt.pod(WEB)), (3, rt.container(identity, WEB))))
    one.plugin.offer(one.agent.look())  # in step: nothing is asked any more
    peer.call("StateChange", pb((1, 11), (2, rt.pod(WEB)), (3, rt.container(identity, WEB))))
    assert peer.streams[2] == b""
    assert pod.limit("app") == str(3 * MIB)


# ---- the protocol


def test_calls_of_newer_runtimes_are_unimplemented_and_fall_back(node, nri):
    one = nri()
    peer = one.runtime.accept()
    peer.handshake()
    for method, service in (("RunPodSandbox", "Plugin"), ("ValidateContainerAdjustment", "Plugin"), ("Configure", "X")):
        peer.ask(method, service=service)
        assert peer.answer() == (12, b"")
    assert peer.call("Shutdown") == b""
    assert one.said("shuts") == ["nri: containerd v1.7.24 shuts the plugin down"]


def test_an_answer_to_register_may_come_after_everything_else(node, nri):
    one = nri()
    peer = one.runtime.accept()
    peer.handshake(late=True)
    wait_for(lambda: one.plugin.connected)
    peer.call("CreateContainer", pb((1, rt.pod(WEB)), (2, rt.container("c1", WEB))))


def test_20_kb_come_in_pieces_and_leave_in_frames_of_4096_bytes(node, nri):
    node.pod("web", container("app", "10Mi"))
    one = nri(mode="enforce")
    peer = one.runtime.accept()
    many = b"".join(pb((2, rt.container(cid_of(number), WEB))) for number in range(200))
    stream, _, _ = peer.request()
    peer.respond(stream)
    peer.ask("Synchronize", pb((1, rt.pod(WEB, annotations={"note": "x" * 20_000}))) + many, piece=1000)
    code, answer = peer.answer()
    assert (code, len(answer) > 20_000, peer.biggest) == (0, True, 4096)
    assert updates(answer) == {cid_of(number): LIMIT for number in range(200)}


def test_a_plugin_that_answers_late_is_dropped_and_comes_back_into_step(node, nri):
    node.pod("web", container("app", "10Mi"))
    one = nri(mode="enforce")
    peer = one.runtime.accept()
    peer.handshake()
    gate, limit_of = rt.Gate(), one.agent.reconciler.limit_of

    def late(*args):
        gate()
        return limit_of(*args)

    one.agent.reconciler.limit_of = late
    peer.ask("CreateContainer", pb((1, rt.pod(WEB)), (2, rt.container("c1", WEB))))
    assert gate.entered.wait(PATIENCE)
    peer.close()  # what runtimes do after 2 s: the container starts without a limit
    gate.open.set()
    again = one.runtime.accept()
    answer = again.handshake(pb((1, rt.pod(WEB)), (2, rt.container("c1", WEB))))
    assert updates(answer) == {"c1": LIMIT}


def test_a_source_of_pods_that_hangs_holds_no_container_up(node, nri, monkeypatch):
    """The annotations count meanwhile, and the source is not asked twice at the same time."""
    monkeypatch.setattr("epcgroup.agent.reconcile.PATIENCE", 0.05)
    one = nri(mode="enforce")
    peer = one.runtime.accept()
    peer.handshake()
    gate, looks = rt.Gate(), []
    source = one.agent.reconciler._source
    monkeypatch.setattr(source, "look", lambda: (looks.append(1), gate(), type(source).look(source))[2])
    said = {"epcgroup.io/limit.app": "10Mi"}
    for identity in ("c1", "c2"):
        assert create(peer, rt.pod(DB, annotations=said), rt.container(identity, DB)) == LIMIT
    assert gate.entered.wait(PATIENCE) and len(looks) == 1
    gate.open.set()
    one.agent.reconciler._asking.join(PATIENCE)
    assert len(one.agent.look().pods) == 0


def test_where_nothing_is_enforced_no_container_waits_for_the_source_of_pods(nri, monkeypatch):
    one = nri(mode="observe")
    peer = one.runtime.accept()
    looks = []
    monkeypatch.setattr(one.agent.reconciler._source, "look", lambda: looks.append(1))
    peer.handshake(pb((1, rt.pod(DB))))
    assert create(peer, rt.pod(DB), rt.container("c1", DB)) == {}
    assert looks == []


def test_an_update_that_is_never_answered_ends_the_connection_though_others_are(node, nri):
    pod = node.pod("web", container("app", "10Mi"))
    identity = pod.containers["app"].rpartition("-")[2].removesuffix(".scope")
    one = nri(mode="enforce")
    peer = one.runtime.accept()
    peer.handshake()
    wait_for(lambda: one.plugin.connected)
    one.plugin._answer = 0.3
    one.plugin._specs[identity] = "sgx_epc max"
    one.plugin.offer(one.agent.look())
    assert peer.request()[1] == "UpdateContainers"
    with pytest.raises((rt.Closed, OSError)):
        for _ in range(PATIENCE * 100):
            peer.call("StateChange")
            time.sleep(0.01)
    wait_for(lambda: one.said("no answer to UpdateContainers in 0.3 s"))


def test_a_runtime_that_ends_is_waited_for_with_one_line(node, nri):
    one = nri()
    peer = one.runtime.accept()
    peer.handshake()
    wait_for(lambda: one.plugin.connected)
    one.runtime.stop()
    wait_for(lambda: one.said("No such file"))
    assert not one.plugin.connected and not one.plugin.available
    one.runtime.listen()
    peer = one.runtime.accept()
    peer.handshake()
    wait_for(lambda: one.plugin.connected)
    assert one.plugin.available
    assert len(one.said("No such file")) == 1
    assert one.said("closed the connection") or one.said("reset")


def test_a_runtime_that_refuses_or_never_answers_is_tried_again(node, nri):
    one = nri()
    peer = one.runtime.accept()
    stream, _, _ = peer.request()
    one.plugin._answer = 0.2  # from the next connection on
    peer.respond(stream, code=2, message="index 90 is taken")
    one.runtime.accept()
    wait_for(lambda: one.said("the runtime refuses RegisterPlugin: 'index 90 is taken'; until"))
    wait_for(lambda: one.said("no answer to RegisterPlugin in 0.2 s; until"))
    one.runtime.accept()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "for connection 1213486160: this is not NRI"),
        (struct.pack(">II", 1, 5 << 20), "a frame of 5242880 bytes for connection 1"),
        (struct.pack(">IIIIBB", 1, 10, 1 << 30, 1, 1, 0), "a message of 1073741824 bytes; ttrpc carries 4194304"),
        (struct.pack(">IIIIBB", 1, 10, 0, 1, 3, 0), "a message of kind 3 on connection 1"),
        (struct.pack(">IIIIBB", 2, 11, 1, 1, 2, 0) + b"\xff", "an answer to RegisterPlugin that is no message"),
        (struct.pack(">IIIIBB", 1, 11, 1, 1, 1, 0) + b"\xff", "a request that is no message"),
    ],
)
def test_garbage_is_one_line_and_a_new_connection(nri, data, said):
    one = nri()
    one.runtime.accept().peer.sendall(data)
    peer = one.runtime.accept()
    peer.handshake()
    assert len(one.said(said)) == 1


def test_a_payload_that_is_no_message_fails_no_container(nri):
    one = nri()
    peer = one.runtime.accept()
    peer.handshake()
    peer.ask("CreateContainer", b"\xff")
    assert peer.answer() == (0, b"")
    peer.ask("UpdateContainer", b"\xff")
    assert peer.answer() == (3, b"")
    assert one.said("no message") == [
        f"nri: {method} came with what is no message, and is not answered"
        for method in ("CreateContainer", "UpdateContainer")
    ]


def test_names_of_the_runtime_stay_on_one_line(nri):
    one = nri(mode="warn")
    peer = one.runtime.accept()
    peer.handshake()
    peer.call("Configure", pb((1, "[x]"), (2, "con\ntainerd")))
    said = {"epcgroup.io/limit.a\nb": "10Mi"}
    create(peer, rt.pod(DB, "we\nb", annotations=said), rt.container("c1", DB, "a\nb", {"misc.max": "x\ny"}))
    assert one.lines and all(line.isprintable() for line in one.lines)


def test_it_stops_while_the_runtime_is_silent(node, nri):
    one = nri()
    peer = one.runtime.accept()
    peer.request()
    stopping = threading.Thread(target=one.plugin.close)
    stopping.start()
    stopping.join(PATIENCE)
    assert not one.plugin._thread.is_alive()


messages = st.builds(
    Message, st.sampled_from([1, 2]), st.integers(0, 2**32 - 1), st.sampled_from([1, 2]), st.binary(max_size=9000)
)


@given(st.lists(messages, max_size=4), st.lists(st.integers(1, 5000), min_size=1))
def test_messages_arrive_whole_in_whatever_pieces(sent, sizes):
    data, reader, got = b"".join(map(packed, sent)), Reader(), []
    position = turn = 0
    while position < len(data):
        size = sizes[turn % len(sizes)]
        got += reader.feed(data[position : position + size])
        position, turn = position + size, turn + 1
    assert got == sent


@given(st.lists(st.binary(max_size=40)))
def test_any_bytes_are_messages_or_one_line(pieces):
    reader = Reader()
    try:
        for piece in pieces:
            reader.feed(piece)
    except InputError as refusal:
        assert str(refusal).isprintable()


def test_more_than_ttrpc_carries_is_not_sent():
    with pytest.raises(InputError, match="a message of 4194305 bytes; ttrpc carries 4194304"):
        packed(Message(1, 1, 1, bytes((4 << 20) + 1)))




# ---- anything at all

METHODS = ["Configure", "Synchronize", "CreateContainer", "UpdateContainer", "StateChange", "Shutdown", "X"]
texts = st.text(max_size=8)
annotated = st.dictionaries(st.sampled_from(["epcgroup.io/limit.app", "epc-limit.nri.io/pod", "x"]), texts)
asked = st.builds(
    lambda uid, name, said, ctr, misc, more: pb(
        (1, rt.pod(uid, name, name, said, name)), (2, rt.container(ctr, uid, ctr, {"misc.max": misc})), (3, more)
    ),
    st.sampled_from([WEB, ""]), texts, annotated, st.sampled_from(["app", ""]), texts, st.integers(0, 1),
)  # fmt: skip


@pytest.fixture(scope="module")
def asked_plugin(tmp_path_factory):
    """A plugin without a runtime, and what it says."""
    folder = tmp_path_factory.mktemp("asked")
    node = Node(folder / "cgroup")
    node.pod("web", container("app", "10Mi"))
    (folder / "pods.json").write_text(node.pod_list())
    lines: list[str] = []
    tree, source = Tree(node.root, "sgx_epc"), KubeletFile(folder / "pods.json")
    looker = Reconciler(tree, source, Rules(mode="enforce"), lines.append)
    looker.turn()
    return Plugin(looker, lines.append, Nri(folder / "nri.sock")), lines


@given(method=st.sampled_from(METHODS), payload=st.one_of(st.binary(max_size=60), asked))
def test_any_request_is_answered_or_refused_in_one_line(asked_plugin, method, payload):
    plugin, lines = asked_plugin
    lines.clear()
    request = pb((1, "nri.pkg.api.v1alpha1.Plugin"), (2, method), (3, payload))
    answer = unpb(plugin._serve(request).SerializeToString())
    if method == "CreateContainer":
        assert 1 not in answer  # an error would fail the container
    assert all(line.isprintable() for line in lines)


@given(st.binary(max_size=80))
def test_any_bytes_for_a_request_are_answered_or_refused_in_one_line(asked_plugin, data):
    try:
        asked_plugin[0]._serve(data)
    except InputError as refusal:
        assert str(refusal).isprintable()
