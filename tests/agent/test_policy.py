"""What the limit of a pod and its containers should be: claims, annotations, their order, faults."""

import json

import pytest
from cgroup_nodes import MIB, container
from hypothesis import given
from hypothesis import strategies as st

from epcgroup.agent.discover import PodGroup
from epcgroup.agent.policy import Rules, Wanted, decide, wanted
from epcgroup.agent.source import pods_of
from epcgroup.interface import UNLIMITED

NRI = "epc-limit.nri.io"


def wanted_of(*containers, annotations=None, init=(), rules=None) -> Wanted:
    item = {
        "metadata": {"name": "web", "annotations": annotations or {}},
        "spec": {"containers": list(containers), "initContainers": list(init)},
    }
    known = pods_of(json.dumps({"items": [item]}).encode(), "pods.json")
    assert known.problems == ()
    return wanted(known.pods[0], rules or Rules())


def limits(pod: Wanted) -> dict[str, int]:
    """Bytes by container, the pod under ""."""
    own = {} if pod.pod is None else {"": pod.pod.bytes}
    return own | {name: limit.bytes for name, limit in pod.containers.items()}


def test_a_claim_is_the_limit_and_the_pods_is_their_sum():
    pod = wanted_of(container("a", "10Mi"), container("b", "6Mi"))
    assert limits(pod) == {"a": 10 * MIB, "b": 6 * MIB, "": 16 * MIB}
    assert pod.containers["a"].reason == "claim sgx.intel.com/epc"
    assert pod.pod is not None and pod.pod.reason == "sum of its containers"
    assert pod.faults == ()


@pytest.mark.parametrize("resource", ["kubernetes.azure.com/sgx_epc_mem_in_MiB", "alibabacloud.com/sgx_epc_MiB"])
def test_a_claim_in_mebibytes_is_bytes(resource):
    assert limits(wanted_of({"name": "a", "resources": {"limits": {resource: "5"}}})) == {"a": 5 * MIB, "": 5 * MIB}


def test_of_init_containers_the_largest_counts_as_the_scheduler_counts_it():
    pod = wanted_of(
        container("a", "4Mi"), init=(container("one", "9Mi"), container("log", "1Mi", restartPolicy="Always"))
    )
    assert limits(pod) == {"one": 9 * MIB, "log": MIB, "a": 4 * MIB, "": 9 * MIB}


@pytest.mark.parametrize(
    ("annotations", "limit"),
    [
        ({NRI: "4096"}, 4096),
        ({NRI: "4096", f"{NRI}/pod": "8192"}, 8192),
        ({NRI: "4096", f"{NRI}/pod": "8192", f"{NRI}/container.a": "12288"}, 12288),
        ({f"{NRI}/container.a": "12288", "epcgroup.io/limit.a": "1Mi"}, MIB),
        ({f"{NRI}/container.b": "12288", "epcgroup.io/limit.b": "1Mi"}, 10 * MIB),
    ],
)
def test_an_annotation_goes_before_the_claim_ours_before_upstreams(annotations, limit):
    assert limits(wanted_of(container("a", "10Mi"), container("b"), annotations=annotations))["a"] == limit


def test_upstreams_pod_annotation_is_the_limit_of_every_container_not_of_the_pod():
    pod = wanted_of(container("a"), container("b"), annotations={f"{NRI}/pod": "8192"})
    assert limits(pod) == {"a": 8192, "b": 8192, "": 16384}


def test_our_pod_annotation_is_the_total():
    pod = wanted_of(container("a", "10Mi"), annotations={"epcgroup.io/pod-limit": "12Mi"})
    assert limits(pod) == {"a": 10 * MIB, "": 12 * MIB}


def test_a_container_that_says_nothing_shares_the_pods_limit():
    assert limits(wanted_of(container("a", "10Mi"), container("b"))) == {"a": 10 * MIB, "": 10 * MIB}


@pytest.mark.parametrize("annotations", [{"epcgroup.io/limit.a": "max"}, {f"{NRI}/container.a": "0"}])
def test_no_limit_said_aloud_goes_before_the_claim_and_leaves_the_pod_without(annotations):
    pod = wanted_of(container("a", "10Mi"), container("b", "1Mi"), annotations=annotations)
    assert limits(pod) == {"a": UNLIMITED, "b": MIB, "": UNLIMITED}


def test_limits_that_add_up_to_more_than_a_number_are_no_limit():
    annotations = {NRI: str(2**64 - 2)}
    pod = wanted_of(container("a"), container("b"), annotations=annotations)
    assert limits(pod) == {"a": 2**64 - 2, "b": 2**64 - 2, "": UNLIMITED}


