"""The configuration: every key, every refusal in one line with file and key."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epcgroup.agent.advertise import Advertise
from epcgroup.agent.config import DevicePlugins, Nri, load
from epcgroup.agent.endpoint import Endpoint
from epcgroup.agent.kube import ApiPods, Kubelet
from epcgroup.agent.source import KubeletFile, Manifests
from epcgroup.errors import InputError

SOURCE = 'source.manifests = "pods"\n'


def loaded(tmp_path: Path, text: str | bytes):
    file = tmp_path / "agent.toml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return load(file)


def test_a_source_is_enough_and_then_the_agent_only_observes(tmp_path):
    config = loaded(tmp_path, SOURCE)
    assert config.source == Manifests(tmp_path / "pods")
    assert (config.rules.mode, config.rules.annotations, config.rules.unclaimed_limit) == ("observe", True, None)
    assert (config.interval, config.node, config.cgroup_root, config.listen) == (10.0, None, None, None)
    assert (config.nri, config.device_plugin) == (None, None)
    assert (config.enable_misc, config.resource, config.reserve_bytes) == (False, "sgx_epc", 0)


def test_every_key_is_read(tmp_path):
    config = loaded(
        tmp_path,
        """
        mode = "warn"
        annotations = false
        unclaimed_limit = "0"
        interval = "2s"
        node = "node-1"
        cgroup_root = "/host/cgroup"
        enable_misc = true
        resource = "sev"
        reserve = "8Mi"
        listen = "0.0.0.0:9445"
        [source]
        kubelet_file = "/run/pods.json"
        [nri]
        socket = "nri.sock"
        index = "05"
        name = "epc"
        [device_plugin]
        enclave = 20
        provision = 0
        folder = "/kubelet/plugins"
        devices = "/host/dev"
        [namespaces]
        "team-*" = "enforce"
        """,
    )
    assert config.source == KubeletFile(Path("/run/pods.json"))
    assert (config.rules.mode, dict(config.rules.namespaces)) == ("warn", {"team-*": "enforce"})
    assert (config.rules.annotations, config.rules.unclaimed_limit) == (False, 0)
    assert (config.interval, config.node, config.cgroup_root) == (2.0, "node-1", Path("/host/cgroup"))
    assert (config.enable_misc, config.resource) == (True, "sev")
    assert (config.reserve_bytes, config.listen) == (8 << 20, ("0.0.0.0", 9445))
    assert config.nri == Nri(tmp_path / "nri.sock", "05", "epc")
    counts = {"enclave": 20, "provision": 0}
    assert config.device_plugin == DevicePlugins(counts, Path("/kubelet/plugins"), Path("/host/dev"))


def test_tables_without_keys_are_the_usual_plugins(tmp_path):
    folder = Path("/var/lib/kubelet/device-plugins")
    usual = DevicePlugins({"enclave": 110, "provision": 110}, folder, Path("/dev"))
    assert loaded(tmp_path, SOURCE + "[device_plugin]").device_plugin == usual
    assert loaded(tmp_path, SOURCE + "[nri]").nri == Nri(Path("/var/run/nri/nri.sock"), "90", "epcgroup")


API = 'node = "node-1"\nsource.api_server = true\n'
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@pytest.fixture(autouse=True)
def outside(monkeypatch):
    for name in ("KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT", "NODE_NAME"):
        monkeypatch.delenv(name, raising=False)


def test_in_a_cluster_the_api_server_and_the_account_are_those_of_the_pod(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    monkeypatch.setenv("NODE_NAME", "node-7")
    config = loaded(tmp_path, API.replace("node-1", "$NODE_NAME"))
    server = Endpoint("https://[fd00::1]:6443", ACCOUNT / "token", ACCOUNT / "ca.crt")
    assert (config.node, config.source) == ("node-7", ApiPods(server, "node-7"))
    config = loaded(tmp_path, 'source.kubelet = "https://127.0.0.1:10250"\nkubelet.insecure = true')
    assert config.source == Kubelet(Endpoint("https://127.0.0.1:10250", ACCOUNT / "token", insecure=True))


def test_elsewhere_the_file_says_who_and_with_what(tmp_path):
    config = loaded(tmp_path, API + '[api_server]\nurl = "https://a:1/x/"\ntoken_file = "t"\nca_file = "/c"')
    assert config.source == ApiPods(Endpoint("https://a:1/x", tmp_path / "t", Path("/c")), "node-1")
    config = loaded(tmp_path, 'source.kubelet = "http://127.0.0.1:10255"')
    assert config.source == Kubelet(Endpoint("http://127.0.0.1:10255"))


def test_what_is_told_to_the_api_server(tmp_path):
    url = 'api_server.url = "http://127.0.0.1:8001"\n'
    config = loaded(tmp_path, SOURCE + 'node = "n"\nmode = "warn"\nevents = true\n' + url + "[advertise]")
    assert (config.advertise, config.events) == (Advertise("sgx.intel.com/epc", "warn"), True)
    assert config.api_server == Endpoint("http://127.0.0.1:8001")
    config = loaded(tmp_path, SOURCE + url + 'node = "n"\nadvertise.mode = "enforce"')
    assert (config.advertise, config.events) == (Advertise("sgx.intel.com/epc", "enforce"), False)
    assert loaded(tmp_path, SOURCE + "events = false").api_server is None


def test_an_address_of_ipv6_stands_in_brackets(tmp_path):
    assert loaded(tmp_path, SOURCE + 'listen = "[::1]:9445"').listen == ("::1", 9445)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "source: one of api_server, kubelet, manifests, kubelet_file says where pods come from"),
        ('source = "pods"', "source: 'pods' is not a table"),
        ('source = {manifest = "pods"}', 'source.manifest: no such key; did you mean "manifests"?'),
        ('source = {manifests = "a", kubelet_file = "b"}', "source: one of api_server, kubelet, manifests"),
        ("source = {manifests = 5}", "source.manifests: 5 is not a text"),
        (SOURCE + 'mod = "warn"', 'mod: no such key; did you mean "mode"?'),
        (SOURCE + 'mode = "enforced"', "mode: 'enforced' is no mode; did you mean \"enforce\"?"),
        (SOURCE + 'namespaces = {a = "off"}', "namespaces.a: 'off' is no mode; allowed: observe, warn, enforce"),
        (SOURCE + 'namespaces = ["a"]', "namespaces: a list is not a table"),
        (SOURCE + "annotations = 1", "annotations: 1 is neither true nor false"),
        (SOURCE + 'interval = "0s"', "interval: 0 s is not between 0.1 s and 3600 s"),
        (SOURCE + 'interval = "soon"', "interval: 'soon' is not a time"),
        (SOURCE + 'reserve = "8MiB/s"', "reserve: '8MiB/s': unknown unit"),
        (SOURCE + "unclaimed_limit = -1", "unclaimed_limit: -1 is negative"),
        (SOURCE + 'resource = "sgx epc"', "resource: 'sgx epc' is no resource of the misc controller, as in sgx_epc"),
        (SOURCE + 'listen = "9445"', "listen: '9445' is not ADDRESS:PORT, as in \"127.0.0.1:9445\""),
        (SOURCE + 'listen = "::1:99999"', "listen: '::1:99999' is not ADDRESS:PORT"),
        (SOURCE + "nri = 5", "nri: 5 is not a table"),
        (SOURCE + 'nri = {sock = "a"}', 'nri.sock: no such key; did you mean "socket"?'),
        (SOURCE + 'nri = {index = "9"}', "nri.index: '9' is not two digits, as in \"90\""),
        (SOURCE + "nri = {index = 90}", "nri.index: 90 is not a text"),
        (SOURCE + 'nri = {name = "a b"}', "nri.name: 'a b' is no name: letters, digits, -, _ and ., at most 63"),
        (SOURCE + "device_plugin = {epc = 1}", "device_plugin.epc: no such key; "),
        (SOURCE + "device_plugin = {enclave = -1}", "device_plugin.enclave: -1 is no count from 0 to 10000"),
        (SOURCE + "device_plugin = {enclave = true}", "device_plugin.enclave: True is no count from 0 to 10000"),
        (SOURCE + "device_plugin = {folder = 1}", "device_plugin.folder: 1 is not a text"),
        (SOURCE + 'node = ""', "node: '' is not a text"),
        ("source.api_server = 1", "source.api_server: 1 is not true"),
        (API, "api_server.url: is needed outside of a cluster (no KUBERNETES_SERVICE_HOST)"),
        ('source.api_server = true\napi_server.url = "https://a"', "source.api_server: needs node, as in node ="),
        (API + 'api_server.url = "a:1"', "api_server.url: 'a:1' is not an address, as in \"https://10.0.0.1:6443\""),
        (API + 'api_server.url = "https://u:p@a"', "api_server.url: 'https://u:p@a' is not an address"),
        (API + 'api_server.url = "https://a:x"', "api_server.url: 'https://a:x' is not an address"),
        (API + 'api_server = {url = "http://a", token_file = "t"}', "api_server.token_file: is for https; http://a is"),
        (API + 'api_server = {token = "t"}', 'api_server.token: no such key; did you mean "token_file"?'),
        ("source.kubelet = true", "source.kubelet: True is not a text"),
        ('source.kubelet = "https://a"\nkubelet.insecure = 1', "kubelet.insecure: 1 is neither true nor false"),
        ('source.kubelet = "http://a"\nkubelet.insecure = true', "kubelet.insecure: is for https; http://a is read"),
        (SOURCE + "events = true", 'events: needs node, as in node = "$NODE_NAME"'),
        (SOURCE + "[advertise]", 'advertise: needs node, as in node = "$NODE_NAME"'),
        (SOURCE + 'node = "n"\n[advertise]', "api_server.url: is needed outside of a cluster"),
        (SOURCE + "advertise = true", "advertise: True is not a table"),
        (SOURCE + 'advertise.resource = "cpu"', "advertise.resource: 'cpu' is no EPC resource; allowed: sgx.intel"),
        (SOURCE + 'advertise.resource = "alibabacloud.com/sgx_epc_MiB"', "advertise.resource: alibabacloud.com/sgx_"),
        (SOURCE + 'advertise.mode = "on"', "advertise.mode: 'on' is no mode"),
        (SOURCE + 'node = "$NODE_NAME"', "node: the environment has no 'NODE_NAME'"),
        ("[", "not TOML: "),
        (b"\xff", "not TOML: "),
        (SOURCE + '"a\\nb" = 1', "a\\nb: no such key"),
    ],
)
def test_a_fault_is_one_line_with_file_and_key(tmp_path, text, message):
    with pytest.raises(InputError) as refusal:
        loaded(tmp_path, text)
    line = str(refusal.value)
    assert line.isprintable()
    separator = ": " if message.startswith("not TOML") else ", "
    assert line.startswith(f"{tmp_path}/agent.toml{separator}{message}")


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"none.toml: cannot be read \(No such file or directory\)$"):
        load(tmp_path / "none.toml")


values = st.one_of(
    st.text(max_size=20).map(lambda text: '"' + "".join(f"\\U{ord(c):08x}" for c in text) + '"'),
    st.integers().map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(lambda number: f"{number:f}"),
    st.sampled_from(["true", "[]", "{}", "1979-05-27", "nan", "inf", '["a"]', '{a = "warn"}']),
)
keys = st.sampled_from(
    ["mode", "namespaces", "annotations", "unclaimed_limit", "interval", "node", "source", "source.manifests",
     "cgroup_root", "enable_misc", "resource", "reserve", "listen", "nri", "nri.index",
     "device_plugin", "device_plugin.enclave", "source.api_server", "source.kubelet", "api_server",
     "api_server.url", "kubelet", "advertise", "advertise.mode", "events", "x"]
)  # fmt: skip


@given(st.dictionaries(keys, values, max_size=6))
def test_any_configuration_is_read_or_refused_in_one_line(tmp_path_factory, table):
    text = "".join(f"{key} = {value}\n" for key, value in table.items())
    try:
        loaded(tmp_path_factory.getbasetemp(), text)
    except InputError as refusal:
        assert str(refusal).isprintable()
