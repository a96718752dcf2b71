"""`kubectl trainingtask`: what people do with tasks and their history, on the command line."""
