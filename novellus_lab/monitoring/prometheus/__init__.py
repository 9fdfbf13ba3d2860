"""What Prometheus is told: of one process (`live`), or of all that log to a database (`log_reader`)."""
