"""The fake API server is one to the official client: what that reads and writes here it reads and writes elsewhere."""

import pytest
from cgroup_nodes import container
from kube_fakes import TOKEN

kubernetes = pytest.importorskip("kubernetes")
OURS = "spec.nodeName=node-1"


@pytest.fixture
def core(api, pem):
    configuration = kubernetes.client.Configuration(host=api.url)
    configuration.api_key["authorization"] = f"Bearer {TOKEN}"
    configuration.ssl_ca_cert = str(pem)
    with kubernetes.client.ApiClient(configuration) as client:
        yield kubernetes.client.CoreV1Api(client)


def fill(api, node, names):
    for name in names:
        node.pod(name, container("app", "1Mi"))
        for status in node.items[-1]["status"]["containerStatuses"]:
            status |= {"image": "app", "imageID": "", "ready": True, "restartCount": 0}
        api.pods.put(node.items[-1])


def names(answer):
    return [pod.metadata.name for pod in answer.items]


def test_it_lists_in_pages_of_one_moment(api, core, node):
    fill(api, node, ["a", "b", "c"])
    first = core.list_pod_for_all_namespaces(field_selector=OURS, limit=2)
    api.pods.delete("default", "c")
    rest = core.list_pod_for_all_namespaces(field_selector=OURS, limit=2, _continue=first.metadata._continue)
    assert (names(first), names(rest)) == (["a", "b"], ["c"])
    assert first.metadata.resource_version == rest.metadata.resource_version
    api.pods.put(node.items[2])
    first = core.list_pod_for_all_namespaces(limit=2)
    api.pods.compact()
    with pytest.raises(kubernetes.client.ApiException) as refusal:
        core.list_pod_for_all_namespaces(limit=2, _continue=first.metadata._continue)
    assert (refusal.value.status, refusal.value.reason) == (410, "Gone")


def test_it_watches_from_a_place(api, core, node):
    fill(api, node, ["a"])
    place = core.list_pod_for_all_namespaces().metadata.resource_version
    fill(api, node, ["b"])
    api.pods.put({**node.items[0], "spec": {**node.items[0]["spec"], "nodeName": "node-2"}})
    api.pods.delete("default", "b")
    watch = kubernetes.watch.Watch()
    seen = []
    for event in watch.stream(core.list_pod_for_all_namespaces, field_selector=OURS, resource_version=place):
        seen.append((event["type"], event["object"].metadata.name))
        if len(seen) == 2:
            watch.stop()
    assert seen == [("ADDED", "b"), ("DELETED", "b")]


def test_a_place_that_is_too_old_is_gone(api, core, node):
    fill(api, node, ["a"])
    api.pods.compact()
    for api.gone_in_stream in (False, True):
        with pytest.raises(kubernetes.client.ApiException) as refusal:
            list(kubernetes.watch.Watch().stream(core.list_pod_for_all_namespaces, resource_version="1"))
        assert refusal.value.status == 410


@pytest.mark.parametrize("sort", ["application/json-patch+json", "application/merge-patch+json",
                                  "application/strategic-merge-patch+json"])  # fmt: skip
def test_it_patches_the_status_of_nodes_and_writes_quantities_its_own_way(api, core, sort):
    api.nodes.put({"metadata": {"name": "node-1"}, "status": {"capacity": {"cpu": "2"}}})
    body = {"status": {"capacity": {"sgx.intel.com/epc": "94000000"}}}
    if "json-patch" in sort:
        body = [{"op": "add", "path": "/status/capacity/sgx.intel.com~1epc", "value": "94000000"}]
    node = core.patch_node_status("node-1", body, _content_type=sort)
    assert node.status.capacity == {"cpu": "2", "sgx.intel.com/epc": "94M"}


def test_it_takes_events_once_by_name(api, core):
    event = kubernetes.client.CoreV1Event(
        metadata=kubernetes.client.V1ObjectMeta(name="web.1"),
        involved_object=kubernetes.client.V1ObjectReference(kind="Pod", name="web", namespace="default"),
    )
    core.create_namespaced_event("default", event)
    with pytest.raises(kubernetes.client.ApiException) as refusal:
        core.create_namespaced_event("default", event)
    assert refusal.value.status == 409
    assert core.patch_namespaced_event("web.1", "default", {"count": 2}).count == 2


def test_it_believes_nobody_without_the_token(api, core):
    core.api_client.configuration.api_key["authorization"] = "Bearer other"
    with pytest.raises(kubernetes.client.ApiException) as refusal:
        core.list_pod_for_all_namespaces()
    assert refusal.value.status == 401
