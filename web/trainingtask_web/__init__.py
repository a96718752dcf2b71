"""The web app: an HTTP API and pages over all runs of the history; tasks are created with the user's own token."""
