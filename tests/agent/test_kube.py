"""Pods from an API server and from kubelet: lists, watches, every way in which these end, refuse or talk nonsense."""

import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from cgroup_nodes import MIB, Node, cid_of, container, uid_of
from hypothesis import given
from hypothesis import strategies as st
from kube_fakes import TOKEN, FakeApiServer, FakeKubelet, status

from epcgroup.agent.endpoint import Endpoint
from epcgroup.agent.kube import PODS, ApiPods, Kubelet
from epcgroup.agent.policy import Rules
from epcgroup.agent.reconcile import Reconciler
from epcgroup.agent.source import Known, pods_of
from epcgroup.agent.tree import Tree
from epcgroup.agent.watch import Watch
from epcgroup.errors import InputError

PATIENCE = 60  # seconds for what takes a moment


def wait_for(what: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def pod(number: int, **metadata) -> dict:
    return {
        "metadata": {"name": f"web-{number}", "namespace": "default", "uid": uid_of(number), **metadata},
        "spec": {"nodeName": "node-1", "containers": [container("app", "1Mi")]},
        "status": {"phase": "Running",
                   "containerStatuses": [{"name": "app", "containerID": f"containerd://{cid_of(number)}"}]},
    }  # fmt: skip


@pytest.fixture
def source(endpoint: Endpoint) -> Iterator[ApiPods]:
    source = ApiPods(endpoint, "node-1", partial(Watch, page=3, first_delay=0.01))
    yield source
    source.close()


def names(known: Known) -> list[str]:
    return sorted(pod.pod.name for pod in known.pods)


def look(source: ApiPods) -> list[str]:
    """Names of the pods; ["?"] while the server cannot be asked."""
    try:
        return names(source.look())
    except InputError:
        return ["?"]


# ---- list and watch


def test_the_pods_of_this_node_are_listed_in_pages_and_watched(api, source):
    for number in range(1, 8):
        api.pods.put(pod(number))
    api.pods.put({**pod(9), "spec": {**pod(9)["spec"], "nodeName": "node-2"}})
    first = source.look()
    assert names(first) == [f"web-{number}" for number in range(1, 8)]
    assert (api.pods.nr_lists, source.look() is first) == (3, True)
    one = first.pods[0]
    assert (one.uid, one.node, one.phase, one.pod.claim_bytes) == (uid_of(1), "node-1", "Running", MIB)
    assert one.container_ids[cid_of(1)] == "app"
    api.pods.put(pod(8))
    api.pods.delete("default", "web-1")
    wait_for(lambda: look(source) == [f"web-{number}" for number in range(2, 9)])
    api.pods.put({**pod(2), "status": {"phase": "Succeeded"}})
    wait_for(lambda: any(one.over for one in source.look().pods))
    assert api.pods.nr_lists == 3


def test_a_watch_that_loses_its_connection_goes_on_where_it_was(api, source):
    api.pods.put(pod(1))
    source.look()
    for number in range(2, 7):
        wait_for(lambda number=number: api.pods.nr_watches == number - 1)
        api.cut()
        api.pods.put(pod(number))
        wait_for(lambda number=number: len(look(source)) == number)
    assert (api.pods.nr_lists, api.pods.nr_watches) == (1, 6)


@pytest.mark.parametrize("in_stream", [False, True])
def test_gone_means_a_new_list_and_what_is_not_in_it_is_no_more(api, source, in_stream):
    api.gone_in_stream = in_stream
    for number in (1, 2):
        api.pods.put(pod(number))
    source.look()
    wait_for(lambda: api.pods.nr_watches == 1)
    with api.lock:
        api.cut()
        api.pods.delete("default", "web-1")
        api.pods.put(pod(3))
        api.pods.compact()
    wait_for(lambda: look(source) == ["web-2", "web-3"])
    assert api.pods.nr_lists == 2


def test_a_bookmark_keeps_the_place_young(api, source):
    api.pods.put(pod(1))
    source.look()
    wait_for(lambda: api.pods.nr_watches == 1)
    api.pods.bookmark()
    wait_for(lambda: source._watch._place == str(api.version))
    api.pods.compact()
    api.cut()
    api.pods.put(pod(2))
    wait_for(lambda: look(source) == ["web-1", "web-2"])
    assert api.pods.nr_lists == 1


def test_pages_that_expire_are_listed_anew(api, source):
    for number in range(1, 6):
        api.pods.put(pod(number))
    page = json.dumps({"items": [pod(1)], "metadata": {"resourceVersion": "1", "continue": "old"}}).encode()
    api.refuse(200, page)
    wait_for(lambda: look(source) == [f"web-{number}" for number in range(1, 6)])


def test_a_server_whose_every_list_is_gone_is_a_line(api, source):
    api.refuse(410, json.dumps(status(410, "Expired", "too old")).encode(), times=3)
    with pytest.raises(InputError, match=rf"^GET {api.url}{PODS}: 410 Gone: 'too old'$"):
        source.look()
    wait_for(lambda: look(source) == [])


def test_five_hundred_pods_and_a_thousand_that_come_and_go(api, source, node):
    """Twenty seconds of a node where 50 pods a second start and end."""
    for number in range(500):
        api.pods.put(pod(number))
    assert len(source.look().pods) == 500
    for number in range(500, 1500):
        api.pods.put(pod(number))
        if number % 3 == 0:
            api.pods.put(pod(number, annotations={"epcgroup.io/pod-limit": "2Mi"}))
        if number % 100 == 0:
            api.cut()
        if number % 250 == 0:
            api.pods.compact()
        api.pods.delete("default", f"web-{number}")
    api.pods.put(pod(2000))
    wanted = sorted(f"web-{number}" for number in (*range(500), 2000))
    wait_for(lambda: look(source) == wanted)
    assert source.look().problems == ()


def test_the_agent_limits_what_the_api_server_tells(api, source, node):
    web = node.pod("web", container("app", "10Mi"))
    api.pods.put(node.items[0])
    lines: list[str] = []
    agent = Reconciler(Tree(node.root, "sgx_epc"), source, Rules("enforce"), lines.append, node="node-1")
    agent.turn()
    assert (web.limit(), web.limit("app")) == (str(10 * MIB), str(10 * MIB))
    wait_for(lambda: api.pods.nr_watches == 1)
    api.token = "another"
    api.cut()
    wait_for(lambda: look(source) == ["?"])
    lines.clear()
    node.write(web.path, "misc.max", "sgx_epc max")
    agent.turn()
    assert web.limit() == str(10 * MIB)
    assert lines[0] == (f"GET {api.url}{PODS}: 401 Unauthorized: 'Unauthorized'; going on with the 1 pods known before")
    assert len(lines) == 2


# ---- refusals and nonsense


@pytest.mark.parametrize(
    ("code", "body", "message"),
    [
        (403, json.dumps(status(403, "Forbidden", "pods is forbidden: User cannot list")).encode(),
         "403 Forbidden: 'pods is forbidden: User cannot list'"),
        (500, b"", "500 Internal Server Error"),
        (404, b"404 page not found\n", "404 Not Found: '404 page not found'"),
        (302, b"\x1b[31m", "302 Found: '\\x1b[31m'"),
        (200, b"", "not JSON: 'Expecting value: line 1 column 1 (char 0)'"),
        (200, b"[" * 100_000, "not JSON: "),
        (200, b"\xff", "not JSON: "),
        (200, b"[]", "a list is no object"),
        (200, b'{"kind": "PodList"}', "is no list of objects"),
        (200, b'{"items": 5, "metadata": {}}', "is no list of objects"),
        (200, b'{"items": [], "metadata": {}}', "a list without resourceVersion"),
        (200, b'{"items": [], "metadata": {"continue": 5}}', "goes on where it went on before"),
    ],
)  # fmt: skip
def test_an_answer_that_is_no_list_is_one_line_and_asked_for_again(api, source, code, body, message):
    api.pods.put(pod(1))
    api.refuse(code, body)
    with pytest.raises(InputError) as refusal:
        source.look()
    line = str(refusal.value)
    assert line.startswith(f"GET {api.url}{PODS}: {message}") and line.isprintable() and len(line) < 400
    wait_for(lambda: look(source) == ["web-1"])


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense\n",
        b"[]\n",
        b"\n",
        b'{"type": "PAINTED", "object": {}}\n',
        b'{"type": ["ADDED"], "object": {}}\n',
        b'{"type": "ERROR", "object": 5}\n',
        b'{"type": "ERROR", "object": {"code": 500, "message": "etcd leader changed"}}\n',
        b'{"type": "ERROR", "object": {"code": 1e999}}\n',
        b"[" * 100_000 + b"\n",
    ],
)
def test_a_watch_that_talks_nonsense_is_followed_by_a_list(api, source, line):
    api.pods.put(pod(1))
    source.look()
    wait_for(lambda: api.pods.nr_watches == 1)
    api.pods.say(line)
    wait_for(lambda: api.pods.nr_lists == 2)
    api.pods.put(pod(2))
    wait_for(lambda: look(source) == ["web-1", "web-2"])


