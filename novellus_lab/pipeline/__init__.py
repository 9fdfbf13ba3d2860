"""The way of a request, from normalised call to logged answer (floor 2)."""
