"""Scenario files: every key does what its page says; whatever else stands in one is answered in one line."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epcgroup.errors import InputError
from epcgroup.interface import UNLIMITED
from epcgroup.sim import scenario
from epcgroup.sim.plan import LimitChange, Plan, limits_of
from epcgroup.sim.run import simulate
from epcgroup.sim.workload import parse_workload

MIB = 1 << 20
POD = '[[pods]]\nname = "web"\nuse = "1Mi"\n'
MANIFEST = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  template:
    spec:
      containers:
      - name: app
        resources: {limits: {sgx.intel.com/epc: 8Mi}}
"""


def read(folder: Path, text: str) -> Plan:
    path = folder / "s.toml"
    path.write_text(text, encoding="utf-8")
    return scenario.read(path)


def fault(folder: Path, text: str) -> str:
    """The one line that answers a bad file, without the file's name."""
    with pytest.raises(InputError) as caught:
        read(folder, text)
    line = str(caught.value)
    assert line.startswith(str(folder / "s.toml"))
    assert "\n" not in line
    return line.removeprefix(str(folder / "s.toml")).lstrip(",: ")


# ---- what is read -----------------------------------------------------------------------------------


def test_the_least_scenario_is_a_pod_on_a_default_node(tmp_path: Path) -> None:
    plan = read(tmp_path, POD)
    assert plan.title == "s"
    assert (plan.node.epc_bytes, plan.node.cpus, plan.node.sgx2) == (128 * MIB, 8, True)
    assert (plan.duration, plan.seed, plan.series) == (0.0, 1, "v17")
    assert plan.compare == ("alone", "none", "claims")
    (pod,) = plan.pods
    assert (pod.name, pod.use_bytes, pod.claim_bytes) == ("web", MIB, None)


def test_every_key_is_read(tmp_path: Path) -> None:
    plan = read(
        tmp_path,
        """
        title = "all keys"
        description = "one  of\\neach"
        [node]
        sections = [{ node = 1, size = "64Mi" }, { size = "32Mi" }]
        cpus = 3
        sgx2 = false
        costs = "dear"
        cost = { ewb = 1000, cpu_hz = 2e9 }
        [run]
        duration = "250ms"
        seed = 7
        series = "v2"
        compare = ["none", "v17", "v2"]
        [limits]
        "/tenant" = "40Mi"
        web = "12Mi"
        "db/sql" = "max"
        [[pods]]
        name = "web"
        namespace = "shop"
        qos = "guaranteed"
        cgroup = "/tenant/web"
        claim = "8Mi"
        use = "16Mi"
        workload = { workload = "zipf", exponent = 1.2 }
        threads = 2
        enclaves = 4
        edmm = true
        numa = 1
        start = "10ms"
        stop = "200ms"
        [[pods]]
        name = "db"
        replicas = 2
        limit = "24Mi"
        [[pods.containers]]
        name = "sql"
        claim = "16Mi"
        [[pods.containers]]
        claim = "4Mi"
        vepc = true
        limit = "max"
        [[events]]
        at = "0.1s"
        pod = "web"
        limit = "max"
        [[events]]
        at = 0.2
        cgroup = "/tenant"
        limit = 0
        """.replace('"db/sql" = "max"\n', ""),
    )
    assert plan.title == "all keys"
    assert plan.notes == ("one of each",)
    assert [(s.node, s.size_bytes) for s in plan.node.sections] == [(1, 64 * MIB), (0, 32 * MIB)]
    assert (plan.node.cpus, plan.node.sgx2, plan.node.costs.cpu_hz) == (3, False, 2e9)
    assert plan.node.costs.cycles("ewb") == 1000
    assert plan.node.costs.cycles("eldu") == 44_000
    assert (plan.duration, plan.seed, plan.series, plan.compare) == (0.25, 7, "v2", ("none", "v17", "v2"))
    assert plan.limits == {"/tenant": 40 * MIB, "web": 12 * MIB}
    web, *dbs = plan.pods
    assert (web.name, web.namespace, web.qos, web.path) == ("web", "shop", "guaranteed", "/tenant/web")
    assert (web.claim_bytes, web.use_bytes, web.numa, web.start, web.stop) == (8 * MIB, 16 * MIB, 1, 0.01, 0.2)
    (container,) = web.containers
    assert (container.threads, container.enclaves, container.edmm, container.vepc) == (2, 4, True, False)
    assert container.workload == parse_workload("zipf:1.2")
    assert [pod.name for pod in dbs] == ["db-0", "db-1"]
    assert [(c.name, c.use_bytes, c.vepc, c.limit_bytes) for c in dbs[0].containers] == [
        ("sql", 16 * MIB, False, None),
        ("c2", 4 * MIB, True, UNLIMITED),
    ]
    assert (dbs[0].claim_bytes, dbs[0].limit_bytes) == (20 * MIB, 24 * MIB)
    assert plan.changes == (
        LimitChange(0.1, "/tenant/web", None, "misc.max of web set to max"),
        LimitChange(0.2, "/tenant", 0, "misc.max of /tenant set to 0 B"),
    )


