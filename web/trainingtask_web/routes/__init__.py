"""The routes: the API, the pages, and those of the service that this project replaces."""
