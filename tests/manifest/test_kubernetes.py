"""Kubernetes manifests: what becomes a pod with which claim and limit, and the one line for what does not."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from epcgroup.errors import InputError
from epcgroup.manifest import annotations, yamltext
from epcgroup.manifest.kubernetes import read

SAMPLES = Path(__file__).parent.parent / "samples" / "manifests"
MIB = 2**20


def pod_text(resources="{limits: {sgx.intel.com/epc: 10Mi}}", annotations="{}", more=""):
    return f"""
kind: Pod
metadata: {{name: web, annotations: {annotations}}}
spec:
  containers:
  - {{name: main, resources: {resources}}}
{more}"""


def read_text(tmp_path, text, name="web.yaml"):
    file = tmp_path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read([file])


def the_pod(tmp_path, text):
    pods, skipped = read_text(tmp_path, text)
    assert [line.reason for line in skipped] == []
    (pod,) = pods
    return pod


def the_reason(tmp_path, text, name="web.yaml"):
    pods, skipped = read_text(tmp_path, text, name)
    assert pods == []
    (line,) = skipped
    assert "\n" not in line.reason
    return line.reason


# --- templates and names


def test_a_file_of_several_documents_yields_its_pods_and_names_the_rest():
    pods, skipped = read([SAMPLES / "web-and-worker.yaml"])
    assert [(p.name, p.kind, p.namespace, p.replicas, p.claim_bytes) for p in pods] == [
        ("web", "Deployment", "shop", 3, 64 * MIB),
        ("worker", "Deployment", "default", 1, 10 * MIB),
    ]
    assert pods[0].origin.endswith("web-and-worker.yaml, document 2")
    assert [line.reason for line in skipped] == ["Service web has no pod template"]


def test_init_and_sidecar_containers_come_first_and_keep_their_kind():
    pods, _ = read([SAMPLES / "web-and-worker.yaml"])
    assert [(c.name, c.kind, c.claim_bytes) for c in pods[0].containers] == [
        ("provision", "init", 64 * MIB),
        ("aesmd", "sidecar", MIB),
        ("server", "container", 32 * MIB),
    ]
    assert pods[0].containers[2].devices == ("sgx.intel.com/enclave",)


def test_jobs_run_as_many_pods_as_they_may_in_parallel_and_need():
    pods, _ = read([SAMPLES / "jobs.yaml"])
    assert [(p.name, p.kind, p.replicas, p.claim_bytes) for p in pods] == [
        ("nightly", "CronJob", 4, 20 * MIB),
        ("once", "Job", 2, 512 << 10),
    ]
    assert pods[1].origin.endswith("jobs.yaml, item 2")
    assert "stands in requests only" in pods[1].notes[0]


def test_fenced_yaml_in_markdown_is_read_and_other_fences_are_not():
    pods, skipped = read([SAMPLES / "guide.md"])
    assert [(p.name, p.claim_bytes, p.origin) for p in pods] == [("hello", 10 * MIB, f"{SAMPLES / 'guide.md'}, line 6")]
    assert skipped == []


def test_helm_values_say_where_an_epc_size_stands():
    _, (line,) = read([SAMPLES / "values.yaml"])
    assert "coordinator.resources asks for sgx.intel.com/epc 10Mi" in line.reason


def test_a_helm_template_is_named_as_one():
    _, (line,) = read([SAMPLES / "template.yaml"])
    assert line.reason == "a Helm template; render it first (helm template)"


def test_a_template_expression_that_is_valid_yaml_is_named_as_one_too(tmp_path):
    reason = the_reason(tmp_path, pod_text('{limits: {sgx.intel.com/epc: "{{ .Values.epc }}"}}'))
    assert reason == "Pod web: a Helm template; render it first (helm template)"


def test_every_template_of_a_custom_resource_is_one_pod_with_a_name_of_its_own(tmp_path):
    pods, skipped = read_text(
        tmp_path,
        """
kind: TrainingJob
metadata: {name: train}
spec:
  replicaSpecs:
  - replicas: 2
    template: &t
      spec: {containers: [{name: main, resources: {limits: {sgx.intel.com/epc: 1Mi}}}]}
  - template: *t
  - template: {spec: {containers: [{name: main}]}}
