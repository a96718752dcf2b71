"""Sinks of a run's reports: console, the task's status, the history row, the container's termination message."""
