"""The history of runs in Postgres or SQLite.

Its public modules:

tables
    The rows, as SQLModel classes.
errors, engine
    The exceptions, and `open_history`.
rows, store, maintenance
    Build a row, write rows, and what the owner of the tables does beside: cancel orphaned runs, delete old ones.
queries, filters, access, read_models, pagination
    Read runs as far as an `AccessScope` allows.
roles, migrations.runner
    Database roles with row-level security, and the migration of the schema.
"""
