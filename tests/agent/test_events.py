"""Kubernetes Events: one a pod and reason, brought up to date, no more of them than the API server should bear."""

from dataclasses import replace

import pytest
from cgroup_nodes import Node, cid_of, container
from hypothesis import given
from hypothesis import strategies as st

from epcgroup.agent import events
from epcgroup.agent.events import BURST, EventRecorder
from epcgroup.agent.reconcile import Once, Snapshot
from epcgroup.errors import InputError

POST = "/api/v1/namespaces/default/events"


class Reporter:
    """A node's agent with a recorder; `turn` is a look at a time of the test's choice."""

    def __init__(self, looker, endpoint, node: Node, **options):
        self.looker, self.node, self.now, self.said = looker, node, 1_000_000.0, []
        self.once = Once(self.said.append)
        self.make = lambda: EventRecorder(endpoint, "node-1", looker.reconciler, self.once, **options)
        self.recorder = self.make()

    def turn(self, seconds: float = 60.0) -> Snapshot:
        self.now += seconds
        self.looker.tell()
        snapshot = replace(self.looker.look(), at=self.now)
        self.recorder.turn(snapshot)
        self.once.next_turn()
        return snapshot


@pytest.fixture
def report(agent, endpoint, node):
    return lambda rules=None, **options: Reporter(agent(**(rules or {"mode": "enforce"})), endpoint, node, **options)


def hit(node: Node, pod, name: str, local: int, of_pod: int = 0) -> None:
    """Counters as the kernel has them after `local` refusals by the container's limit, `of_pod` by the pod's."""
    node.write(pod.containers[name], "misc.events", f"sgx_epc.max {local}")
    node.write(pod.containers[name], "misc.events.local", f"sgx_epc.max {local}")
    node.write(pod.path, "misc.events", f"sgx_epc.max {local + of_pod}")
    node.write(pod.path, "misc.events.local", f"sgx_epc.max {of_pod}")


def sent(api) -> list[tuple]:
    return [(e["involvedObject"]["name"], e["reason"], e["count"], e["message"]) for e in api.events.objects.values()]


def test_a_limit_that_was_hit_is_an_event_of_the_pod(api, node, report):
    pod = node.pod("web", container("app", "10Mi"))
    hit(node, pod, "app", 7)
    reporter = report()
    reporter.turn()
    assert sent(api) == []  # who knows when that was
    hit(node, pod, "app", 10)
    reporter.turn()
    (event,) = api.events.objects.values()
    assert event["message"] == "3 EPC charges refused by the limit of container app, 10485760 (10 MiB)"
    assert (event["type"], event["reason"], event["count"]) == ("Warning", "EpcLimitHit", 3)
    assert event["involvedObject"] == {
        "apiVersion": "v1", "kind": "Pod", "namespace": "default", "name": "web", "uid": pod.uid,
        "fieldPath": "spec.containers{app}",
    }  # fmt: skip
    assert event["firstTimestamp"] == "1970-01-12T13:48:40Z"
    assert event["source"] == {"component": "epcgroup-agent", "host": "node-1"}


def test_the_pods_own_limit_is_told_from_its_containers(api, node, report):
    pod = node.pod("web", container("app", "10Mi"))
    reporter = report()
    reporter.turn()
    hit(node, pod, "app", 0, of_pod=1)
    reporter.turn()
    assert sent(api) == [("web", "EpcLimitHit", 1, "1 EPC charge refused by the pod's limit, 10485760 (10 MiB)")]


def test_hits_of_a_minute_are_added_up_in_one_event_that_is_kept(api, node, report):
    pod = node.pod("web", container("app", "10Mi"))
    reporter = report()
    reporter.turn()
    for number in range(1, 61):
        hit(node, pod, "app", number)
        reporter.turn(seconds=10)
    ((_, _, count, message),) = sent(api)
    assert (api.asked("POST", POST), len(api.requests)) == (1, 10)
    assert (count, message) == (55, "6 EPC charges refused by the limit of container app, 10485760 (10 MiB)")
    reporter.turn()
    assert sent(api)[0][2] == 60


def test_all_pods_together_send_a_burst_and_then_one_in_five_seconds_and_lose_nothing(api, node, report):
    pods = [node.pod(f"web-{number}", container("app", "1Mi")) for number in range(100)]
    reporter = report()
    reporter.turn()
    for pod in pods:
        hit(node, pod, "app", 5)
    reporter.turn(seconds=0)
    assert len(sent(api)) == BURST
    reporter.turn(seconds=10)
    assert len(sent(api)) == BURST + 2
    for _ in range(40):
        reporter.turn(seconds=10)
    assert sorted(event[2] for event in sent(api)) == [5] * 100


