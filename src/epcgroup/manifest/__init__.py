"""What people hand in: Kubernetes manifests and OCI bundles, read into pods and their EPC claims."""
