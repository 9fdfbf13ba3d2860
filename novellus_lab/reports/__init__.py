"""Reports: documents that stand alone, in the format of the file they are saved to (floor 4)."""