def test_a_pod_that_claims_and_says_nothing_is_left_alone_unless_the_operator_says_otherwise():
    assert limits(wanted_of(container("a"))) == {}
    assert limits(wanted_of(container("a"), rules=Rules(unclaimed_limit=0))) == {"": 0}
    assert limits(wanted_of(container("a", "1Mi"), rules=Rules(unclaimed_limit=0))) == {"a": MIB, "": MIB}


def test_annotations_count_only_where_the_operator_lets_them():
    pod = wanted_of(
        container("a", "1Mi"), annotations={"epcgroup.io/limit.a": "max"}, rules=Rules(annotations=False)
    )
    assert limits(pod) == {"a": MIB, "": MIB}


@pytest.mark.parametrize("value", ["4Ki", "1e6", "0x10", " 5", "-1", "", str(2**64)])
def test_an_annotation_that_upstream_would_fail_on_is_a_line_and_the_claim_holds(value):
    pod = wanted_of(container("a", "1Mi"), annotations={NRI: value})
    assert limits(pod) == {"a": MIB, "": MIB}
    assert pod.faults == (
        f"default/web: annotation {NRI}: {value!r} is not decimal bytes, 0 to 2**64-1: the NRI plugin would fail the "
        "container; it does not count",
    )


def test_an_annotation_for_no_container_is_a_line():
    pod = wanted_of(container("app", "1Mi"), annotations={"epcgroup.io/limit.ap": "1Mi"})
    assert pod.faults == (
        "default/web: annotation 'epcgroup.io/limit.ap' names no container of the pod; did you mean \"app\"?",
    )


def test_a_limit_below_a_page_is_said():
    pod = wanted_of(container("a"), annotations={"epcgroup.io/limit.a": "100"})
    assert pod.faults[-1].startswith("default/web: a: a limit of 100 bytes is less than one EPC page")


texts = st.text(max_size=30) | st.sampled_from(["max", "1Mi", "0", "4096", "9" * 5000, "1e9999", "🦀", "a\nb"])
keys = st.sampled_from(
    [NRI, f"{NRI}/pod", f"{NRI}/container.a", f"{NRI}/container.\n", "epcgroup.io/limit.a", "epcgroup.io/pod-limit"]
) | st.text(max_size=10).map(lambda text: f"epcgroup.io/{text}")


@given(st.dictionaries(keys, texts))
def test_any_annotation_leaves_lines_and_limits_never_an_exception(annotations):
    pod = wanted_of(container("a", "1Mi"), annotations=annotations)
    assert all(line.isprintable() for line in pod.faults)
    assert set(limits(pod)) == {"a", ""}  # the claim holds, or the annotation does
    assert all(0 <= limit <= UNLIMITED for limit in limits(pod).values())


# ---- what is to be done


def decided(mode="enforce", now=UNLIMITED, capacity=128 * MIB, **rules):
    pod = wanted_of(container("a", "1Mi"))
    group = PodGroup(pod.instance.uid, "besteffort", "/kubepods/pod1")
    seen = {"/kubepods/pod1": now} if now != "gone" else {}
    (decision,) = decide([pod], {group.uid: group}, seen, Rules(mode, **rules), capacity)
    return decision


@pytest.mark.parametrize(("mode", "act"), [("observe", "observe"), ("warn", "warn"), ("enforce", "write")])
def test_a_mode_decides_what_is_done_about_another_limit(mode, act):
    assert decided(mode).act == act
    assert decided(mode, now=MIB).act == "right"


def test_a_namespace_has_its_own_mode_by_the_first_pattern_that_fits():
    assert decided("observe", namespaces={"def*": "enforce", "*": "warn"}).act == "write"
    assert decided("enforce", namespaces={"kube-*": "observe", "*": "warn"}).act == "warn"
    assert decided("enforce", namespaces={"kube-*": "observe"}).act == "write"


@pytest.mark.parametrize("capacity", [None, 0])
def test_a_node_without_the_resource_is_never_written_to(capacity):
    decision = decided(capacity=capacity)
    assert (decision.act, decision.obstacle) == ("cannot", "this node has no sgx_epc")


def test_a_group_without_misc_max_is_never_written_to():
    decision = decided(now=None)
    assert decision.act == "cannot"
    assert decision.line() == (
        "default/web: limit 1048576 (1 MiB), sum of its containers; no sgx_epc in misc.max "
        "(is misc in /kubepods/cgroup.subtree_control?)"
    )


def test_a_group_that_has_ended_or_has_not_begun_is_no_decision():
    pod = wanted_of(container("a", "1Mi"))
    group = PodGroup(pod.instance.uid, "besteffort", "/kubepods/pod1")
    assert decide([pod], {group.uid: group}, {}, Rules("enforce"), MIB) == []
    assert decide([pod], {}, {}, Rules("enforce"), MIB) == []
