"""The watched objects: informers, stores of trimmed objects, the assume cache, and the work queue."""
