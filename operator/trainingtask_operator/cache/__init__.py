"""What the watches know: informers, trimmed stores, the assume cache and the work queue."""
