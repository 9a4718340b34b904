"""The agent of an SGX node: holds pods and containers to their EPC, counts claims, serves metrics.

It knows cgroup2's files and Kubernetes' objects, nothing else: it does the same on a kernel that carries the series
and on a tree of ours. Data goes one way: source.py (pods) and discover.py (their cgroups) -> policy.py (what each
limit should be, pure) -> reconcile.py (writes it) -> metrics.py (what is). nri.py gives containers the same limits
before they start; device_plugin.py offers devices. It remembers nothing that files do not say, so that an agent that
was killed goes on where it stopped.
"""
