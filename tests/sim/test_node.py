"""The simulated node: what pods cost, who gets a CPU, what limits and their changes do, on nodes of a few pages."""

import pytest
from conservation import check_conservation
from hypothesis import given, settings
from hypothesis import strategies as st
from nodes import MIB, PAGE, plan, pod

from epcgroup.interface import UNLIMITED
from epcgroup.machine import MAX_ENCLAVE_PAGES
from epcgroup.sim import node
from epcgroup.sim.cost import profile
from epcgroup.sim.plan import (
    MAX_ENCLAVE_BYTES,
    ContainerPlan,
    LimitChange,
    NodePlan,
    Plan,
    PodPlan,
    SectionPlan,
    heap_pages,
)
from epcgroup.sim.run import simulate
from epcgroup.sim.workload import parse_workload
from epcgroup.trace import PodRun, Run

COSTS = profile("default")
HZ = COSTS.cpu_hz
RELOAD = COSTS.cycles("eldu") + node.fault_cycles(COSTS)


def run_of(plan: Plan) -> Run:
    (run,) = simulate(plan).runs
    return run


def one(plan: Plan) -> PodRun:
    (record,) = run_of(plan).pods
    return record


# ---- time -------------------------------------------------------------------------------------------


def test_an_enclave_is_built_before_its_threads_touch() -> None:
    record = one(plan(pod("a", MIB, "uniform:touch_ns=1000", threads=2)))
    pages = heap_pages(MIB)
    build = pages * (COSTS.cycles("eadd") + 16 * COSTS.cycles("eextend") + node.fault_cycles(COSTS)) / HZ
    assert record.build_seconds == pytest.approx(build, rel=0.02)
    assert record.busy_seconds == pytest.approx(2 * (0.05 - build), rel=0.02)
    assert record.touches == pytest.approx(record.busy_seconds * 1e6, rel=0.001)
    assert (record.stall_seconds, record.page_ins, record.page_outs) == (0.0, 0, 0)


def test_usage_is_the_heap_the_secs_and_a_version_array_page_for_512_pages() -> None:
    for use in (3 * PAGE, 64 * PAGE, 514 * PAGE, 515 * PAGE, 3 * MIB):
        record = one(plan(pod("a", use), duration=0.2))
        assert use - 2 * PAGE < record.s_usage_bytes[-1] <= use


def test_threads_beyond_the_cpus_share_them_evenly() -> None:
    run = run_of(plan(*[pod(f"p{i}", 64 * PAGE) for i in range(4)], cpus=2, duration=0.1))
    touches = [p.touches for p in run.pods]
    assert max(touches) < 1.05 * min(touches)
    for p in run.pods:
        assert p.wait_seconds == pytest.approx(p.busy_seconds, rel=0.1)
    assert sum(p.busy_seconds + p.build_seconds for p in run.pods) == pytest.approx(0.2, rel=0.01)


def test_every_page_in_costs_a_fault_and_a_load() -> None:
    record = one(plan(pod("a", 2 * MIB, "loop:touch_ns=20000"), epc=MIB, duration=0.2, compare=("none",)))
    assert record.page_ins > 1000
    assert record.stall_seconds >= record.page_ins * RELOAD / HZ
    assert sum(record.stalls) == record.page_ins


def test_ksgxd_works_when_epc_is_full_and_only_then() -> None:
    fits = run_of(plan(pod("a", MIB), duration=0.1))
    full = run_of(plan(pod("a", 6 * MIB), duration=0.1, compare=("none",)))
    assert fits.ksgxd_seconds == 0
    assert 0 < full.ksgxd_seconds <= 0.1
    assert [e.what for e in full.events] == ["ksgxd woken: fewer than 32 EPC pages free"]


def test_nobody_works_more_than_the_cpus_allow() -> None:
    pods = [pod(f"p{i}", 2 * MIB, threads=3) for i in range(3)]
    run = run_of(plan(*pods, cpus=2, duration=0.2, compare=("none",)))
    worked = sum(p.busy_seconds + p.stall_seconds + p.build_seconds for p in run.pods) + run.ksgxd_seconds
    assert 0.95 * 0.4 <= worked <= 0.4 + 2 * node.LONG_SLICE_SECONDS


