"""Where a run tells how it goes: a console, the task's status, the history row, the container's last message."""