def test_half_an_event_is_no_event(api, source):
    api.pods.put(pod(1))
    source.look()
    wait_for(lambda: api.pods.nr_watches == 1)
    api.pods.say(b'{"type": "DELETED", "object": {"metadata": {"name": "web-1"')
    with api.lock:
        api.pods.changes.pop()
        api.cut()
    api.pods.put(pod(2))
    wait_for(lambda: look(source) == ["web-1", "web-2"])
    assert api.pods.nr_lists == 1


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        (5, "an object without a name"),
        ({"metadata": {"name": 5}}, "an object without a name"),
        ({"metadata": {"name": "x", "namespace": []}}, "an object without a name"),
        ({"metadata": {"name": "x"}, "spec": {"containers": 5}}, "pod x: spec.containers: not a list of containers"),
        ({"metadata": {"name": "x"}}, "Pod x has no pod template"),
        ({"metadata": {"name": "x", "uid": "../etc"}, "spec": {"containers": [{"name": "a"}]}},
         "pod x: metadata.uid: '../etc' is no UID of a pod"),
        ({"metadata": {"name": "x", "annotations": {"epcgroup.io/pod-limit": 5}}, "spec": {"containers": [{}]}},
         "pod x: annotation epcgroup.io/pod-limit: 5 must be text"),
        ({"kind": "PodList", "items": [], "metadata": {"name": "x"}}, "Pod x has no pod template"),
    ],
)  # fmt: skip
def test_a_malformed_pod_is_a_line_and_its_neighbours_count(api, source, item, problem):
    api.pods.put(pod(1))
    source.look()
    wait_for(lambda: api.pods.nr_watches == 1)
    api.pods.say(json.dumps({"type": "ADDED", "object": item}).encode() + b"\n")
    api.pods.put(pod(2))
    wait_for(lambda: look(source) == ["web-1", "web-2"])
    (line,) = source.look().problems
    assert line.startswith(api.url) and problem in line and line.isprintable()


