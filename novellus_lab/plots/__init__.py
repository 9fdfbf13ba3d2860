"""Figures, drawn with Plotly (floor 4)."""
