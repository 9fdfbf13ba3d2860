"""Requests that wait in PostgreSQL for a worker, on this machine or another."""