def test_a_pods_own_limit_goes_before_its_claim(tmp_path: Path) -> None:
    plan = read(tmp_path, '[[pods]]\nname = "a"\nclaim = "4Mi"\nlimit = "6Mi"\n')
    assert set(limits_of(plan).values()) == {6 * MIB}
    assert limits_of(read(tmp_path, '[[pods]]\nname = "a"\nclaim = "4Mi"\nlimit = "max"\n')) == {}


def test_a_change_of_a_pods_limit_lifts_those_of_its_containers(tmp_path: Path) -> None:
    plan = read(tmp_path, '[[pods]]\nname = "a"\nclaim = "4Mi"\n[[events]]\nat = 1\npod = "a"\nlimit = "6Mi"\n')
    pod = plan.pods[0]
    container = pod.container_path(pod.containers[0])
    assert [(c.path, c.limit_bytes) for c in plan.changes] == [(container, None), (pod.path, 6 * MIB)]


def test_pods_come_from_manifests_beside_the_scenario(tmp_path: Path) -> None:
    (tmp_path / "web.yaml").write_text(MANIFEST)
    plan = read(tmp_path, '[[pods]]\nmanifest = "web.yaml"\n')
    assert [(p.name, p.claim_bytes, p.use_bytes) for p in plan.pods] == [
        ("web-0", 8 * MIB, 8 * MIB),
        ("web-1", 8 * MIB, 8 * MIB),
    ]


@pytest.mark.parametrize(
    "text",
    [
        '[[pods]]\nmanifest = "web.yaml"\nuse = { web = "24Mi:zipf" }\n',
        '[[pods]]\nmanifest = "web.yaml"\n[use]\nweb = "24Mi:zipf"\n',
        '[[pods]]\nmanifest = "web.yaml"\nuse = { web = { size = "24Mi", workload = "zipf" } }\n',
        '[[pods]]\nmanifest = "web.yaml"\nuse = { web = "24Mi:zipf" }\n[use]\nweb = "99Mi:loop"\n',
    ],
)
def test_a_use_says_what_pods_from_manifests_do(tmp_path: Path, text: str) -> None:
    (tmp_path / "web.yaml").write_text(MANIFEST)
    for pod in read(tmp_path, text).pods:
        assert (pod.claim_bytes, pod.use_bytes) == (8 * MIB, 24 * MIB)
        assert pod.containers[0].workload == parse_workload("zipf")


def test_a_use_says_more_in_a_table(tmp_path: Path) -> None:
    (tmp_path / "web.yaml").write_text(MANIFEST)
    use = "{ threads = 3, enclaves = 2, edmm = true, numa = 1, start = 1, stop = 2 }"
    pod = read(tmp_path, f'[[pods]]\nmanifest = "web.yaml"\nuse = {{ web = {use} }}\n').pods[0]
    (c,) = pod.containers
    assert (c.use_bytes, c.threads, c.enclaves, c.edmm) == (8 * MIB, 3, 2, True)
    assert (pod.numa, pod.start, pod.stop) == (1, 1.0, 2.0)


