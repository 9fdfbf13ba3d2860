"""The semantic cache: an answer to a question that means the same (floor 1)."""
