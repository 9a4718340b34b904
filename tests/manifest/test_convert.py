"""`epcgroup convert`: what changes in a manifest's text, what does not, and the line for what was left."""

import io
import os
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from epcgroup.cli.main import main
from epcgroup.manifest import annotations, kubernetes, quantity, yamltext
from epcgroup.manifest.convert import FAMILIES, Wanted, convert

SAMPLES = Path(__file__).parent.parent / "samples" / "manifests"
YAML = Path("web.yaml")
INTEL, AZURE, ALIBABA = FAMILIES.values()


def left(text: str, **wanted: Any) -> list[str]:
    """The lines for what stayed; nothing may have changed."""
    result = convert(text, YAML, Wanted(**wanted))
    assert (result.text, result.nr_changed) == (text, 0)
    return result.left


def changed(text: str, **wanted: Any) -> str:
    result = convert(text, YAML, Wanted(**wanted))
    assert result.left == []
    return result.text


ODD = f"""\
# A comment.
kind: Pod   # and one here
metadata: {{name:  web}}
spec:
    containers:
      -   name: 'app'
          resources:
            limits: {{ "{INTEL}" :   "64Mi" , cpu: 1 }}  # kept
            requests:
              {INTEL}: 67108864
    tolerations:
    - key: {INTEL}
      operator: Exists
"""


def test_only_keys_and_amounts_change_and_quotes_stay() -> None:
    converted = changed(ODD, resource="azure")
    assert converted == (
        ODD.replace(f'"{INTEL}" :   "64Mi"', f'"{AZURE}" :   "64"')
        .replace(f"{INTEL}: 67108864", f"{AZURE}: 64")
        .replace(INTEL, AZURE)
    )
    assert changed(converted, resource="intel") == ODD.replace('"64Mi"', '"64Mi"').replace("67108864", "64Mi")


def test_line_ends_byte_order_mark_and_other_documents_stay() -> None:
    text = f"\ufeff# first\r\n---\r\nlimits:\r\n  {ALIBABA}: '8'\r\n---\r\nkind: Service\r\n...\r\n# last\r\n"
    assert changed(text, resource="intel") == text.replace(f"{ALIBABA}: '8'", f"{INTEL}: '8Mi'")


def test_a_manifest_of_the_wanted_family_is_left_as_it_is() -> None:
    assert changed(ODD, resource="intel") == ODD


@pytest.mark.parametrize(("value", "written"), [("1Gi", "1024"), ("1048576", "1"), ("'0'", "'0'"), ("1e9", None)])
def test_bytes_to_mib_are_exact_or_left(value: str, written: str | None) -> None:
    text = f"limits:\n  {INTEL}: {value}\n"
    if written is None:
        why = "is not whole MiB; --round-up takes the next"
        assert left(text, resource="alibaba") == [f"web.yaml:2: {INTEL}: not converted: '1e9' {why}"]
        assert changed(text, resource="alibaba", round_up=True) == f"limits:\n  {ALIBABA}: 954\n"
    else:
        assert changed(text, resource="alibaba") == f"limits:\n  {ALIBABA}: {written}\n"


@pytest.mark.parametrize(("value", "written"), [("10", "10Mi"), ("1024", "1Gi"), ("3k", "3000Mi"), ("0", "0")])
def test_mib_to_bytes_are_the_shortest_quantity(value: str, written: str) -> None:
    assert changed(f"limits: {{{AZURE}: {value}}}\n", resource="intel") == f"limits: {{{INTEL}: {written}}}\n"


