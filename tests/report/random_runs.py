"""Any run set that a file may hold: random numbers, empty pods, lists of the wrong length, odd names."""

from hypothesis import strategies as st

from epcgroup.trace import Event, PodRun, Run, RunSet

counts = st.integers(0, 2**63)
seconds = st.floats(0, 1e9, allow_nan=False)
names = st.one_of(
    st.sampled_from(["web", "greedy", "", "`", "<script>alert(1)</script>", "\x1b[31mred", "x" * 300]),
    st.text(max_size=12),
)


def listed(elements: st.SearchStrategy) -> st.SearchStrategy:
    return st.lists(elements, max_size=7)


pods = st.builds(
    PodRun,
    name=names,
    cgroup=names,
    claim_bytes=st.none() | counts,
    limit_bytes=st.none() | counts,
    use_bytes=counts,
    workload=names,
    touches=st.just(0) | counts,
    busy_seconds=st.just(0.0) | seconds,
    stall_seconds=seconds,
    build_seconds=seconds,
    wait_seconds=seconds,
    page_ins=counts,
    page_outs=counts,
    page_outs_by_others=counts,
    faults=counts,
    max_events=counts,
    stalls=listed(counts),
    outcome=st.just("ran") | names,
    ended_at=st.none() | seconds,
    s_usage_bytes=listed(counts),
    s_page_ins=listed(counts),
    s_page_outs=listed(counts),
    s_touches=listed(counts),
    s_stall_seconds=listed(seconds),
    s_max_events=listed(counts),
)

runs = st.builds(
    Run,
    label=names,
    kind=st.sampled_from(["alone", "unlimited", "limited"]),
    series=st.sampled_from(["mainline", "v2", "v17"]),
    duration=st.just(0.0) | seconds,
    seed=st.integers(),
    epc_bytes=counts,
    cpus=st.integers(0, 512),
    cpu_hz=st.just(0.0) | seconds,
    cost_profile=names,
    pods=st.lists(pods, max_size=4),
    times=listed(seconds).map(sorted),
    s_free_bytes=listed(counts),
    s_unattributed_bytes=listed(counts),
    events=st.lists(st.builds(Event, time=seconds, pod=names, what=names), max_size=3),
    ksgxd_seconds=seconds,
    kworker_seconds=seconds,
    wall_seconds=seconds,
    ended_early=st.none() | names,
    live=st.booleans(),
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)

run_sets = st.builds(
    RunSet,
    title=names,
    runs=st.lists(runs, max_size=5),
    config=st.dictionaries(names | st.sampled_from(["command", "costs"]), json_values, max_size=4),
    notes=st.lists(names, max_size=2),
)