""",
    )
    assert [(p.name, p.replicas) for p in pods] == [("train", 2), ("train-2", 1)]
    assert [p.notes for p in pods] == [
        (),
        ("a TrainingJob decides itself how many pods it starts; counted as one",),
    ]
    assert [line.reason for line in skipped] == ["TrainingJob train, spec.replicaSpecs.2.template, asks for no SGX EPC"]


def test_a_suffix_never_takes_a_name_that_another_pod_has(tmp_path):
    text = "\n---\n".join(pod_text().replace("name: web", f"name: {n}") for n in ("web", "web", "web-2"))
    pods, _ = read_text(tmp_path, text)
    assert [pod.name for pod in pods] == ["web", "web-3", "web-2"]


def test_a_pod_without_a_name_is_named_for_its_file(tmp_path):
    pods, _ = read_text(tmp_path, pod_text().replace("name: web, ", ""), "My Pod_1.yaml")
    assert pods[0].name == "my-pod-1"


@pytest.mark.parametrize("replicas", ["-1", '"2"', "1.5", "true", "99999999999", "[1]"])
def test_a_number_of_replicas_that_is_none_is_a_reason(tmp_path, replicas):
    text = f"kind: ReplicaSet\nspec: {{replicas: {replicas}, template: {{spec: {{containers: [{{name: main, "
    text += "resources: {limits: {sgx.intel.com/epc: 1}}}]}}}"
    assert "replicas: " in the_reason(tmp_path, text)


def test_no_replicas_are_no_pods(tmp_path):
    text = "kind: ReplicaSet\nmetadata: {name: a}\nspec: {replicas: 0, template: {spec: {containers: "
    text += "[{name: main, resources: {limits: {sgx.intel.com/epc: 1}}}]}}}"
    assert the_reason(tmp_path, text) == "ReplicaSet a has 0 replicas: no pod runs"


# --- claims


@pytest.mark.parametrize(
    ("resource", "value", "claim"),
    [
        ("sgx.intel.com/epc", "512Ki", 512 << 10),
        ("sgx.intel.com/epc", '"10Mi"', 10 * MIB),
        ("sgx.intel.com/epc", "21474836480", 21474836480),
        ("sgx.intel.com/epc", "1e6", 10**6),
        ("kubernetes.azure.com/sgx_epc_mem_in_MiB", "10", 10 * MIB),
        ("kubernetes.azure.com/sgx_epc_mem_in_MiB", '"5"', 5 * MIB),
        ("alibabacloud.com/sgx_epc_MiB", "20", 20 * MIB),
    ],
)
@pytest.mark.parametrize("part", ["limits", "requests"])
def test_a_size_is_bytes_whatever_the_plugin_counts_in(tmp_path, resource, value, claim, part):
    pod = the_pod(tmp_path, pod_text(f"{{{part}: {{{resource}: {value}}}}}"))
    assert (pod.claim_bytes, pod.containers[0].resource) == (claim, resource)


@pytest.mark.parametrize(
    "resource",
    ["sgx.intel.com/enclave", "sgx.intel.com/provision", "sgx.k8s.io/sgx", "intel.com/sgx"],
)
def test_a_count_of_devices_is_no_size(tmp_path, resource):
    pod = the_pod(tmp_path, pod_text(f"{{limits: {{{resource}: 1}}}}"))
    assert (pod.claim_bytes, pod.containers[0].devices) == (None, (resource,))
    assert any(f"{resource} counts devices and names no EPC size" in note for note in pod.notes)


def test_a_mistyped_resource_is_remarked_upon_with_the_nearest(tmp_path):
    pod = the_pod(tmp_path, pod_text("{limits: {sgx.intel.com/ecp: 10Mi}}"))
    assert 'did you mean "sgx.intel.com/epc"?' in pod.notes[0]


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        (
            "{limits: {sgx.intel.com/epc: 10Mi}, requests: {sgx.intel.com/epc: 5Mi}}",
            "container main, sgx.intel.com/epc: limit 10Mi and request 5Mi differ; Kubernetes rejects",
        ),
        ('{limits: {sgx.intel.com/epc: "0.5"}}', "not a whole number, which Kubernetes demands"),
        ("{limits: {sgx.intel.com/epc: -1}}", "-1 is negative"),
        ("{limits: {sgx.intel.com/epc: 16Ei}}", "too large"),
        ("{limits: {sgx.intel.com/epc: 10MB}}", 'did you mean "M"?'),
        ("{limits: {sgx.intel.com/epc: }}", "None is not a quantity"),
        ("{limits: {sgx.intel.com/epc: [1]}}", "a list is not a quantity"),
        ("{limits: {sgx.intel.com/epc: 1Mi, alibabacloud.com/sgx_epc_MiB: 2}}", "one size for a container"),
        ("{limits: [sgx.intel.com/epc]}", "container main, resources.limits: a list is not a mapping"),
        ("lots", "container main, resources: 'lots' is not a mapping"),
        ("{limits: {sgx.intel.com/epc: 1Mi, cpu: lots}}", "cpu: 'lots' is not a quantity"),
    ],
)
def test_what_kubernetes_rejects_is_skipped_with_container_key_and_value(tmp_path, resources, said):
    reason = the_reason(tmp_path, pod_text(resources))
    assert reason.startswith("Pod web: ")
    assert said in reason


def test_the_same_size_under_two_names_is_one_claim(tmp_path):
    pod = the_pod(tmp_path, pod_text("{limits: {sgx.intel.com/epc: 2Mi, alibabacloud.com/sgx_epc_MiB: 2}}"))
    assert pod.claim_bytes == 2 * MIB


def test_nothing_of_sgx_is_skipped_and_so_is_a_claim_of_zero(tmp_path):
    assert the_reason(tmp_path, pod_text("{limits: {cpu: 1}}")) == "Pod web asks for no SGX EPC"
    assert the_reason(tmp_path, pod_text("{limits: {sgx.intel.com/epc: 0}}")) == "Pod web asks for no SGX EPC"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("{containers: []}", "no containers"),
        ("{containers: [{name: a}, {name: a}]}", "two containers of the same name"),
        ("{containers: [{image: x}]}", "container name: None is nothing that Kubernetes takes"),
        ('{containers: [{name: "A b"}]}', "container name: 'A b'"),
        ("{containers: [{name: a}], initContainers: 5}", "initContainers: not a list of containers"),
        ("{containers: none}", "has no pod template"),
    ],
)
def test_a_pod_spec_that_is_none_is_a_reason(tmp_path, spec, said):
    assert said in the_reason(tmp_path, f"kind: Pod\nmetadata: {{name: web}}\nspec: {spec}")


@pytest.mark.parametrize(
    ("resources", "qos"),
    [
        ("{limits: {sgx.intel.com/epc: 1Mi}}", "besteffort"),
        ("{limits: {sgx.intel.com/epc: 1Mi, cpu: 0}}", "besteffort"),
        ("{limits: {sgx.intel.com/epc: 1Mi, cpu: 1}}", "burstable"),
        ("{limits: {sgx.intel.com/epc: 1Mi, cpu: 1, memory: 1Gi}}", "guaranteed"),
        (
            "{limits: {sgx.intel.com/epc: 1Mi, cpu: 1, memory: 1Gi}, requests: {cpu: 1000m, memory: 1024Mi}}",
            "guaranteed",
        ),
        (
            "{limits: {sgx.intel.com/epc: 1Mi, cpu: 1, memory: 1Gi}, requests: {cpu: 500m}}",
            "burstable",
        ),
        ("{limits: {sgx.intel.com/epc: 1Mi}, requests: {memory: 1Gi}}", "burstable"),
    ],
)
def test_qos_comes_from_cpu_and_memory_alone(tmp_path, resources, qos):
    assert the_pod(tmp_path, pod_text(resources)).qos == qos


def test_one_container_without_limits_ends_the_guarantee(tmp_path):
    full = "{limits: {sgx.intel.com/epc: 1Mi, cpu: 1, memory: 1Gi}}"
    assert the_pod(tmp_path, pod_text(full, more="  - {name: side}")).qos == "burstable"
    assert the_pod(tmp_path, pod_text(full, more="  initContainers: [{name: side}]")).qos == "burstable"


def test_resources_of_the_pod_itself_decide_its_qos(tmp_path):
    more = "  resources: {limits: {cpu: 1, memory: 1Gi}}"
    assert the_pod(tmp_path, pod_text(more=more)).qos == "guaranteed"


# --- annotations


@pytest.mark.parametrize(
    ("given", "limits"),
    [
        ('{epc-limit.nri.io: "4096"}', [4096, 4096]),
        ('{epc-limit.nri.io/pod: "8192", epc-limit.nri.io: "4096"}', [8192, 8192]),
        ('{epc-limit.nri.io/container.main: "12288", epc-limit.nri.io/pod: "8192"}', [12288, 8192]),
        ('{epc-limit.nri.io/container.main: "0", epc-limit.nri.io/pod: "8192"}', [None, 8192]),
        ('{epcgroup.io/limit.main: 1Mi, epc-limit.nri.io/pod: "8192"}', [MIB, 8192]),
        ('{epcgroup.io/limit.main: max, epc-limit.nri.io: "8192"}', [None, 8192]),
        ('{epc-limit.nri.io: "18446744073709551615"}', [None, None]),
        ("{other.io/limit: x}", [None, None]),
    ],
)
def test_the_first_matching_annotation_limits_each_container(tmp_path, given, limits):
    pod = the_pod(tmp_path, pod_text(annotations=given, more="  - {name: side}"))
    assert [container.limit_bytes for container in pod.containers] == limits


@pytest.mark.parametrize("value", ["4Ki", "1e6", "0x10", " 5", "+5", "-1", "", "1_000", "18446744073709551616", "٣"])
def test_a_value_that_upstream_fails_on_is_a_reason_with_key_and_value(tmp_path, value):
    reason = the_reason(tmp_path, pod_text(annotations=f'{{epc-limit.nri.io/pod: "{value}"}}'))
    assert f"annotation epc-limit.nri.io/pod: {value!r} is not decimal bytes" in reason


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("{epcgroup.io/limit.main: lots}", "annotation epcgroup.io/limit.main: 'lots' is not a quantity"),
        ("{epcgroup.io/pod-limit: 1.5}", "annotation epcgroup.io/pod-limit: 1.5 must be text"),
        ('{epcgroup.io/pod-limit: "-1"}', "annotation epcgroup.io/pod-limit: '-1' is negative"),
        ("{epc-limit.nri.io: 4096}", "annotation epc-limit.nri.io: 4096 must be text in Kubernetes"),
        ("[1]", "annotations of the pod template: a list is not a mapping"),
    ],
)
def test_an_annotation_that_kubernetes_or_we_cannot_take_is_a_reason(tmp_path, given, said):
    assert said in the_reason(tmp_path, pod_text(annotations=given))


def test_pod_limit_and_use_stay_in_the_annotations(tmp_path):
    pod = the_pod(tmp_path, pod_text(annotations="{epcgroup.io/pod-limit: 20Mi, epcgroup.io/use: 5Mi, a: b}"))
    assert pod.annotations == {"epcgroup.io/pod-limit": "20Mi", annotations.USE: "5Mi", "a": "b"}
    assert annotations.pod_limit(pod.annotations) == 20 * MIB
    assert annotations.pod_limit({}) is None
    assert pod.notes == ()


def test_an_annotated_pod_is_a_pod_even_without_an_sgx_resource(tmp_path):
    pod = the_pod(tmp_path, pod_text("{}", annotations="{epcgroup.io/use: 5Mi}"))
    assert pod.claim_bytes is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ('{epc-limit.nri.io/container.mian: "1"}', 'names no container of the pod; did you mean "main"?'),
        ("{epcgroup.io/pod-limits: 1Mi}", 'is not known; did you mean "epcgroup.io/pod-limit"?'),
        ("{epcgroup.io/limit.main: 42}", "a limit of 42 bytes is less than one EPC page"),
        ("{epcgroup.io/pod-limit: 42}", "the pod's limit of 42 bytes is less than one EPC page"),
    ],
)
def test_an_annotation_without_the_wanted_effect_is_remarked_upon(tmp_path, given, said):
    given = given.replace(": 42", ': "42"')
    assert any(said in note for note in the_pod(tmp_path, pod_text(annotations=given)).notes)


def test_an_annotation_of_the_owner_is_remarked_upon(tmp_path):
    text = """
