"""The simulated node: pods from manifests or scenarios on one machine, in simulated time."""