def test_a_thread_that_pauses_uses_no_cpu_meanwhile() -> None:
    record = one(plan(pod("a", 64 * PAGE, "bursts:on=1ms,off=3ms"), duration=0.2))
    assert record.busy_seconds == pytest.approx(0.05, rel=0.1)
    assert record.wait_seconds == 0


# ---- pods -------------------------------------------------------------------------------------------


def test_a_pod_that_stops_gives_all_its_epc_back() -> None:
    run = run_of(plan(pod("a", MIB, start=0.01, stop=0.04), duration=0.05))
    (record,) = run.pods
    assert record.outcome == "finished at 0.04 s"
    assert record.ended_at == 0.04
    assert record.s_usage_bytes[0] == record.s_usage_bytes[-1] == 0
    assert run.s_free_bytes[-1] == run.epc_bytes
    assert record.touches > 0


def test_a_pod_whose_start_is_after_the_end_touches_nothing() -> None:
    record = one(plan(pod("a", MIB, start=1.0)))
    assert (record.touches, max(record.s_usage_bytes), record.outcome) == (0, 0, "ran")


def test_a_trace_that_is_over_ends_the_pod(tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "t.csv").write_text("page\n" + "".join(f"{i % 7}\n" for i in range(1000)))
    record = one(plan(pod("a", 64 * PAGE, f"trace:{tmp_path / 't.csv'},wrap=no")))
    assert record.touches == 1000
    assert record.outcome.startswith("finished")


def test_a_creation_that_is_refused_ends_the_pod() -> None:
    run = run_of(plan(pod("a", MIB, claim=PAGE), pod("b", MIB, claim=MIB)))
    a, b = run.pods
    assert a.outcome == "creation refused: ENOMEM"
    assert (a.touches, a.s_usage_bytes[-1]) == (0, 0)
    assert b.outcome == "ran"


def test_threads_of_an_enclave_share_its_pages() -> None:
    record = one(plan(pod("a", MIB, threads=4)))
    assert max(record.s_usage_bytes) <= MIB


def test_enclaves_of_a_container_share_its_limit() -> None:
    record = one(plan(pod("a", 2 * MIB, claim=MIB, enclaves=4), duration=0.1))
    assert max(record.s_usage_bytes) <= MIB
    assert record.page_outs > 0
    assert record.limit_bytes == MIB


def test_dynamic_pages_come_with_the_first_touch() -> None:
    record = one(plan(pod("a", MIB, "loop:start_at=0", edmm=True)))
    assert record.grown == heap_pages(MIB) - 16  # 16 are there from the start
    assert record.build_seconds < 1e-3


def test_dynamic_pages_need_sgx2() -> None:
    p = plan(pod("a", MIB, "loop:start_at=0.5", edmm=True))
    record = one(Plan(p.title, NodePlan(p.node.sections, sgx2=False), p.pods, p.duration, compare=p.compare))
    assert record.outcome.startswith("SIGBUS")


def test_a_guest_holds_its_virtual_epc_against_everybody() -> None:
    run = run_of(plan(pod("web", 3 * MIB), pod("vm", 2 * MIB, vepc=True, start=0.1), duration=0.2, compare=("none",)))
    web, vm = run.pods
    assert vm.s_usage_bytes[-1] == 2 * MIB
    assert vm.page_outs == 0
    assert web.page_outs_by_others > 0


def test_on_two_numa_nodes_a_pod_takes_pages_of_its_own_first() -> None:
    sections = (SectionPlan(0, 2 * MIB), SectionPlan(1, 2 * MIB))
    home = Plan("t", NodePlan(sections), (pod("a", MIB, numa=1),), 0.05, compare=("none",))
    away = Plan("t", NodePlan(sections), (pod("a", 3 * MIB, numa=1),), 0.1, compare=("none",))
    assert run_of(home).events == []
    (event,) = run_of(away).events
    assert event.what.startswith("33% of its EPC pages are on another NUMA node")


