"""GET /metrics: names, types, labels and rules, as a parser of Prometheus' own library reads them."""

import shutil
import socket
import subprocess
import threading
import urllib.error
import urllib.request

import pytest
from cgroup_nodes import MIB, Node, cid_of, container, uid_of

pytest.importorskip("prometheus_client", reason="needs prometheus_client (pip install 'epcgroup[agent]')")

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from epcgroup.agent.metrics import CONTENT_TYPE, EpcCollector
from epcgroup.agent.reconcile import BUCKETS
from epcgroup.agent.serve import serve
from epcgroup.agent.tree import Tree
from epcgroup.errors import InputError
from epcgroup.manifest import cgroup_path


@pytest.fixture
def scrape(tmp_path):
    """`scrape(agent)` -> {(name, labels...): value}; `lines` of what it said go to agent.lines."""

    def look(agent, collector=None, **options):
        options.setdefault("numa", tmp_path / "no-numa")
        collector = collector or EpcCollector(agent.reconciler, agent.lines.append, **options)
        samples = {}
        for family in text_string_to_metric_families(collector.text().decode()):
            for sample in family.samples:
                key = (sample.name, *(f"{k}={v}" for k, v in sorted(sample.labels.items())))
                assert key not in samples, f"{key} stands twice"
                samples[key] = sample.value
        return samples

    return look


def of(samples, name):
    """The samples of one name, by their labels."""
    return {key[1:]: value for key, value in samples.items() if key[0] == name}


def test_a_container_and_its_pod_show_use_peak_limit_claim_and_events(node, agent, scrape):
    pod = node.pod("web", container("app", "10Mi"), qos="burstable")
    node.use(pod.containers["app"], 3 * MIB, peak=4 * MIB)
    node.use(pod.path, 5 * MIB, peak=6 * MIB)
    node.write(pod.path, "misc.events", "sgx_epc.max 7")
    node.write(pod.path, "misc.events.local", "sgx_epc.max 2")
    looker = agent(mode="enforce")
    looker.look()
    samples = scrape(looker)
    app = ("container=app", f"id={pod.containers['app']}", "namespace=default", "pod=web", f"uid={pod.uid}")
    web = ("namespace=default", "pod=web", "qos=burstable", f"uid={pod.uid}")
    assert of(samples, "container_sgx_epc_usage_bytes") == {app: 3 * MIB}
    assert of(samples, "container_sgx_epc_peak_bytes") == {app: 4 * MIB}
    assert of(samples, "container_sgx_epc_limit_bytes") == {app: 10 * MIB}
    assert of(samples, "container_sgx_epc_request_bytes") == {
        (*app[:4], "resource=sgx.intel.com/epc", app[4]): 10 * MIB
    }
    assert of(samples, "container_sgx_epc_limit_events_total") == {
        (*app[:4], "scope=hierarchical", app[4]): 0,
        (*app[:4], "scope=local", app[4]): 0,
    }
    assert of(samples, "pod_sgx_epc_usage_bytes") == {web: 5 * MIB}
    assert of(samples, "pod_sgx_epc_peak_bytes") == {web: 6 * MIB}
    assert of(samples, "pod_sgx_epc_limit_bytes") == {web: 10 * MIB}
    assert of(samples, "pod_sgx_epc_request_bytes") == {web: 10 * MIB}
    assert of(samples, "pod_sgx_epc_limit_events_total") == {
        ("namespace=default", "pod=web", "scope=hierarchical", f"uid={pod.uid}"): 7,
        ("namespace=default", "pod=web", "scope=local", f"uid={pod.uid}"): 2,
    }


def test_unlimited_is_absent(node, agent, scrape):
    node.pod("web", container("app", "10Mi"))
    looker = agent()
    looker.look()
    samples = scrape(looker)
    assert of(samples, "pod_sgx_epc_usage_bytes") != {}
    assert of(samples, "pod_sgx_epc_limit_bytes") == of(samples, "container_sgx_epc_limit_bytes") == {}


def test_groups_without_use_limit_claim_or_peak_are_left_out(node, agent, scrape):
    node.pod("plain", container("app"))
    used = node.pod("unclaimed", container("app"))
    was = node.pod("was", container("app"))
    node.use(used.path, MIB)
    node.use(was.path, 0, peak=MIB)
    looker = agent()
    looker.look()
    samples = scrape(looker)
    assert {labels[1] for labels in of(samples, "pod_sgx_epc_usage_bytes")} == {"pod=unclaimed", "pod=was"}
    assert of(samples, "container_sgx_epc_usage_bytes") == {}