def test_the_next_agent_goes_on_with_the_event_of_the_one_before(api, node, report):
    pod = node.pod("web", container("app", "10Mi"))
    reporter = report()
    reporter.turn()
    hit(node, pod, "app", 2)
    reporter.turn()
    reporter.recorder = reporter.make()
    reporter.turn()
    hit(node, pod, "app", 5)
    reporter.turn()
    assert [event[2] for event in sent(api)] == [5]


def test_an_event_that_the_server_has_forgotten_is_made_anew(api, node, report):
    pod = node.pod("web", container("app", "10Mi"))
    reporter = report()
    reporter.turn()
    hit(node, pod, "app", 2)
    reporter.turn()
    (key,) = api.events.objects
    api.events.delete(*key)
    hit(node, pod, "app", 3)
    reporter.turn()
    assert [event[2] for event in sent(api)] == [1]


def test_a_container_that_began_anew_begins_to_count_anew(api, node, report):
    pod = node.pod("web", container("app", "10Mi"))
    reporter = report()
    reporter.turn()
    pod.start("app", cid_of(77))
    node.items[0]["status"]["containerStatuses"].append({"name": "app", "containerID": f"containerd://{cid_of(77)}"})
    hit(node, pod, "app", 4)
    reporter.turn()
    assert [event[2] for event in sent(api)] == [4]


def test_a_server_that_is_away_is_told_later(api, node, report):
    pod = node.pod("web", container("app", "10Mi"))
    reporter = report()
    reporter.turn()
    hit(node, pod, "app", 2)
    for code in (500, 429):
        api.refuse(code)
        with pytest.raises(InputError, match=f"{code} "):
            reporter.turn()
    reporter.turn()
    assert [event[2] for event in sent(api)] == [2]


def test_a_refusal_is_a_line_and_not_tried_again(api, node, report):
    pod = node.pod("web", container("app", "10Mi"))
    reporter = report()
    reporter.turn()
    hit(node, pod, "app", 2)
    api.refuse(403, b'{"message": "events is forbidden"}')
    reporter.turn()
    reporter.turn()
    assert sent(api) == []
    assert reporter.said == [f"POST {api.url}{POST}: 403 Forbidden: 'events is forbidden'"]


def test_an_annotation_that_cannot_be_read_is_an_event_once(api, node, report):
    node.pod("web", container("app", "10Mi"), annotations={"epcgroup.io/pod-limit": "ten"})
    reporter = report()
    for _ in range(5):
        reporter.turn()
    ((name, reason, count, message),) = sent(api)
    assert (name, reason, count) == ("web", "EpcAnnotationInvalid", 1)
    assert message.startswith("default/web: annotation epcgroup.io/pod-limit: 'ten'")


def test_a_limit_that_cannot_be_set_is_an_event_where_it_is_enforced(api, tmp_path, agent, endpoint, report):
    bare = Node(tmp_path / "bare", misc=False)
    bare.pod("web", container("app", "10Mi"), groups=True)
    for rules, reasons in (({"mode": "observe"}, []), ({"mode": "enforce"}, ["EpcLimitNotSet"] * 2)):
        looker = agent(bare, **rules)
        Reporter(looker, endpoint, bare).turn()
        assert [event[1] for event in sent(api)] == reasons


def test_a_dry_run_sends_nothing(api, node, report):
    pod = node.pod("web", container("app", "10Mi"))
    reporter = report(dry_run=True)
    reporter.turn()
    hit(node, pod, "app", 2)
    reporter.turn()
    assert api.requests == []
    assert reporter.said == [
        "would send Event EpcLimitHit of default/web: "
        "2 EPC charges refused by the limit of container app, 10485760 (10 MiB)"
    ]


def test_long_names_and_messages_are_cut_to_what_the_server_takes(api, node, report):
    node.pod("w" * 253, container("app", "10Mi"), annotations={f"epcgroup.io/limit.{i}é": "1Mi" for i in range(99)})
    report().turn()
    ((name, _, _, message),) = sent(api)
    ((_, event_name),) = api.events.objects
    assert (len(name), len(event_name)) == (253, 253)
    assert len(message.encode()) <= 1024 and message.endswith("...")


ODD = [b'{"count": 1e999}', b'{"count": -1}', b'{"count": "1"}', b"[" * 9999, b'{"count": true}']


@given(st.binary(max_size=40) | st.sampled_from(ODD))
def test_any_answer_has_a_count(answer):
    assert 0 <= events._count(answer) < 2**31
