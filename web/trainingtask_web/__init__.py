"""The view over all runs: HTTP API and pages. Reads the history; a task is created through the Kubernetes API, as the person who asks."""
