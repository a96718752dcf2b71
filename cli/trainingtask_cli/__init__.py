"""`kubectl trainingtask`: create, watch and compare tasks, and read their history."""
