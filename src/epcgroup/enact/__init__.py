"""A plan carried out by real processes: containers are clients of a private daemon, recorded as simulated runs are.

Stands on sim (the plan, its workloads, its limits) and on live (the daemon and its client); what a report makes of the
records is not its matter.
"""
