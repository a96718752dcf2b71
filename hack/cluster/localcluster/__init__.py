"""Runs a single-node Kubernetes from the binaries under hack/cluster/go. Standard library only."""
