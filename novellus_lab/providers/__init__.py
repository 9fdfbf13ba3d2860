"""LLM providers, each one file over its official SDK."""