def test_a_trace_is_looked_for_beside_the_scenario(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("page\n1\n2\n")
    plan = read(tmp_path, POD + 'workload = "trace:t.csv"\n')
    assert plan.pods[0].containers[0].workload.min_pages() == 2


# ---- limits files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ['web = "8Mi"\ndb = "max"\n', '[limits]\nweb = "8Mi"\ndb = "max"\n'])
def test_a_limits_file_has_a_table_or_keys_of_its_own(tmp_path: Path, text: str) -> None:
    path = tmp_path / "limits.toml"
    path.write_text(text)
    assert scenario.read_limits(path) == {"web": 8 * MIB, "db": None}


@pytest.mark.parametrize(
    "text", ["web = 0\n", 'web = "100"\n', 'web = "8mi"\n', "web = [1]\n", "[limits]\nweb = -1\n", "", "limits = 3\n"]
)
def test_a_limits_file_with_something_else_is_a_fault(tmp_path: Path, text: str) -> None:
    path = tmp_path / "limits.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=str(path)):
        scenario.read_limits(path)


# ---- faults -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "an empty file"),
        ("a = ", "not TOML (Invalid value"),
        ("[node]\nepc = '1Mi'", "no pod; wanted is [[pods]]"),
        ("pods = 3", "pods: 3 is not a list of tables"),
        ("pods = [3]", "pods[1]: 3 is not a table"),
        ("titel = 'x'\n" + POD, 'titel: no such key; did you mean "title"?'),
        ("title = 3\n" + POD, "title: 3 is not a text"),
        ("[node]\ncpu = 4\n" + POD, 'node.cpu: no such key; did you mean "cpus"?'),
        ("[node]\ncpus = 0\n" + POD, "node.cpus: 0 is out of range; 1 to 4096 is allowed"),
        ("[node]\ncpus = 2.5\n" + POD, "node.cpus: 2.5 is not a whole number"),
        ("[node]\nsgx2 = 1\n" + POD, "node.sgx2: 1 is neither true nor false"),
        ("[node]\nepc = 0\n" + POD, "node.epc: 0 is not between 4 KiB (a page) and 8 TiB"),
        ("[node]\nepc = -1\n" + POD, "node.epc: -1 is negative"),
        ("[node]\nepc = '4095'\n" + POD, "node.epc: '4095' is not between 4 KiB (a page)"),
        ("[node]\nepc = '128mb'\n" + POD, "node.epc: '128mb': unknown unit 'mb'; did you mean \"MB\"?"),
        (f"[node]\nepc = {2**63}\n" + POD, f"node.epc: {2**63} is too large"),
        (f"[node]\nepc = '{2**63}'\n" + POD, f"node.epc: '{2**63}' is too large"),
        ("[node]\nepc = '1Mi'\nsections = []\n" + POD, "node.sections: epc is given too"),
        ("[node]\nsections = [{ node = 1 }]\n" + POD, "node.sections[1].size: missing"),
        ("[node]\nsections = [{ node = 64, size = '1Mi' }]\n" + POD, "node.sections[1].node: 64 is out of range"),
        (
            f"[node]\nsections = [{', '.join(f'{{ node = {i}, size = 8192 }}' for i in range(5))}]\n" + POD,
            "node.sections: 5 EPC sections on 5 NUMA nodes; 1 to 8 sections on at most 4 nodes are allowed",
        ),
        ("[node]\ncosts = 'cheep'\n" + POD, "node.costs: no cost profile 'cheep'; did you mean \"cheap\"?"),
        ("[node.cost]\newp = 1\n" + POD, 'node.cost.ewp: no such key; did you mean "ewb"?'),
        ("[node.cost]\newb = 'x'\n" + POD, "node.cost.ewb: 'x' is not a number"),
        ("[run]\nduration = '5'\nseed = -1\n" + POD, "run.seed: -1 is out of range"),
        ("[run]\nduration = '0s'\n" + POD, "run.duration: '0s' is not between 0.001 s and 1e+06 s"),
        ("[run]\nseries = 'v16'\n" + POD, "run.series: 'v16' is not allowed; did you mean \"v17\"?"),
        ("[run]\ncompare = ['claim']\n" + POD, "run.compare: 'claim' is not allowed; did you mean \"claims\"?"),
        ("[run]\ncompare = []\n" + POD, "run.compare: a list is not a list of runs"),
        ("[[pods]]\nuse = '1Mi'\n", "pods[1].name: missing"),
        ("[[pods]]\nname = 'a/b'\nuse = '1Mi'\n", "pods[1].name: 'a/b' is no name"),
        ("[[pods]]\nname = 'web'\n", "pods[1].use: missing"),
        ("[[pods]]\nname = 'web'\nuse = 0\n", "pods[1].use: 0 is not between 12 KiB and 8 TiB"),
        ("[[pods]]\nname = 'web'\nuse = '65Gi'\n", "pods[1].use: 65 GiB an enclave; 12 KiB to 64 GiB are allowed"),
        ("[[pods]]\nname = 'web'\nuse = '1Mi'\nenclaves = 100\n", "pods[1].use: 10.2 KiB an enclave"),
        (POD + "limit = 100\n", 'pods[1].limit: 100 lets no page in; at least 4096 bytes (a page), or "max"'),
        (POD + "limit = 0\n", "pods[1].limit: 0 lets no page in"),
        (POD + "worklaod = 'loop'\n", 'pods[1].worklaod: no such key; did you mean "workload"?'),
        (POD + "workload = 'lopp'\n", "pods[1].workload: no workload 'lopp'; did you mean \"loop\"?"),
        (POD + "workload = 3\n", "pods[1].workload: 3 is no workload"),
        (POD + "workload = 'trace:none.csv'\n", "pods[1].workload.file: no such file"),
        (POD + "threads = 0\n", "pods[1].threads: 0 is out of range; 1 to 1024 is allowed"),
        (POD + "vepc = true\nedmm = true\n", "pods[1].edmm: does not go with vepc"),
        (POD + "start = 2\nstop = 1\n", "pods[1].stop: 1 s is not after its start at 2 s"),
        (POD + "cgroup = 'tenant'\n", "pods[1].cgroup: 'tenant' is no cgroup path"),
        (POD + "cgroup = '/t/a'\nreplicas = 2\n", "pods[1].cgroup: 2 replicas cannot share a cgroup"),
        (POD + "qos = 'best'\n", "pods[1].qos: 'best' is not allowed"),
        (POD + POD, "two pods have the pod name 'web'; each needs its own"),
        (POD + "replicas = 2\n[[pods]]\nname = 'web-1'\nuse = '1Mi'\n", "two pods have the pod name 'web-1'"),
        (POD + "cgroup = '/t'\n" + POD.replace("web", "b") + "cgroup = '/t'\n", "two pods have the cgroup '/t'"),
        (POD + "[[pods.containers]]\nuse = '1Mi'\n", "pods[1].use: goes into the containers"),
        ("[[pods]]\nname = 'a'\n[[pods.containers]]\nuse = 1\n", "pods[1].containers[1].use: 1 is not between"),
        (
            "[[pods]]\nname = 'a'\n" + 2 * "[[pods.containers]]\nname = 'c'\nuse = '1Mi'\n",
            "pods[1].containers: two of them have the name 'c'",
        ),
        (
            "[[pods]]\nname = 'a'\nuse = '1Ti'\nenclaves = 20\nreplicas = 9\n",
            "pods that use 9 TiB of EPC; at most 8 TiB together",
        ),
        ("[[pods]]\nname = 'a'\nuse = '1Mi'\nreplicas = 2001\n", "pods[1].replicas: 2001 is out of range"),
        (2 * "[[pods]]\nname = 'a'\nuse = '1Mi'\nreplicas = 2000\n", "4000 pods with their replicas; at most 2000"),
        ("[[pods]]\nmanifest = 'none.yaml'\n", "pods[1].manifest: no such file 'none.yaml' beside the scenario"),
        ("[[pods]]\nmanifest = 'empty.yaml'\n", "pods[1].manifest: 'empty.yaml' has no pod that asks for SGX EPC"),
        ("[[pods]]\nmanifest = 'web.yaml'\nthreads = 2\n", "pods[1].threads: does not go with manifest"),
        (
            "[[pods]]\nmanifest = 'web.yaml'\nuse = { wep = '1Mi' }\n",
            'pods[1].use, wep: no pod "wep"; did you mean "web"?',
        ),
        ("[[pods]]\nmanifest = 'web.yaml'\nuse = { web = '1Mi:lopp' }\n", "pods[1].use.web: no workload 'lopp'"),
        (
            "[[pods]]\nmanifest = 'web.yaml'\n[use]\nwep = '1Mi'\n",
            "use.wep: no pod 'wep' in a manifest; did you mean \"web\"?",
        ),
        ("[[pods]]\nmanifest = 'web.yaml'\n[use]\nweb = { use = '1Mi' }\n", "use.web.use: no such key"),
        (POD + "[use]\nweb = '1Mi'\n", "use.web: no pod 'web' in a manifest"),
        (POD + "[limits]\nwep = '1Mi'\n", "limits, wep: no pod 'wep'; did you mean \"web\"?"),
        (POD + "[limits]\nweb = '1K'\n", "limits.web: '1K': unknown unit"),
        (POD + "[limits]\nweb = 4095\n", "limits.web: 4095 lets no page in"),
        (POD + "[limits]\n'/nobody' = '1Mi'\n", "limits, /nobody: no pod is in this cgroup"),
        (POD + "[[events]]\nat = 1\nlimit = 'max'\n", "events[1].pod: an event names either a pod or a cgroup"),
        (POD + "[[events]]\npod = 'web'\nlimit = 'max'\n", "events[1].at: missing"),
        (
            POD + "[[events]]\nat = 1\npod = 'wep'\nlimit = 'max'\n",
            "events[1].pod: no such pod 'wep'; did you mean \"web\"?",
        ),
        (POD + "[[events]]\nat = -1\npod = 'web'\nlimit = 'max'\n", "events[1].at: -1 is negative"),
        (
            "[run]\nduration = '1s'\n" + POD + "[[events]]\nat = 1\npod = 'web'\nlimit = 'max'\n",
            "events[1].at: 1 s is not within the run of 1 s",
        ),
        (POD + "[[events]]\nat = 1\npod = 'web'\nlimit = 100\n", "events[1].limit: 100 lets no page in"),
    ],
)
def test_a_fault_names_the_key_the_value_and_what_is_allowed(tmp_path: Path, text: str, line: str) -> None:
    (tmp_path / "web.yaml").write_text(MANIFEST)
    (tmp_path / "empty.yaml").write_text("a: 1\n")
    assert fault(tmp_path, text).startswith(line)


