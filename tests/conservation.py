"""What holds in every run of a node, whatever its pods do: nothing is made of nothing, nothing is lost."""

from epcgroup.trace import Run
from epcgroup.units import PAGE_SIZE


def check_conservation(run: Run, longest_touch: float = 0.0) -> None:
    """`longest_touch`: seconds of the longest touch, which a slice always ends with. Limits must not change."""
    check_counts(run)
    assert not any(run.s_unattributed_bytes)
    worked = sum(p.busy_seconds + p.stall_seconds + p.build_seconds for p in run.pods)
    # The last slice of a CPU may end after the run, by a millisecond of building at most.
    assert worked + run.ksgxd_seconds + run.kworker_seconds <= run.cpus * (run.duration + 1.2e-3 + longest_touch)


def check_counts(run: Run) -> None:
    """What holds without a clock, of live runs too."""
    for pod in run.pods:
        limit = run.epc_bytes if pod.limit_bytes is None else min(pod.limit_bytes, run.epc_bytes)
        assert max(pod.s_usage_bytes) <= limit
        assert 0 <= pod.page_outs_by_others <= pod.page_outs
        # Every page-in brings back a page that went out; what is out fits into the enclaves.
        assert 0 <= pod.page_outs - pod.page_ins <= pod.use_bytes // PAGE_SIZE
        for samples in (pod.s_page_ins, pod.s_page_outs, pod.s_touches, pod.s_stall_seconds, pod.s_max_events):
            assert list(samples) == sorted(samples)
            assert len(samples) == len(run.times)
    used = [sum(pod.s_usage_bytes[i] for pod in run.pods) for i in range(len(run.times))]
    assert [u + f + r for u, f, r in zip(used, run.s_free_bytes, run.s_unattributed_bytes, strict=True)] == [
        run.epc_bytes
    ] * len(run.times)
