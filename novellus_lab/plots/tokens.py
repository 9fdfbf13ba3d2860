"""Where tokens go: kinds of input, models, kinds of output."""

from __future__ import annotations

from typing import TYPE_CHECKING

from novellus_lab.plots.series import series
from novellus_lab.plots.theme import COLOURS, OTHERS, faded, figure, graph_objects, nothing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import plotly.graph_objects as plotly
    import polars as pl

_Kinds = dict[str, tuple[str, "Callable[[Mapping[str, int]], int]"]]
_INPUT: _Kinds = {
    "new input": (COLOURS[0], lambda row: row["input"] - row["cached"] - row["written"]),
    "input from the provider's cache": (COLOURS[5], lambda row: row["cached"]),
    "input written to its cache": (COLOURS[4], lambda row: row["written"]),
}
_OUTPUT: _Kinds = {
    "answers": (COLOURS[2], lambda row: row["output"] - row["reasoning"]),
    "reasoning": (COLOURS[3], lambda row: row["reasoning"]),
}
_COLUMNS = {
    "input": "input_tokens",
    "cached": "cached_input_tokens",
    "written": "cache_write_tokens",
    "output": "output_tokens",
    "reasoning": "reasoning_tokens",
}


def flow_figure(frame: pl.DataFrame, by: Sequence[str]) -> plotly.Figure:
    """Draw the tokens that providers were asked to read and wrote, as flows through the models."""
    go = graph_objects()
    title = "Where tokens go"
    groups = [
        (one, {name: int(one.rows[column].sum() or 0) for name, column in _COLUMNS.items()})
        for one in series(frame.with_columns(_all_tokens()), by, "all_tokens_")
    ]
    groups = [(one, sums) for one, sums in groups if sums["input"] or sums["output"]]
    if not groups:
        return nothing(title, "No provider has read or written a token in this time.")
    names = [*_INPUT, *(one.name for one, _ in groups), *_OUTPUT]
    colours = [colour for colour, _ in _INPUT.values()]
    colours += [OTHERS] * len(groups) + [colour for colour, _ in _OUTPUT.values()]
    links: list[tuple[int, int, int, str]] = []
    for number, (_, sums) in enumerate(groups, len(_INPUT)):
        for place, (colour, count) in enumerate(_INPUT.values()):
            links.append((place, number, max(0, count(sums)), colour))
        for place, (colour, count) in enumerate(_OUTPUT.values(), len(_INPUT) + len(groups)):
            links.append((number, place, max(0, count(sums)), colour))
    links = [link for link in links if link[2]]
    used = sorted({end for link in links for end in link[:2]})
    place_of = {old: new for new, old in enumerate(used)}
    read = sum(sums["input"] for _, sums in groups)
    written = sum(sums["output"] for _, sums in groups)
    told = f"{read:,} tokens of input, {written:,} of output; without answers of the cache"
    if "unknown" in frame.columns and (unknown := int(frame["unknown"].sum() or 0)):
        told += f"; of {unknown:,} answers the tokens are not known"
    drawn = figure(title, "", "", subtitle=told, height=max(340, 200 + 50 * len(groups)))
    drawn.add_trace(
        go.Sankey(
            arrangement="snap",
            valueformat=",.0f",
            valuesuffix=" tokens",
            textfont={"size": 12, "shadow": "none"},
            node={
                "label": [names[old] for old in used],
                "color": [colours[old] for old in used],
                "line": {"width": 0},
                "pad": 18,
                "thickness": 12,
            },
            link={
                "source": [place_of[source] for source, *_ in links],
                "target": [place_of[target] for _, target, *_ in links],
                "value": [value for _, _, value, _ in links],
                "color": [faded(colour, 0.35) for *_, colour in links],
            },
        )
    )
    drawn.update_layout(hovermode="closest")
    return drawn


def _all_tokens() -> pl.Expr:
    import polars as pl

    return (pl.col("input_tokens") + pl.col("output_tokens")).alias("all_tokens_")
