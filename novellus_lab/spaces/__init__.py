"""`lab.cache` and its siblings: what stands in a lab's namespaces (floor 5)."""
