"""Limits by peak: what a past recommends, when it is no evidence, and the annotations that come out."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from cgroup_nodes import MIB, Node, container
from hypothesis import given
from hypothesis import strategies as st

from epcgroup.agent.recommend import Use
from epcgroup.cli.main import main
from epcgroup.interface import UNLIMITED


@pytest.fixture
def recommend(tmp_path: Path, node: Node, capsys) -> Callable[..., str]:
    """`recommend("--headroom", "50")` -> what is printed."""

    def run(*options: str, mode: str = "enforce") -> str:
        (tmp_path / "pods.json").write_text(node.pod_list())
        (tmp_path / "agent.toml").write_text(
            f'mode = "{mode}"\nsource.kubelet_file = "pods.json"\ncgroup_root = "{node.root}"\nreserve = "8Mi"\n'
        )
        assert main(["agent", "--config", str(tmp_path / "agent.toml"), "--recommend", *options]) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        return captured.out

    return run


def test_a_peak_and_a_quarter_is_recommended_as_an_annotation_to_paste(node, recommend):
    pod = node.pod("web", container("app", "10Mi"), container("side"))
    node.use(pod.containers["app"], 2 * MIB, peak=14 * MIB)
    assert recommend() == (
        "# default/web\n"
        "metadata:\n"
        "  annotations:\n"
        "    epcgroup.io/limit.app: 17920Ki  # peak 14 MiB + 25%; claims 10 MiB\n"
        "# together 17.5 MiB of 120 MiB allocatable\n"
    )


def test_what_is_printed_is_yaml_that_the_agent_takes_as_the_limit(node, recommend, agent):
    pod = node.pod("web", container("app", "10Mi"), container("side"))
    node.use(pod.containers["app"], MIB, peak=14 * MIB)
    node.use(pod.containers["side"], 4096)
    said = yaml.safe_load(recommend())["metadata"]["annotations"]
    assert said == {"epcgroup.io/limit.app": "17920Ki", "epcgroup.io/limit.side": "8Ki"}
    node.items[0]["metadata"]["annotations"] = said
    agent(mode="enforce").look()
    assert (pod.limit("app"), pod.limit("side"), pod.limit()) == ("18350080", "8192", "18358272")


def test_nothing_is_written_also_where_the_agent_would_enforce(node, recommend):
    pod = node.pod("web", container("app", "10Mi"))
    node.use(pod.containers["app"], 4 * MIB)
    recommend(mode="enforce")
    assert (pod.limit("app"), pod.limit()) == ("max", "max")


def test_headroom_is_added_to_the_peak_and_rounded_up_to_a_page(node, recommend):
    pod = node.pod("web", container("app"))
    node.use(pod.containers["app"], 0, peak=3 * 4096)
    assert "app: 12Ki  # peak 12 KiB + 0%; claims nothing" in recommend("--headroom", "0")
    assert "app: 16Ki  # peak 12 KiB + 1%; claims nothing" in recommend("--headroom", "1%")
    assert "app: 36Ki  # peak 12 KiB + 200%; claims nothing" in recommend("--headroom", "200%")


@pytest.mark.parametrize("peak", [2 * MIB, 2 * MIB + 4096])
def test_a_peak_that_met_its_limit_is_no_evidence(node, recommend, peak):
    pod = node.pod("web", container("app", "2Mi"))
    node.use(pod.containers["app"], MIB, peak=peak)
    node.write(pod.containers["app"], "misc.max", f"sgx_epc {2 * MIB + 100}")
    out = recommend()
    assert "is no evidence: its limit 2097252 (2.00 MiB) held it down; raise it, look again; claims 2 MiB\n" in out
    assert out.endswith("# together 0 B of 120 MiB allocatable; 1 without\n")
    assert "annotations" not in out


def test_a_peak_below_its_limit_is_evidence(node, recommend):
    pod = node.pod("web", container("app", "2Mi"))
    node.use(pod.containers["app"], MIB, peak=2 * MIB - 4096)
    node.write(pod.containers["app"], "misc.max", f"sgx_epc {2 * MIB}")
    assert "app: 2556Ki  # peak 2.00 MiB + 25%" in recommend()


def test_a_container_whose_pod_met_its_limit_was_held_down_too(node, recommend):
    pod = node.pod("web", container("app", "2Mi"), container("side", "2Mi"))
    node.use(pod.containers["app"], 3 * MIB)
    node.use(pod.path, 4 * MIB)
    node.write(pod.path, "misc.max", f"sgx_epc {4 * MIB}")
    out = recommend()
    assert "# app: no limit: peak 3 MiB is no evidence: its pod's limit 4194304 (4 MiB) held it down" in out
    assert "# side: no limit: it has used none yet; claims 2 MiB" in out


def test_a_kernel_without_peaks_recommends_nothing_and_says_so(tmp_path, recommend, node):
    node.peak = False
    pod = node.pod("web", container("app", "2Mi"))
    assert not (node.root / pod.containers["app"].strip("/") / "misc.peak").exists()
    assert "# app: no limit: its group has no misc.peak (Linux 6.11 or newer" in recommend()


def test_on_a_node_that_was_full_a_peak_is_a_lower_bound(node, recommend):
    pod = node.pod("web", container("app", "2Mi"))
    node.use(pod.containers["app"], 4 * MIB)
    node.write("/", "misc.peak", f"sgx_epc {128 * MIB - 32 * 4096}")
    assert "app: 5120Ki  # peak 4 MiB + 25%, at least: the node's EPC was full; claims 2 MiB\n" in recommend()


def test_containers_that_do_not_run_and_pods_without_epc(node, recommend):
    assert recommend() == "# no container claims or has used EPC\n"
    node.pod("idle", container("app"))
    node.pod("pending", container("app", "2Mi"), groups=False)
    assert recommend() == (
        "# default/pending\n# app: no limit: it is not running; claims 2 MiB\n"
        "# together 0 B of 120 MiB allocatable; 1 without\n"
    )


@pytest.mark.parametrize("text", ["-1", "x", "1001", "10.5", "", "٣", "99999999999"])
def test_a_headroom_that_is_no_percentage_is_one_line(tmp_path, capsys, text):
    (tmp_path / "agent.toml").write_text('source.manifests = "."\n')
    assert main(["agent", "--config", str(tmp_path / "agent.toml"), "--recommend", f"--headroom={text}"]) == 2
    assert capsys.readouterr().err.startswith("epcgroup: --headroom: ")


@pytest.mark.parametrize("options", [["--headroom", "5"], ["--recommend", "--once"], ["--recommend", "--dry-run"]])
def test_options_that_do_not_go_together_are_one_line(tmp_path, capsys, options):
    (tmp_path / "agent.toml").write_text('source.manifests = "."\n')
    assert main(["agent", "--config", str(tmp_path / "agent.toml"), *options]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@given(st.integers(0, 2**40), st.integers(0, 2**40))
def test_whoever_stays_a_page_below_its_limit_was_not_held_down_by_it(peak, limit):
    pages = peak // 4096 * 4096
    assert Use(pages, limit).held_down == (pages + 4096 > limit)
    assert not Use(pages, UNLIMITED).held_down and not Use(pages, None).held_down