def test_pages_are_a_size_when_the_user_says_so() -> None:
    text = "limits:\n  intel.com/sgx: 256\n"
    assert left(text, resource="intel") == [
        "web.yaml:2: intel.com/sgx: not converted: it counts pages with one plugin only; --pages says that it does"
    ]
    assert changed(text, resource="intel", pages=True) == f"limits:\n  {INTEL}: 1Mi\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (f"limits: {{{INTEL}: 10mi}}", f"1: {INTEL}: not converted: '10mi': unknown suffix 'mi'; did you mean \"Mi\"?"),
        (f"a: 1\nlimits: {{{INTEL}: &s 10Mi}}", f"2: {INTEL}: not converted: it has an anchor, a tag or a block text"),
        (f"limits: {{{INTEL}: 1Mi, {AZURE}: 1}}", f"1: {INTEL}: not converted: {AZURE} stands beside it"),
        (f"annotations: {{{INTEL}: 1Mi}}", f"1: annotation {INTEL}: not converted: Kata reads it under this name"),
        (f"resourceKey: {INTEL}", f"1: {INTEL}: not converted: a value, of 'resourceKey'; only keys are converted"),
        ("limits: {sgx.intel.com/enclave: 1}", f"1: sgx.intel.com/enclave: not converted: nodes with {AZURE} do not "
         "advertise it; remove it there"),
        ("a: 1\na: 2", "1: not converted: not YAML for Kubernetes: line 2: key 'a' stands twice"),
        ("a: {{ .Values.x }}", "1: not converted: a Helm template; render it first (helm template)"),
    ],
)  # fmt: skip
def test_what_has_no_counterpart_is_left_and_said(text: str, why: str) -> None:
    assert left(text, resource="azure") == [f"web.yaml:{why}"]


def test_a_quota_keeps_its_prefix() -> None:
    assert changed(f"hard: {{requests.{INTEL}: 1Gi}}", resource="azure") == f"hard: {{requests.{AZURE}: 1024}}"


def test_an_alias_is_converted_where_it_stands_once() -> None:
    text = f"a: &x {{{INTEL}: 1Mi}}\nb: *x\nc: {{<<: *x}}\n"
    assert changed(text, resource="azure") == f"a: &x {{{AZURE}: 1}}\nb: *x\nc: {{<<: *x}}\n"


def test_markdown_is_left() -> None:
    result = convert("```yaml\na: 1\n```\n", Path("a.md"), Wanted("azure"))
    assert result.left == ["a.md: markdown is not converted; give its YAML as a file"]


# ---- annotations -----------------------------------------------------------------------------------


def pod(entries: str, containers: str = "[{name: app}, {name: side}]") -> str:
    return f"kind: Pod\nmetadata:\n  annotations:\n    {entries}\nspec: {{containers: {containers}}}\n"


NRI, OURS = "epc-limit.nri.io", "epcgroup.io"


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (f'{NRI}/container.app: "67108864"', f'{OURS}/limit.app: "64Mi"'),
        (f"{NRI}/container.app:   '4097'  # odd", f"{OURS}/limit.app:   '4097'  # odd"),
        (f'{NRI}/container.app: "0"', f'{OURS}/limit.app: "max"'),
    ],
)
def test_a_container_s_limit_goes_both_ways(theirs: str, ours: str) -> None:
    assert changed(pod(theirs), annotations="epcgroup") == pod(ours)
    assert changed(pod(ours), annotations="nri") == pod(theirs)


def test_a_limit_of_each_container_becomes_one_for_each() -> None:
    containers = "[{name: app}, {name: b}, {name: c}]"
    text = pod(f'{NRI}/pod: "4096"\n    {NRI}/container.app: "8192"\n    other: x', containers)
    assert changed(text, annotations="epcgroup") == pod(
        f'{OURS}/limit.b: "4Ki"\n    {OURS}/limit.c: "4Ki"\n    {OURS}/limit.app: "8Ki"\n    other: x', containers
    )
    flow = f"metadata: {{annotations: {{{NRI}: '4096'}}}}\nspec: {{containers: [{{name: app}}, {{name: b}}]}}"
    assert changed(flow, annotations="epcgroup") == (
        f"metadata: {{annotations: {{{OURS}/limit.app: '4Ki', {OURS}/limit.b: '4Ki'}}}}\n"
        "spec: {containers: [{name: app}, {name: b}]}"
    )


