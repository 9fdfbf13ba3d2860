"""Request ids sort by time and never repeat."""

from __future__ import annotations

import os

from novellus_lab.ids import uuid7


def test_ids_are_uuids_of_version_7_that_tell_their_time():
    one = uuid7(1_800_000_000_123_456_789)
    assert (one.version, one.variant) == (7, "specified in RFC 4122")
    assert one.int >> 80 == 1_800_000_000_123


def test_ids_sort_by_time_to_the_microsecond():
    times = range(1_800_000_000_000_000_000, 1_800_000_000_000_000_000 + 5_000_000, 1_000)
    ids = [uuid7(time_ns) for time_ns in times]
    assert ids == sorted(ids)


def test_ids_of_one_moment_differ():
    assert len({uuid7(1_800_000_000_000_000_000) for _ in range(10_000)}) == 10_000


def test_parent_and_forked_child_draw_different_ids():
    moment_ns = 1_800_000_000_000_000_000
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write_end, uuid7(moment_ns).bytes)
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read_end, 16) != uuid7(moment_ns).bytes
    os.close(read_end)
    os.close(write_end)