# ---- limits -----------------------------------------------------------------------------------------


def test_usage_never_exceeds_the_limit_and_page_outs_are_the_pods_own() -> None:
    record = one(plan(pod("a", 2 * MIB, claim=MIB, threads=2), duration=0.1))
    assert max(record.s_usage_bytes) <= MIB
    assert record.page_ins > 100
    assert record.page_outs_by_others == 0
    assert record.max_events > 0


def test_what_kworkers_write_out_is_no_other_pods_doing_but_what_ksgxd_writes_out_is() -> None:
    record = one(plan(pod("a", 6 * MIB), duration=0.1, compare=("none",)))
    assert record.page_outs_by_others > 0


def test_a_limit_that_is_lifted_while_the_node_runs_lets_the_pod_grow() -> None:
    p = pod("a", 2 * MIB, claim=MIB)
    container = p.container_path(p.containers[0])
    changes = (LimitChange(0.05, container, None, ""), LimitChange(0.05, p.path, None, "limit lifted"))
    run = run_of(plan(p, duration=0.1, changes=changes))
    (record,) = run.pods
    assert max(record.s_usage_bytes[:100]) <= MIB
    assert record.s_usage_bytes[-1] == 2 * MIB
    assert ("limit lifted", 0.05) in [(e.what, e.time) for e in run.events]


