"""Events come out the same however the bytes were cut."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from novellus_lab.providers.sse import Event, EventDecoder

_LINE = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=12)


def decode(pieces):
    decoder = EventDecoder()
    return [e for p in pieces for e in decoder.feed(p)] + decoder.finish()


@given(
    events=st.lists(st.tuples(st.none() | _LINE, st.lists(_LINE, min_size=1, max_size=3))),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    bom=st.booleans(),
    data=st.data(),
)
def test_any_events_in_any_pieces(events, end, bom, data):
    text = "\ufeff" if bom else ""
    for name, lines in events:
        text += f": a comment{end}"
        if name is not None:
            text += f"event: {name}{end}"
        text += "".join(f"data: {line}{end}" for line in lines) + end
    body = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=12)))
    edges = [0, *cuts, len(body)]
    pieces = [body[a:b] for a, b in itertools.pairwise(edges)]
    assert decode(pieces) == [Event(name, "\n".join(lines).encode()) for name, lines in events]


def test_the_space_after_the_colon_is_optional_and_only_one_is_taken():
    assert decode([b"data:a\n\ndata:  b\n\ndata\n\n"]) == [
        Event(None, b"a"), Event(None, b" b"), Event(None, b""),
    ]  # fmt: skip


def test_the_last_event_needs_no_blank_line():
    assert decode([b"event: x\ndata: 1\n"]) == decode([b"event: x\ndata: 1"]) == [Event("x", b"1")]


def test_a_name_belongs_to_its_event_only():
    assert decode([b"event: x\n\ndata: 1\n\n"]) == [Event(None, b"1")]
