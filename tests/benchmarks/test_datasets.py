"""Data sets come as they were locked, or not at all."""

from __future__ import annotations

import pytest

from benchmarks import datasets


def test_a_package_that_is_not_locked_is_not_fetched():
    """Nor is one whose name only begins like a locked one."""
    for name in ("requests", "ob"):
        with pytest.raises(KeyError, match=r"not in datasets\.lock"):
            datasets.fetch(name)


@pytest.mark.slow
def test_a_kept_file_that_is_not_the_locked_one_is_fetched_again(tmp_path, monkeypatch):
    """Nothing is read from a file whose hash differs; the second time nothing is fetched."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with datasets.fetch("lifetimes") as wheel:
        assert "lifetimes/datasets/CDNOW_master.txt" in wheel.namelist()
    (kept,) = (tmp_path / "batuta" / "datasets").iterdir()
    good = kept.read_bytes()
    kept.write_bytes(b"something else")
    datasets.fetch("lifetimes").close()
    assert kept.read_bytes() == good
    monkeypatch.setattr(datasets.subprocess, "run", None)
    datasets.fetch("lifetimes").close()