@pytest.mark.parametrize(
    ("entries", "family", "why"),
    [
        (f'{OURS}/pod-limit: "1Mi"', "nri", f"{OURS}/pod-limit: not converted: the sgx-epc plugin has no limit of a "
         "whole pod"),
        (f'{OURS}/limit.app: "0"', "nri", f"{OURS}/limit.app: not converted: a limit of 0 means no limit to the "
         "sgx-epc plugin"),
        (f'{OURS}/limit.app: "x"', "nri", f"{OURS}/limit.app: not converted: annotation {OURS}/limit.app: 'x' is not a "
         'quantity, as in "512Ki" or 1048576'),
        (f'{NRI}/container.app: "4Ki"', "epcgroup", f"{NRI}/container.app: not converted: annotation "
         f"{NRI}/container.app: '4Ki' is not decimal bytes, 0 to 2**64-1: the NRI plugin would fail the container"),
        (f'{NRI}/other: "1"', "epcgroup", f"{NRI}/other: not converted: nobody reads it"),
        (f"{NRI}: {{a: b}}", "epcgroup", f"{NRI}: not converted: not a text"),
        (f"{NRI}: &a '1'", "epcgroup", f"{NRI}: not converted: it has an anchor, a tag or a block text"),
    ],
)  # fmt: skip
def test_an_annotation_without_a_counterpart_is_left_and_said(entries: str, family: str, why: str) -> None:
    assert left(pod(entries), annotations=family) == [f"web.yaml:4: annotation {why}"]


def test_annotations_that_do_not_count_are_left() -> None:
    both = pod(f'{NRI}: "1"\n    {NRI}/pod: "4096"', "[{name: app}]")
    result = convert(both, YAML, Wanted(annotations="epcgroup"))
    assert result.left == [f"web.yaml:4: annotation {NRI}: not converted: {NRI}/pod stands beside it, and counts"]
    own = pod(f'{NRI}: "1"\n    {OURS}/limit.app: "1Mi"', "[{name: app}]")
    assert left(own, annotations="epcgroup") == [
        f"web.yaml:4: annotation {NRI}: not converted: every container has a limit of its own"
    ]
    place = f"kind: Deployment\nmetadata: {{annotations: {{{NRI}: '1'}}}}\n"
    assert left(place, annotations="epcgroup") == [
        f"web.yaml:2: annotation {NRI}: not converted: it is not of a pod template"
    ]


def test_annotations_shared_by_pods_of_different_containers_are_converted_for_one_and_said() -> None:
    text = (
        f"a:\n  metadata: {{annotations: &x {{{NRI}: '4096'}}}}\n  spec: {{containers: [{{name: app}}]}}\n"
        "b:\n  metadata: {annotations: *x}\n  spec: {containers: [{name: other}]}\n"
    )
    result = convert(text, YAML, Wanted(annotations="epcgroup"))
    assert result.left == [
        f"web.yaml:2: {NRI}: not converted: pods that share it by an alias would want different ones"
    ]


@given(
    st.dictionaries(
        st.sampled_from([NRI, f"{NRI}/pod", f"{NRI}/container.app", f"{NRI}/container.b", "other"]),
        st.integers(0, 1 << 40).map(str),
        max_size=5,
    ),
    st.booleans(),
    st.lists(st.sampled_from(["app", "b", "c"]), min_size=1, unique=True),
)
def test_every_container_has_the_same_limit_after_a_conversion(
    there: dict[str, str], flow: bool, names: list[str]
) -> None:
    value = {"metadata": {"annotations": there}, "spec": {"containers": [{"name": name} for name in names]}}
    text = yaml.safe_dump(value, default_flow_style=flow, sort_keys=False)
    result = convert(text, YAML, Wanted(annotations="epcgroup"))
    (now,) = yamltext.load_all(result.text)
    for name in names:
        before = annotations.container_limit(there, name)
        assert annotations.container_limit(now["metadata"]["annotations"], name) == before
    again = convert(result.text, YAML, Wanted(annotations="nri"))
    (back,) = yamltext.load_all(again.text)
    for name in names:
        assert annotations.container_limit(back["metadata"]["annotations"], name) == annotations.container_limit(
            there, name
        )


@given(st.sampled_from(list(FAMILIES)), st.integers(0, 1 << 20), st.booleans(), st.sampled_from(["", "'", '"']))
def test_a_claim_is_the_same_size_in_every_family(family: Any, mib: int, flow: bool, quote: str) -> None:
    text = f"limits:\n  {INTEL}: {quote}{mib}Mi{quote}\n" if not flow else f"limits: {{{INTEL}: {quote}{mib}Mi{quote}}}"
    (now,) = yamltext.load_all(changed(text, resource=family))
    ((resource, value),) = now["limits"].items()
    assert quantity.parse_whole(value, unit_bytes=kubernetes.SIZES[resource]) == mib << 20


