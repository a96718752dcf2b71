"""Object stores, web servers and the hub."""
