"""Prometheus itself scrapes the agent: what it stores is what the files say."""

import json
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from cgroup_nodes import MIB, Node, container

pytest.importorskip("prometheus_client", reason="needs prometheus_client (pip install 'epcgroup[agent]')")
pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="no prometheus (Debian: apt-get install prometheus)"
)
PATIENCE = 90.0  # seconds; only a failing test waits so long


class Prometheus:
    def __init__(self, folder: Path, target: str) -> None:
        (folder / "prometheus.yml").write_text(
            "global: {scrape_interval: 1s, scrape_timeout: 1s}\n"
            f"scrape_configs: [{{job_name: epc, static_configs: [{{targets: ['{target}']}}]}}]\n"
        )
        self.folder = folder
        self.start()

    def start(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.process = subprocess.Popen(
            ["prometheus", f"--config.file={self.folder}/prometheus.yml", f"--storage.tsdb.path={self.folder}/tsdb",
             f"--web.listen-address={self.address}", "--log.level=warn"],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def ask(self, query: str) -> list[dict]:
        """The instant vector; empty also while it is not up."""
        url = f"http://{self.address}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
                return json.load(answer)["data"]["result"]
        except OSError:
            if self.process.poll() is not None:
                said = self.process.communicate()[1]
                assert "address already in use" in said, said
                self.start()  # somebody took the free port first
            return []

    def wait_for(self, query: str) -> list[dict]:
        end = time.monotonic() + PATIENCE
        while not (found := self.ask(query)):
            assert time.monotonic() < end, f"{query} has no answer"
            time.sleep(0.1)
        return found


@pytest.fixture
def scraped(tmp_path: Path, node: Node, agent) -> Iterator[tuple[Prometheus, object]]:
    from epcgroup.agent.metrics import CONTENT_TYPE, EpcCollector
    from epcgroup.agent.serve import serve

    looker = agent(mode="enforce")
    server = serve(("127.0.0.1", 0), EpcCollector(looker.reconciler, looker.lines.append).text, CONTENT_TYPE)
    prometheus = Prometheus(tmp_path, f"127.0.0.1:{server.server_address[1]}")
    try:
        yield prometheus, looker
    finally:
        prometheus.process.kill()
        prometheus.process.communicate()
        server.shutdown()
        server.server_close()


def test_prometheus_stores_what_the_files_say(node, scraped):
    prometheus, looker = scraped
    pod = node.pod("web", container("app", "2Mi"))
    node.use(pod.path, 3 * MIB)
    looker.tell()
    looker.look()
    (over,) = prometheus.wait_for("pod_sgx_epc_usage_bytes > pod_sgx_epc_limit_bytes")
    assert over["metric"]["pod"] == "web" and over["metric"]["uid"] == pod.uid
    assert over["value"][1] == str(3 * MIB)
    prometheus.wait_for("up == 1")
    prometheus.wait_for('count({__name__=~".+_sgx_epc_.+|sgx_epc_.+"}) > 20')
    # A limit that goes is a series that ends, not a zero.
    node.write(pod.path, "misc.max", "sgx_epc max")
    prometheus.wait_for("absent(pod_sgx_epc_limit_bytes)")
