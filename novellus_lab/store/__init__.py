"""The ground that everything stands on: the database, its schema, and the log's way into it."""