def test_huge_labels_and_annotations_are_not_kept(api, source):
    large = "x" * (256 << 10)
    api.pods.put(pod(1, labels={"a": large}, annotations={"b": large, "epcgroup.io/pod-limit": "2Mi"}))
    (one,) = source.look().pods
    assert one.pod.annotations == {"epcgroup.io/pod-limit": "2Mi"}
    api.pods.put(pod(2, annotations={"epcgroup.io/pod-limit": large}))
    wait_for(lambda: len(look(source)) == 2)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
WAYS = [
    ("metadata",), ("metadata", "name"), ("metadata", "namespace"), ("metadata", "uid"), ("metadata", "annotations"),
    ("metadata", "resourceVersion"), ("spec",), ("spec", "containers"), ("spec", "initContainers"),
    ("spec", "nodeName"), ("status",), ("status", "phase"), ("status", "containerStatuses"), ("kind",), ("items",),
    ("spec", "containers", 0), ("spec", "containers", 0, "name"), ("spec", "containers", 0, "resources"),
    ("spec", "containers", 0, "resources", "limits"), ("status", "containerStatuses", 0, "containerID"),
]  # fmt: skip
CHANGES = st.dictionaries(st.sampled_from(WAYS), json_values, min_size=1, max_size=3)


@given(CHANGES, st.sampled_from(["ADDED", "DELETED"]))
def test_any_object_is_a_pod_or_a_line(changes, kind):
    item = pod(1)
    for way, value in changes.items():
        *above, last = way
        place = item
        for part in above:
            inner = place.get(part) if isinstance(place, dict) else None
            if isinstance(place, list) and isinstance(part, int) and part < len(place):
                inner = place[part]
            place = inner
        if isinstance(place, dict) or (isinstance(place, list) and isinstance(last, int) and last < len(place)):
            place[last] = value
    source = ApiPods(Endpoint("http://127.0.0.1:9"), "node-1")
    watch = Watch(source.endpoint, PODS, "", source._read)
    watch._event({"type": "ADDED", "object": pod(2)}, "here")
    watch._event({"type": kind, "object": item}, "here")
    watch._thread, source._watch = _Alive(), watch
    watch._first.set()
    known = source.look()
    assert "web-2" in names(known)
    assert all(line.isprintable() for line in known.problems)
    for line in known.problems:
        line.encode()
    answer = json.dumps({"kind": "PodList", "items": [item]}).encode()
    assert all(line.isprintable() for line in pods_of(answer, "pods").problems)


class _Alive:
    """A thread that need not run."""

    @staticmethod
    def is_alive() -> bool:
        return True


# ---- the connection


