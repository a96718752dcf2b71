"""The process that trains: its cgroup, memory, device, signals and imports."""
