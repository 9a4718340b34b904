"""Ring 0: the EPC memory manager and its cgroup controller. No I/O, clock, threads or chance."""