def test_a_server_that_is_not_there_is_one_line_until_it_is(pem, tmp_path):
    server = FakeApiServer(pem)
    server.close()
    source = ApiPods(Endpoint(server.url, None, pem), "node-1", partial(Watch, first_delay=0.01))
    with pytest.raises(InputError, match=rf"^GET {server.url}{PODS}: Connection refused$"):
        source.look()
    source.close()


def test_a_server_with_another_certificate_is_not_believed_and_gets_no_token(api, endpoint, tmp_path):
    with pytest.raises(InputError, match=r"its certificate is not believed \(self-signed certificate\)$"):
        ApiPods(Endpoint(api.url, endpoint.token_file), "node-1").look()
    assert api.requests == []


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "token: cannot be read (No such file or directory)"), (b"", "token: is no token: a line of ASCII is"),
     (b"a\nHost: b", "token: is no token"), (b"\xff", "token: is no token")],
)  # fmt: skip
def test_a_token_that_is_none_is_one_line_and_nothing_is_sent(api, pem, tmp_path, content, message):
    if content is not None:
        (tmp_path / "token").write_bytes(content)
    with pytest.raises(InputError) as refusal:
        Endpoint(api.url, tmp_path / "token", pem).request("GET", PODS)
    assert str(refusal.value).startswith(f"{tmp_path}/{message}")
    assert api.requests == []


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_a_ca_file_that_is_none_is_one_line(api, tmp_path, content):
    if content is not None:
        (tmp_path / "ca.crt").write_bytes(content)
    with pytest.raises(InputError, match=r"/ca\.crt: cannot be read \((No such file or directory|no certificates)\)$"):
        Endpoint(api.url, None, tmp_path / "ca.crt").request("GET", PODS)


def test_a_token_that_was_renewed_is_used_at_once(api, endpoint):
    api.token = "renewed"
    with pytest.raises(InputError, match="401 Unauthorized"):
        endpoint.request("GET", PODS)
    Path(endpoint.token_file).write_text("renewed")
    assert json.loads(endpoint.request("GET", PODS))["items"] == []


# ---- kubelet


@pytest.fixture
def kubelet(pem: Path, node: Node) -> Iterator[FakeKubelet]:
    server = FakeKubelet(node.pod_list, pem)
    yield server
    server.close()


def test_kubelet_tells_its_pods_to_whoever_has_the_token(kubelet, node, pem, tmp_path):
    node.pod("web", container("app", "1Mi"))
    (tmp_path / "token").write_text(TOKEN)
    source = Kubelet(Endpoint(kubelet.url, tmp_path / "token", pem))
    first = source.look()
    assert names(first) == ["web"] and source.look() is first
    node.items.reverse()
    node.pod("db", container("app", "1Mi"))
    assert names(source.look()) == ["db", "web"]
    (tmp_path / "token").write_text("stale")
    with pytest.raises(InputError, match=rf"^GET {kubelet.url}/pods: 401 Unauthorized: 'Unauthorized'$"):
        source.look()


def test_kubelets_own_certificate_is_taken_where_that_is_wanted(kubelet, node, tmp_path):
    (tmp_path / "token").write_text(TOKEN)
    assert names(Kubelet(Endpoint(kubelet.url, tmp_path / "token", insecure=True)).look()) == []


def test_the_read_only_port_wants_no_token(node):
    node.pod("web", container("app", "1Mi"))
    server = FakeKubelet(node.pod_list, token=None)
    assert names(Kubelet(Endpoint(server.url)).look()) == ["web"]
    server.close()


@pytest.mark.parametrize(
    ("code", "body", "headers", "message"),
    [
        (403, b"Forbidden (user=system:anonymous, verb=get, resource=nodes, subresource=proxy)", {},
         "403 Forbidden: 'Forbidden (user=system:anonymous, verb=get, resource=nodes, subresource=proxy)'"),
        (200, b"{", {}, "not JSON: "),
        (200, b"[]", {}, "a list is no PodList"),
        (200, b"{}", {"Content_Length": "999"}, "the answer ends too early"),
        (200, b"xyz", {"Transfer_Encoding": "chunked"}, ""),
    ],
)  # fmt: skip
def test_what_kubelet_should_not_say_is_one_line(kubelet, pem, code, body, headers, message):
    kubelet.refuse(code, body, **headers)
    if "Transfer_Encoding" in headers or "Content_Length" in headers:
        kubelet.server.RequestHandlerClass.protocol_version = "HTTP/1.0"
    with pytest.raises(InputError) as refusal:
        Kubelet(Endpoint(kubelet.url, None, pem)).look()
    line = str(refusal.value)
    assert message in line and kubelet.url in line and line.isprintable()
