"""All that a command line may name, told apart by content: pods, reasons or one error, whatever the text."""

import io
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from epcgroup.errors import InputError
from epcgroup.manifest import read
from epcgroup.manifest.pod import Pod, Skipped

SAMPLES = Path(__file__).parent.parent / "samples" / "manifests"
SHARED = Path(__file__).parents[3] / "shared" / "data" / "manifests"
MIB = 2**20

# Sizes by the end of the file's name, as ORIGINS.tsv has them. Sizes that stand in Helm values, templates or
# comments yield no pod.
CLAIMS = {
    "attested_tls_server.yaml": [10 * MIB],
    "helloworld.yaml": [10 * MIB],
    "hw-sgx-pod-template.yaml": [None],
    "scone-las.yaml": [4 * MIB],
    "sgx-test-with-plugin.yaml": [10 * MIB],
    "aks.yml": [10 * MIB],
    "aks-secret-prov-client-deployment.yaml": [10 * MIB],
    "intel-sgx-aesmd.yaml": [MIB],
    "intelsgx-job.yaml": [512 << 10],
    "tcs_issuer.yaml": [512 << 10],
    "using-Intel-SGX-and-kata.md": [512 << 10],
    "basic-session-deployment-only.yaml": [21474836480],
    "basic.yaml": [21474836480],
    "azure_aks_deployment_guide.md": [10 * MIB, 10 * MIB, 10 * MIB],
    "occlum_init_ra_server.yaml": [1000 * MIB],
}
REASONS = {
    "marblerun__charts__values.yaml": "coordinator.resources asks for sgx.intel.com/epc 10Mi",
    "trusted-certificate-issuer__values.yaml": "resources asks for sgx.intel.com/epc 512Ki",
    "master-deployment.yaml": "Helm template",
    "sgx-epc__templates__daemonset.yaml": "Helm template",
    "overlays__node-feature-rules__node-feature-rules.yaml": "NodeFeatureRule intel-dp-devices has no pod",
    "AliyunContainerService__sgx-device-plugin__deploy__sgx-device-plugin.yaml": "asks for no SGX EPC",
}


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not here")
def test_every_collected_manifest_gives_its_known_claims_or_reasons_of_one_line():
    files = sorted(file for file in SHARED.rglob("*") if file.is_file() and file.name != "ORIGINS.tsv")
    with_claims = {}
    for file in files:
        pods, skipped = read([file])
        assert pods or skipped, file.name
        assert all(len(line.reason.splitlines()) == 1 for line in skipped)
        if pods and file.parent == SHARED:
            with_claims[file.name.rpartition("__")[2]] = [pod.claim_bytes for pod in pods]
    assert with_claims == CLAIMS


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not here")
@pytest.mark.parametrize("name", REASONS)
def test_a_collected_manifest_without_a_pod_says_why(name):
    (file,) = SHARED.glob(f"*{name}")
    _, skipped = read([file])
    assert REASONS[name] in skipped[0].reason


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not here")
def test_the_collected_bundles_give_the_limit_they_carry():
    pods, skipped = read([SHARED / "oci"])
    assert [(p.name, p.containers[0].name, p.containers[0].limit_bytes, p.qos) for p in pods] == [
        ("epcpod", "c0", 1 << 20, "burstable"),
        ("slartibartfast", "container", None, "besteffort"),
    ]
    assert skipped == []


def test_bundles_and_manifests_are_told_apart_by_content():
    pods, skipped = read([SAMPLES / "bundle", SAMPLES])
    assert [(pod.name, pod.kind) for pod in pods] == [
        ("web", "OCI"),
        ("hello", "Pod"),
        ("nightly", "CronJob"),
        ("once", "Job"),
        ("web-2", "Deployment"),
        ("worker", "Deployment"),
    ]
    assert [Path(line.origin.partition(",")[0]).name for line in skipped] == [
        "template.yaml",
        "values.yaml",
        "web-and-worker.yaml",
    ]


def test_a_dash_is_standard_input(monkeypatch):
    text = (SAMPLES / "jobs.yaml").read_bytes()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))
    pods, _ = read([Path("-")])
    assert [pod.origin for pod in pods] == ["standard input, item 1", "standard input, item 2"]


WORDS = st.sampled_from(
    """kind Pod List Job items metadata name annotations spec template containers initContainers resources
    limits requests sgx.intel.com/epc sgx.intel.com/enclave cpu replicas parallelism completions epc-limit.nri.io/pod
    epcgroup.io/pod-limit 10Mi 0.5 ociVersion linux unified misc.max sgx_epc main {{x}}""".split()  # noqa: SIM905
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.text(max_size=3), inner, max_size=5),
    max_leaves=25,
)
AMOUNTS = st.sampled_from(["10Mi", "1", 1, 0, "0.5", "1e3", 2**63]) | VALUES
RESOURCES = st.dictionaries(
    st.sampled_from(["limits", "requests"]),
    st.dictionaries(st.sampled_from(["sgx.intel.com/epc", "alibabacloud.com/sgx_epc_MiB", "cpu"]), AMOUNTS) | VALUES,
)
CONTAINERS = st.lists(
    st.fixed_dictionaries({"name": st.sampled_from("abc")}, optional={"resources": RESOURCES}) | VALUES,
    max_size=3,
)
PODS = st.fixed_dictionaries(
    {"spec": st.fixed_dictionaries({"containers": CONTAINERS}, optional={"initContainers": CONTAINERS})},
    optional={"kind": VALUES, "metadata": VALUES},
)
OBJECTS = st.fixed_dictionaries(
    {"spec": st.fixed_dictionaries({"template": PODS}, optional={"replicas": VALUES})},
    optional={"kind": VALUES, "metadata": VALUES},
)
BUNDLES = st.fixed_dictionaries(
    {"ociVersion": VALUES}, optional={"linux": VALUES, "annotations": VALUES, "hostname": VALUES}
)
YAML_BITS = st.lists(
    st.sampled_from(["---\n", "- ", "{", "}", "[", "]", ": ", "&a ", "*a", "<<: *a", "\n", "  ", "```yaml\n", "'", '"'])
    | st.sampled_from(["!!int ", "!!binary ", "!x ", "|\n", ">-\n", "%TAG ", "...\n", "{{", "? ", "#", "\t", "\0", "%"])
    | WORDS
    | st.text(max_size=3)
).map("".join)


@pytest.mark.parametrize("name", ["x.yaml", "x.json", "x.md"])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=(VALUES | PODS | OBJECTS | BUNDLES).map(json.dumps)
    | YAML_BITS
    | st.text()
    | YAML_BITS.map(lambda text: f"```yaml\n{text}")
    | st.binary()
)
def test_any_content_gives_pods_reasons_or_one_input_error(tmp_path, name, content):
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    try:
        pods, skipped = read([file])
    except InputError as error:
        assert len(str(error).splitlines()) == 1
        return
    assert pods or skipped
    assert all(isinstance(pod, Pod) and pod.replicas > 0 and pod.name for pod in pods)
    lines = [line.reason for line in skipped if isinstance(line, Skipped)] + [n for p in pods for n in p.notes]
    for line in lines:
        line.encode()
        assert len(line.splitlines()) == 1