def test_use_of_a_pod_that_nobody_knows_is_shown_without_a_name(node, agent, scrape):
    node.group(f"/kubepods/pod{uid_of(50)}/{cid_of(50)}")
    node.use(f"/kubepods/pod{uid_of(50)}", MIB)
    looker = agent()
    looker.look()
    samples = scrape(looker)
    nameless = ("namespace=", "pod=", "qos=guaranteed", f"uid={uid_of(50)}")
    assert of(samples, "pod_sgx_epc_usage_bytes") == {nameless: MIB}
    assert of(samples, "node_sgx_epc_overclaim_bytes") == {(): MIB}


def test_the_nodes_account_is_capacity_reserve_claims_and_use(node, agent, scrape):
    over = node.pod("over", container("app", "10Mi"))
    node.pod("under", container("app", "20Mi"))
    node.pod("pending", container("app", "5Mi"), groups=False)
    node.use(over.path, 14 * MIB)
    node.write("/", "misc.current", f"sgx_epc {15 * MIB}")
    node.write("/", "misc.peak", f"sgx_epc {16 * MIB}")
    looker = agent()
    looker.look()
    samples = scrape(looker, reserve_bytes=8 * MIB)
    node_values = {key[0]: value / MIB for key, value in samples.items() if key[0].startswith("node_")}
    assert node_values == {
        "node_sgx_epc_capacity_bytes": 128,
        "node_sgx_epc_usage_bytes": 15,
        "node_sgx_epc_peak_bytes": 16,
        "node_sgx_epc_reserved_bytes": 8,
        "node_sgx_epc_allocatable_bytes": 120,
        "node_sgx_epc_claimed_bytes": 35,
        "node_sgx_epc_unclaimed_bytes": 85,
        "node_sgx_epc_overclaim_bytes": 4,
    }
    assert len(of(samples, "pod_sgx_epc_request_bytes")) == 3


def test_capacity_by_numa_node_is_what_sysfs_says(node, agent, scrape, tmp_path):
    for number, size in (("0", 64 * MIB), ("1", 32 * MIB)):
        (tmp_path / "numa" / f"node{number}" / "x86").mkdir(parents=True)
        (tmp_path / "numa" / f"node{number}" / "x86" / "sgx_total_bytes").write_text(f"{size}\n")
    (tmp_path / "numa" / "node2" / "x86").mkdir(parents=True)
    (tmp_path / "numa" / "node2" / "x86" / "sgx_total_bytes").write_text("nonsense\n")
    looker = agent()
    looker.look()
    samples = scrape(looker, numa=tmp_path / "numa")
    assert of(samples, "node_sgx_epc_capacity_bytes") == {("source=misc",): 128 * MIB, ("source=sysfs",): 96 * MIB}
    assert of(samples, "node_sgx_epc_numa_capacity_bytes") == {("numa_node=0",): 64 * MIB, ("numa_node=1",): 32 * MIB}
    assert len(looker.lines) == 1 and "node2/x86/sgx_total_bytes: cannot be read" in looker.lines[0]


def test_without_misc_peak_the_highest_use_seen_is_the_peak(tmp_path, agent, scrape):
    node = Node(tmp_path / "old", peak=False)
    pod = node.pod("web", container("app", "1Mi"))
    looker = agent(node)
    looker.look()
    collector = EpcCollector(looker.reconciler, looker.lines.append)
    for use in (4096, 8192, 0):
        node.use(pod.path, use)
        samples = scrape(looker, collector)
    assert list(of(samples, "pod_sgx_epc_peak_bytes").values()) == [8192]
    assert list(of(samples, "pod_sgx_epc_usage_bytes").values()) == [0]


def test_a_scrape_sees_use_of_now_and_leaves_out_groups_that_have_gone(node, agent, scrape):
    pod = node.pod("web", container("app", "1Mi"))
    looker = agent()
    looker.look()
    node.use(pod.path, 4096)
    shutil.rmtree(node.root / pod.containers["app"].strip("/"))
    samples = scrape(looker)
    assert list(of(samples, "pod_sgx_epc_usage_bytes").values()) == [4096]
    assert of(samples, "container_sgx_epc_usage_bytes") == of(samples, "container_sgx_epc_limit_events_total") == {}