def test_a_trace_that_is_too_large_for_its_pod_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("page\n" + "".join(f"{i}\n" for i in range(300)))
    line = fault(tmp_path, POD + "workload = 'trace:t.csv'\n")
    assert line == "pods[1].use: its workload touches 1.17 MiB, too much for an enclave of 1 MiB"


@pytest.mark.parametrize("data", [b"\xff\xfe", b"title = '\xc3'", "title = 'ä'".encode("latin-1")])
def test_a_file_that_is_not_utf_8_is_a_fault(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "s.toml"
    path.write_bytes(data)
    with pytest.raises(InputError, match="not UTF-8"):
        scenario.read(path)


@pytest.mark.parametrize("data", ["a = " + "[" * 10_000, "a = " + "9" * 10_000, "\0", "a.b=1\na=2", "a = '''"])
def test_a_file_that_is_no_toml_is_a_fault(tmp_path: Path, data: str) -> None:
    assert fault(tmp_path, data)


def test_a_file_that_is_not_there_or_a_folder_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        scenario.read(tmp_path / "none.toml")
    with pytest.raises(InputError, match="cannot be read"):
        scenario.read(tmp_path)


# ---- whatever stands in it --------------------------------------------------------------------------

SIZES = st.sampled_from(
    ["1Mi", "12Ki", 8192, "64Mi", 0, -1, "max", "4095", 2**63, "x", "1.5Gi", True, 1e300, float("nan")]
)
TIMES = st.sampled_from(["10ms", 0.02, "1s", 0, -1, "1w", 10**9, float("inf")])
COUNTS = st.sampled_from([1, 2, 7, 0, -1, 2**40, "2", 1.0, True])
SWITCHES = st.sampled_from([True, False, 0, "yes"])
NAMES = st.sampled_from(["web", "db", "web-0", "", "a/b", "ä", "\n", 3])
PATHS = st.sampled_from(["/t", "/t/web", "t", "/", "//", "", 1])
WORKLOADS = st.one_of(
    st.sampled_from(["uniform", "zipf:1.2", "lopp", "", "phases", "bursts:of=loop", "trace:x", 1, [], {}]),
    st.fixed_dictionaries(
        {"workload": st.sampled_from(["zipf", "grow", 3])}, optional={"exponent": COUNTS, "rate": SIZES}
    ),
)
ANYTHING = st.recursive(
    st.one_of(st.integers(), st.floats(), st.booleans(), st.text(max_size=5), st.datetimes()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def table(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Some of the keys, each now and then with anything at all in it."""
    values = {key: st.one_of(value, value, value, ANYTHING) for key, value in keys.items()}
    return st.fixed_dictionaries({}, optional=values)


WORK = {"use": SIZES, "workload": WORKLOADS, "threads": COUNTS, "enclaves": COUNTS, "edmm": SWITCHES, "vepc": SWITCHES}
CONTAINERS = table(name=NAMES, claim=SIZES, limit=SIZES, **WORK)
PODS = table(
    name=NAMES,
    namespace=NAMES,
    qos=st.sampled_from(["guaranteed", "best"]),
    cgroup=PATHS,
    replicas=COUNTS,
    claim=SIZES,
    limit=SIZES,
    numa=COUNTS,
    start=TIMES,
    stop=TIMES,
    containers=st.lists(CONTAINERS, max_size=2),
    manifest=st.sampled_from(["web.yaml", "none.yaml", "", "\0", 1]),
    **WORK,
)
SCENARIOS = table(
    title=st.text(max_size=5),
    description=st.text(max_size=5),
    node=table(
        epc=SIZES,
        sections=st.lists(table(node=COUNTS, size=SIZES), max_size=3),
        cpus=COUNTS,
        sgx2=SWITCHES,
        costs=st.sampled_from(["cheap", "x"]),
        cost=st.dictionaries(st.sampled_from(["ewb", "cpu_hz", "x"]), COUNTS, max_size=2),
    ),
    run=table(
        duration=TIMES,
        seed=COUNTS,
        series=st.sampled_from(["v2", "v17", "v3"]),
        compare=st.lists(st.sampled_from(["alone", "none", "v2", "x"]), max_size=3),
    ),
    limits=st.dictionaries(st.sampled_from(["web", "db", "web/main", "/t", "/kubepods"]), SIZES, max_size=2),
    use=st.dictionaries(st.sampled_from(["web", "x"]), st.one_of(SIZES, table(size=SIZES, **WORK)), max_size=2),
    pods=st.lists(PODS, min_size=1, max_size=3),
    events=st.lists(table(at=TIMES, pod=NAMES, cgroup=PATHS, limit=SIZES), max_size=2),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scenarios")
    (path / "web.yaml").write_text(MANIFEST)
    (path / "any.toml").write_text("x")
    return path


@given(data=SCENARIOS)
def test_whatever_tables_a_file_holds_give_a_plan_or_one_line(folder: Path, data: dict[str, Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenario.tomllib, "loads", lambda text: data)
        try:
            plan = scenario.read(folder / "any.toml")
        except InputError as error:
            line = str(error)
            assert "\n" not in line
            assert str(folder) in line
        else:
            assert plan.pods
            limits_of(plan)
            assert all(pod.describe() for pod in plan.pods)


@given(data=st.binary(max_size=60))
def test_whatever_bytes_a_file_holds_give_one_line(folder: Path, data: bytes) -> None:
    path = folder / "bytes.toml"
    path.write_bytes(data)
    with pytest.raises(InputError):
        scenario.read(path)


@pytest.mark.parametrize("pages", [3, 4, 515, 1027])
def test_a_pod_of_few_pages_runs(tmp_path: Path, pages: int) -> None:
    plan = read(
        tmp_path, f"[run]\nduration = '60ms'\n[[pods]]\nname = 'a'\nuse = {pages * 4096}\nclaim = {pages * 4096}\n"
    )
    for run in simulate(plan).runs:
        assert run.pods[0].touches > 0
        assert run.pods[0].page_outs == 0