@given(st.text(alphabet="ab:{}[]&*!'\"|>-? \n\r\t#%,.<\x00\x85\u2028\ufeff" + "sgx.intel.com/epc", max_size=40))
def test_any_text_comes_back_whole_or_converted(text: str) -> None:
    for wanted in (Wanted("azure"), Wanted(annotations="nri")):
        result = convert(text, YAML, wanted)
        assert result.nr_changed or result.text == text
        assert all(len(line.splitlines()) == 1 for line in result.left)


# ---- the command -----------------------------------------------------------------------------------


def test_standard_output_has_the_text_and_standard_error_what_was_left(capfdbinary: Any, tmp_path: Path) -> None:
    file = tmp_path / "web.yaml"
    file.write_text(f"limits:\n  {INTEL}: 512Ki\n  {INTEL.replace('epc', 'provision')}: 1\n")
    assert main(["convert", "--to", "alibaba", "--round-up", str(file)]) == 1
    out, err = capfdbinary.readouterr()
    assert out.decode() == f"limits:\n  {ALIBABA}: 1\n  sgx.intel.com/provision: 1\n"
    assert err.decode() == (
        f"epcgroup: {file}:3: sgx.intel.com/provision: not converted: nodes with {ALIBABA} do not advertise it; "
        "remove it there\n"
    )


def test_in_place_writes_what_changed_keeps_modes_and_links_and_leaves_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    one, two, link = tmp_path / "in/one.yaml", tmp_path / "two.yaml", tmp_path / "in/link.yml"
    one.write_text("kind: Service\n")
    before = one.stat().st_ino
    two.write_text(f"limits: {{{AZURE}: 4}}\r\n", newline="")
    two.chmod(0o640)
    link.symlink_to(two)
    assert main(["convert", "--to", "intel", "-i", str(tmp_path / "in")]) == 0
    assert two.read_bytes() == f"limits: {{{INTEL}: 4Mi}}\r\n".encode()
    assert stat.S_IMODE(two.stat().st_mode) == 0o640
    assert link.is_symlink()
    assert one.stat().st_ino == before
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["link.yml", "one.yaml", "two.yaml"]


def test_a_file_that_cannot_be_replaced_stays_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "web.yaml"
    file.write_text(f"limits: {{{AZURE}: 4}}\n")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert main(["convert", "--to", "intel", "-i", str(file)]) == 2
    assert capsys.readouterr().err == f"epcgroup: {file}: cannot be written (No space left on device)\n"
    assert file.read_text() == f"limits: {{{AZURE}: 4}}\n"
    assert [p.name for p in tmp_path.iterdir()] == ["web.yaml"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["a.yaml"], "--to or --annotations says what is wanted"),
        (["a.yaml", "b.yaml", "--to", "intel"], "2 files; -i writes them, standard output takes one"),
        (["gone.yaml", "--to", "intel"], "gone.yaml: no such file or directory"),
        (["-", "-i", "--to", "intel"], "-i: standard input has no place to write to"),
    ],
)
def test_a_command_that_makes_no_sense_is_one_line(
    words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text("a: 1\n")
    monkeypatch.chdir(tmp_path)
    if "-" in words:
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"a: 1\n")))
    assert main(["convert", *words]) == 2
    assert capsys.readouterr().err == f"epcgroup: {says}\n"


def test_the_samples_keep_every_other_byte() -> None:
    for file in (SAMPLES / "web-and-worker.yaml", SAMPLES / "jobs.yaml"):
        text = file.read_text("utf-8")
        result = convert(text, file, Wanted("azure", round_up=True))
        assert result.nr_changed
        assert len(result.text.splitlines()) == len(text.splitlines())
        for old, new in zip(text.splitlines(), result.text.splitlines(), strict=True):
            assert old == new or INTEL in old or ALIBABA in old
