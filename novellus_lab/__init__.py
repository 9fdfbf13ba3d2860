"""novellus_lab: call LLMs from a notebook, log every call, find out what is worth it."""