def test_a_container_whose_name_is_learned_later_is_shown_by_it_then(node, agent, scrape):
    pod = node.pod("web", container("app", "1Mi"))
    node.use(pod.containers["app"], 4096)
    (status,) = node.items[0]["status"].pop("containerStatuses")
    looker = agent()
    looker.look()
    collector = EpcCollector(looker.reconciler, looker.lines.append)
    names = []
    for statuses in ([], [status]):
        node.items[0]["status"]["containerStatuses"] = statuses
        looker.tell()
        looker.look()
        samples = scrape(looker, collector)
        names.append([labels[0] for labels in of(samples, "container_sgx_epc_usage_bytes")])
    assert names == [["container="], ["container=app"]]


def test_events_are_the_kernels_and_survive_a_restart_of_the_agent(node, agent, scrape):
    pod = node.pod("web", container("app", "1Mi"))
    node.write(pod.containers["app"], "misc.events", "sgx_epc.max 41")
    looker = agent(mode="enforce")
    looker.look()
    before = scrape(looker)
    looker.restart()
    looker.look()
    after = scrape(looker)
    name = "container_sgx_epc_limit_events_total"
    assert of(before, name) == of(after, name)
    assert 41 in of(after, name).values()
    # What the agent itself did begins anew, as rate() expects of a process.
    assert sum(of(before, "sgx_epc_agent_limit_writes_total").values()) == 2
    assert of(after, "sgx_epc_agent_limit_writes_total") == {}


def test_drift_is_one_where_the_limit_is_not_what_it_should_be(node, agent, scrape):
    node.pod("web", container("app", "1Mi"), namespace="watched")
    node.pod("db", container("app", "1Mi"), namespace="held")
    looker = agent(namespaces={"held": "enforce"})
    looker.look()
    drift = of(scrape(looker), "sgx_epc_agent_drift")
    assert drift == {
        ("container=", "namespace=held", "pod=db"): 0,
        ("container=app", "namespace=held", "pod=db"): 0,
        ("container=", "namespace=watched", "pod=web"): 1,
        ("container=app", "namespace=watched", "pod=web"): 1,
    }


def test_of_two_pods_of_one_name_the_one_that_drifts_is_shown(node, agent, scrape):
    for limit in (f"sgx_epc {MIB}", "sgx_epc max"):
        node.write(node.pod("web", container("app", "1Mi")).path, "misc.max", limit)
    looker = agent()
    looker.look()
    drift = of(scrape(looker), "sgx_epc_agent_drift")  # scrape() refuses samples that stand twice
    assert drift["container=", "namespace=default", "pod=web"] == 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"misc_controller": 1, "sgx_epc_resource": 1, "peak": 1, "events_local": 1}),
        ({"peak": False}, {"misc_controller": 1, "sgx_epc_resource": 1, "peak": 0, "events_local": 1}),
        ({"capacity": None}, {"misc_controller": 1, "sgx_epc_resource": 0, "peak": 0}),
    ],
)
def test_capabilities_say_what_the_node_has_and_nothing_about_what_cannot_be_seen(
    tmp_path, agent, scrape, options, expected
):
    node = Node(tmp_path / "some", **options)
    node.pod("web", container("app", "1Mi"))
    looker = agent(node)
    looker.look()
    capabilities = of(scrape(looker), "sgx_epc_agent_capability")
    assert capabilities == {(f"feature={name}",): value for name, value in expected.items()}


def test_turns_are_counted_in_a_histogram(node, agent, scrape):
    looker = agent()
    looker.reconciler.totals.count_turn(0.005)
    looker.reconciler.totals.count_turn(0.06)
    looker.reconciler.totals.count_turn(99)
    samples = scrape(looker)
    buckets = of(samples, "sgx_epc_agent_reconcile_duration_seconds_bucket")
    assert len(buckets) == len(BUCKETS) + 1
    assert (buckets["le=0.005",], buckets["le=0.1",], buckets["le=10.0",], buckets["le=+Inf",]) == (1, 2, 2, 3)
    assert of(samples, "sgx_epc_agent_reconcile_duration_seconds_count") == {(): 3}
    assert of(samples, "sgx_epc_agent_reconcile_duration_seconds_sum") == {(): 99.065}


def test_a_file_that_no_kernel_writes_is_a_line_and_its_sample_is_left_out(node, agent, scrape):
    pod = node.pod("web", container("app", "1Mi"))
    node.write(pod.path, "misc.current", "sgx_epc many")
    looker = agent()
    looker.look()
    samples = scrape(looker)
    assert looker.lines == [
        f"{node.root}{pod.path}/misc.current: 'sgx_epc many' is not a line of a misc file; RESOURCE NUMBER"
    ]
    assert of(samples, "pod_sgx_epc_usage_bytes") == {}
    assert len(of(samples, "pod_sgx_epc_request_bytes")) == 1