def test_a_limit_lowered_below_usage_frees_nothing_in_v17_and_all_above_it_in_v2() -> None:
    p = pod("a", MIB, "uniform:touch_ns=1000000")
    changes = (LimitChange(0.05, p.path, MIB // 2, "lowered"),)
    v17 = one(plan(p, duration=0.0505, changes=changes))
    v2 = one(plan(p, duration=0.0505, changes=changes, compare=("v2",)))
    assert v17.s_usage_bytes[-1] == MIB
    assert v2.s_usage_bytes[-1] <= MIB // 2


def test_a_limit_of_nothing_kills_in_v2() -> None:
    p = pod("a", MIB)
    run = run_of(plan(p, duration=0.1, changes=(LimitChange(0.05, p.path, 0, "to 0"),), compare=("v2",)))
    (record,) = run.pods
    assert record.outcome == "killed by the OOM path at 0.05 s"
    assert record.s_usage_bytes[-1] == 0


def test_changes_are_for_runs_with_limits_only() -> None:
    p = pod("a", MIB)
    run = run_of(plan(p, changes=(LimitChange(0.01, p.path, 0, "to 0"),), compare=("none",)))
    assert (run.events, run.pods[0].outcome) == ([], "ran")


def test_refusals_by_a_limit_above_are_counted_though_the_pods_own_events_are_not() -> None:
    pods = [pod("a", MIB, cgroup="/t/a"), pod("b", MIB, cgroup="/t/b", start=0.05)]
    run = run_of(plan(*pods, limits={"/t": 2 * MIB - 32 * PAGE}, duration=0.1))
    b = run.pods[1]
    assert b.limit_bytes is None
    assert b.max_events > 100
    assert b.s_max_events[-1] > b.s_max_events[-20]
    assert [e.what for e in run.events] == ["first charge refused by a limit above it"]


# ---- results ----------------------------------------------------------------------------------------


def test_the_same_plan_gives_the_same_record() -> None:
    p = plan(
        pod("a", 3 * MIB, "zipf", threads=2), pod("b", 3 * MIB, claim=MIB), duration=0.1, compare=("none", "claims")
    )
    first, second = simulate(p).runs, simulate(p).runs
    for run in first + second:
        run.wall_seconds = 0.0
    assert first == second


def test_another_seed_gives_another_record() -> None:
    runs = [one(plan(pod("a", 6 * MIB), seed=seed, compare=("none",), duration=0.2)) for seed in (1, 2)]
    assert runs[0].page_ins != runs[1].page_ins


def test_what_a_pod_does_does_not_depend_on_the_other_pods() -> None:
    single = one(plan(pod("a", 64 * PAGE)))
    beside = run_of(plan(pod("b", 64 * PAGE), pod("a", 64 * PAGE))).pods[1]
    assert single.touches == beside.touches


def test_samples_stand_at_even_times_from_start_to_end() -> None:
    run = run_of(plan(pod("a", MIB), duration=0.2))
    assert run.times == pytest.approx([0.2 * i / node.SAMPLES for i in range(node.SAMPLES + 1)], abs=1e-9)


def test_pages_are_in_a_pod_or_free_at_every_sample() -> None:
    run = run_of(plan(pod("a", 3 * MIB), pod("b", 3 * MIB, stop=0.1), duration=0.2, compare=("none",)))
    for i in range(len(run.times)):
        assert sum(p.s_usage_bytes[i] for p in run.pods) + run.s_free_bytes[i] == run.epc_bytes
    assert not any(run.s_unattributed_bytes)


def test_the_largest_enclave_is_the_machines() -> None:
    assert MAX_ENCLAVE_BYTES == MAX_ENCLAVE_PAGES * PAGE


def test_max_is_no_limit() -> None:
    record = one(plan(pod("a", MIB, claim=64 * PAGE, limit_bytes=UNLIMITED), limits={"a": None}))
    assert record.s_usage_bytes[-1] == MIB


# ---- any node ---------------------------------------------------------------------------------------

WORKLOADS = (
    "uniform",
    "zipf:1.2,touch_ns=1000",
    "loop:touch_ns=3000",
    "hot+scan",
    "bursts:on=2ms,off=3ms",
    "grow:2Gi,begin=0.1,shrink_at=0.9",
    "grow:4Gi,begin=0.01",
    "phases:2ms@0-0.5=loop,1000=uniform",
)


@st.composite
def containers(draw: st.DrawFn, name: str) -> ContainerPlan:
    enclaves, vepc = draw(st.sampled_from([1, 1, 3])), draw(st.integers(0, 9)) == 0
    use = draw(st.integers(3 * enclaves, 900)) * PAGE
    return ContainerPlan(
        name,
        use,
        claim_bytes=draw(st.sampled_from([None, use, use // 2, 40 * PAGE])),
        workload=parse_workload(draw(st.sampled_from(WORKLOADS))),
        threads=draw(st.sampled_from([1, 2, 5])),
        enclaves=enclaves,
        edmm=not vepc and draw(st.booleans()),
        vepc=vepc,
    )


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    pods, shared = [], draw(st.booleans())
    for i in range(draw(st.integers(1, 4))):
        inside = tuple(draw(containers(f"c{j}")) for j in range(draw(st.integers(1, 2))))
        claims = [c.claim_bytes for c in inside if c.claim_bytes]
        pods.append(
            PodPlan(
                f"p{i}",
                inside,
                claim_bytes=sum(claims) if claims else None,
                numa=draw(st.sampled_from([None, 0, 1])),
                start=draw(st.sampled_from([0.0, 0.01])),
                stop=draw(st.sampled_from([None, 0.03])),
                cgroup=f"/t/p{i}" if shared else "",
            )
        )
    numbers = draw(st.sampled_from([[0], [0, 1], [1, 0, 1]]))
    sections = tuple(SectionPlan(n, draw(st.integers(40, 800)) * PAGE) for n in numbers)
    limits = {"/t": draw(st.integers(1, 1500)) * PAGE} if shared and draw(st.booleans()) else {}
    return Plan(
        "any",
        NodePlan(sections, cpus=draw(st.sampled_from([1, 2, 8])), sgx2=draw(st.booleans())),
        tuple(pods),
        0.04,
        seed=draw(st.integers(0, 9)),
        compare=("none", "v17", "v2"),
        limits=limits,
    )


@settings(max_examples=25)
@given(plan=plans())
def test_on_any_node_nothing_is_made_of_nothing(plan: Plan) -> None:
    for run in simulate(plan).runs:
        check_conservation(run)