kind: Deployment
metadata: {name: web, annotations: {epc-limit.nri.io/pod: "4096"}}
spec: {template: {spec: {containers: [{name: main, resources: {limits: {sgx.intel.com/epc: 1Mi}}}]}}}
"""
    pod = the_pod(tmp_path, text)
    assert pod.containers[0].limit_bytes is None
    assert "has no effect on the Deployment, only on its pod template" in pod.notes[0]


# --- texts that are no manifest

DEEP_JSON = '{"a":' * 900 + "1" + "}" * 900
BOMB = "kind: X\na0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 30))
MERGE_BOMB = "a: &a {" + ", ".join(f"k{n}: 1" for n in range(2000)) + "}\nb:\n" + "- <<: *a\n" * 2000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty file"),
        ("# nothing\n---\n# here\n", "only comments"),
        ("- a\n", "holds a list, not a Kubernetes object"),
        ("hello\n", "holds 'hello', not a Kubernetes object"),
        ("kind: List\nitems: []\n", "an empty List"),
        ("kind: List\nitems: &a [{kind: List, items: *a}]", "a List within a List"),
        ("a: [1\n", "not YAML: line 2"),
        ("a: 1\n---\nb: [\n---\nc: 1\n", "not YAML: line 4"),
        ("a: 1\na: 2\n", "line 2: key 'a' stands twice"),
        ("{a: 1}: 2\n", "a key that is itself a mapping"),
        ("a: *b\n", "alias"),
        ("a: {<<: 5}\n", "<< takes a mapping"),
        ("a: \x07b", "not YAML"),
        ("[" * 100_000, "nested deeper than 200 levels"),
        (DEEP_JSON, "nested deeper"),
        (BOMB, "repeated by more than 100 aliases"),
        (BOMB.replace("kind: X\n", "") + "kind: *a29\nitems: [1]\n", "repeated by more than 100 aliases"),
        (MERGE_BOMB, "merges more than 10000 keys"),
        ("a: &a\n  b: *a\n", "nested deeper"),
        ("kind: Pod".encode("utf-16"), "not UTF-8 text (byte 0)"),
        (b"kind: \xff", "not UTF-8 text (byte 6)"),
        ("%YAML 9" + "9" * 5000 + ".1\n---\na: 1\n", "not YAML"),
        ('a: "\\UFFFFFFFF"', "not YAML"),
        ("a: !!python/object/apply:os.abort []\nb: !!timestamp x\nc: !!int x\n", "no kind"),
    ],
)
@pytest.mark.parametrize("libyaml", [True, False])
def test_a_text_that_is_no_manifest_is_one_line(tmp_path, monkeypatch, text, said, libyaml):
    monkeypatch.setattr(yamltext, "_LOADER", yaml.SafeLoader if not libyaml else yamltext._LOADER)
    pods, skipped = read_text(tmp_path, text)
    assert pods == []
    assert any(said in line.reason for line in skipped)
    assert all(len(line.reason.splitlines()) == 1 for line in skipped)


def test_one_bad_document_does_not_hide_the_others(tmp_path):
    pods, skipped = read_text(tmp_path, pod_text() + "\n---\na: [\n---\n" + pod_text())
    assert [pod.name for pod in pods] == ["web", "web-2"]
    assert [line.origin for line in skipped] == [f"{tmp_path / 'web.yaml'}, document 2"]


def test_merge_keys_and_plain_values_read_as_kubernetes_reads_them():
    text = """
