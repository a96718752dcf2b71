"""From rows of the history to what a page shows. Pure."""
