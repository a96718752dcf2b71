"""The running operator: event handlers, workers, resync and backfill, wired to one queue and one cache."""
