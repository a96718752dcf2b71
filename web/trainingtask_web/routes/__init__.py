"""The routes: the API, the pages, the old service's, and exports."""