base: &base {a: 1, b: 2}
over: {<<: *base, b: 3}
list: {<<: [{a: 5}, *base]}
plain: [0x10, 010, 1_000, 1e3, -1, .5, 1:30, 2024-01-01, yes, "yes", null, ~, !!str 5, 0o17]
1: one
"""
    (value,) = yamltext.load_all(text)
    assert value["over"] == {"a": 1, "b": 3}
    assert value["list"] == {"a": 5, "b": 2}
    plain = [16, 8, 1000, 1000.0, -1, 0.5, "1:30", "2024-01-01", True, "yes", None, None, "5", 15]
    assert value["plain"] == plain
    assert value["1"] == "one"


def test_windows_line_ends_a_byte_order_mark_and_directives_are_read(tmp_path):
    text = "\ufeff%YAML 1.1\r\n---\r\n" + (pod_text() + "\n...\n---\n" + pod_text()).replace("\n", "\r\n")
    pods, skipped = read_text(tmp_path, text)
    assert [pod.name for pod in pods] == ["web", "web-2"]
    assert skipped == []


def test_a_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.yaml: no such file or directory"):
        read([tmp_path / "nowhere.yaml"])
    with pytest.raises(InputError, match="cannot be read"):
        read([Path("a\0b")])


def test_a_file_of_strange_name_is_shown_on_one_line(tmp_path):
    _, (line,) = read_text(tmp_path, "", "a\nb\udcff.yaml")
    assert line.origin.endswith(r"a\nb\udcff.yaml")


def test_a_directory_gives_its_manifests_in_order_and_no_other_files(tmp_path):
    for name in ("b.yaml", "a.yml", "c.json", "d.txt"):
        (tmp_path / name).write_text(pod_text() if name != "c.json" else "{}")
    (tmp_path / "e.yaml").mkdir()
    pods, skipped = read([tmp_path])
    assert [Path(pod.origin).name for pod in pods] == ["a.yml", "b.yaml"]
    assert [Path(line.origin).name for line in skipped] == ["c.json"]
    _, (line,) = read([tmp_path / "e.yaml"])
    assert "a directory without" in line.reason


def test_reading_manifests_never_loads_the_engine():
    code = "import sys, epcgroup.manifest; print({'numpy', 'numba', 'epcgroup.machine'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
