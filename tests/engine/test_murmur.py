"""Partitions of keys: the same as Kafka's own clients find."""

from __future__ import annotations

import pytest
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.partitioner import murmur2 as aiokafka_murmur2
from hypothesis import given
from hypothesis import strategies as st

from engine.murmur import murmur2, partition_of
from tests.engine.strategies import TEXT


@given(st.binary(max_size=40))
def test_the_hash_is_that_of_aiokafka(data: bytes) -> None:
    """Any bytes, of any length modulo four, hash as in the client that writes them."""
    assert murmur2(data) == aiokafka_murmur2(data)


@pytest.mark.parametrize(
    ("key", "expected"),
    [(b"21", -973932308), (b"foobar", -790332482), (b"a-little-bit-long-string", -985981536), (b"abc", 479470107)],
)
def test_the_hash_is_that_of_the_java_client(key: bytes, expected: int) -> None:
    """Values from Apache Kafka's own test of `Utils.murmur2`."""
    assert murmur2(key) == expected & 0xFFFFFFFF


@given(TEXT, st.integers(1, 200))
def test_the_partition_is_the_one_a_producer_chooses(key: str, partitions: int) -> None:
    """A key belongs to the partition where the default partitioner puts it."""
    numbers = list(range(partitions))
    assert partition_of(key, partitions) == DefaultPartitioner()(key.encode(), numbers, numbers)
