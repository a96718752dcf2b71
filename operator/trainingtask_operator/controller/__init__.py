"""The reconcile of one task: its Job, its status, its Events and history rows."""