def test_names_of_groups_with_any_bytes_are_label_values(node, agent, scrape):
    above = node.root / b'\xff\n"\\'.decode("utf-8", "surrogateescape")
    above.mkdir()
    path = cgroup_path.pod_path("besteffort", uid_of(7), root=above.name)
    node.group(f"{path}/{cid_of(7)}")
    node.use(f"{path}/{cid_of(7)}", 4096)
    looker = agent()
    looker.look()
    ((labels, use),) = of(scrape(looker), "container_sgx_epc_usage_bytes").items()
    assert use == 4096
    assert labels[1].startswith('id=/\\udcff\n"\\/kubepods/')


def busy(node: Node) -> None:
    for number in range(5):
        annotations = {"epcgroup.io/pod-limit": "max"} if number == 4 else {}
        pod = node.pod(f"web-{number}", container("app", "10Mi"), container("log"), annotations=annotations)
        node.use(pod.path, number * 12345678901, peak=2**53 + number)


def test_the_text_is_that_of_prometheus_clients_own_writer(node, agent):
    busy(node)
    looker = agent(mode="enforce")
    looker.look()
    collector = EpcCollector(looker.reconciler, looker.lines.append)
    registry = CollectorRegistry()
    registry.register(collector)
    assert collector.text() == generate_latest(registry)
    assert collector.text().count(b"\n") > 100


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool (Debian: apt-get install prometheus)")
def test_promtool_finds_nothing_wrong_with_names_and_types(node, agent):
    busy(node)
    looker = agent(mode="enforce")
    looker.look()
    text = EpcCollector(looker.reconciler, looker.lines.append).text()
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_scrape_reads_five_files_a_group_that_uses_epc_and_three_of_the_others(node, agent):
    for number in range(20):
        node.pod(f"web-{number}", container("a", "1Mi"))  # and a sandbox
    looker = agent()
    looker.look()
    collector = EpcCollector(looker.reconciler, looker.lines.append)
    tree: Tree = looker.reconciler.tree
    reads = tree.reads
    collector.text()
    assert tree.reads - reads == 20 * (5 + 5 + 3) + 3  # and current, peak, controllers of the root


# ---- over HTTP


@pytest.fixture
def server():
    pages = iter(range(1000))
    server = serve(("127.0.0.1", 0), lambda: f"page {next(pages)}\n".encode(), CONTENT_TYPE)
    yield server
    server.shutdown()
    server.server_close()


def url(server, path="/metrics"):
    return f"http://127.0.0.1:{server.server_address[1]}{path}"


def test_each_request_is_answered_with_the_page_of_now(server):
    for number in range(2):
        with urllib.request.urlopen(url(server, "/metrics?x=y"), timeout=30) as answer:
            assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
            assert answer.read() == f"page {number}\n".encode()


@pytest.mark.parametrize("path", ["/", "/metrics/x", "/../etc/passwd"])
def test_any_other_path_is_not_there(server, path):
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(url(server, path), timeout=30)


def test_clients_that_talk_nonsense_or_go_away_leave_the_others_alone(server, capfd):
    for words in (b"", b"\xff\xfe\r\n\r\n", b"GET " + b"x" * 70000, b"GET /metrics HTTP/1.1\r\n"):
        with socket.create_connection(server.server_address[:2], timeout=30) as client:
            client.sendall(words)
    with urllib.request.urlopen(url(server), timeout=30) as answer:
        assert answer.status == 200
    assert "Traceback" not in capfd.readouterr().err


def test_a_fault_of_ours_is_not_hidden(capfd):
    broken = serve(("127.0.0.1", 0), lambda: b"" + 1 // 0, CONTENT_TYPE)  # type: ignore[operator]
    with pytest.raises(OSError):
        urllib.request.urlopen(url(broken), timeout=30)
    broken.shutdown()
    broken.server_close()
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_a_port_that_is_taken_is_refused_in_one_line(server):
    host, port = server.server_address[:2]
    with pytest.raises(InputError, match=rf"^listen: cannot listen on 127.0.0.1:{port} \(Address already in use\)$"):
        serve((host, port), bytes, CONTENT_TYPE)


def test_many_scrapes_at_once_agree(node, agent):
    busy(node)
    looker = agent(mode="enforce")
    looker.look()
    collector = EpcCollector(looker.reconciler, looker.lines.append)
    texts: list[bytes] = []
    threads = [threading.Thread(target=lambda: texts.append(collector.text())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(texts) == 8 and len(set(texts)) == 1
