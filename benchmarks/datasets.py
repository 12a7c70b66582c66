"""Real data sets as published packages carry them: fetched once by pip, hash checked, read from the wheel.

`lifetimes` carries CDNOW (a music shop's purchases), `obp` the small sample of Open Bandit (a fashion shop's
randomised recommendations; Saito et al. 2020). `datasets.lock` pins both.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

LOCK = Path(__file__).with_name("datasets.lock")


def fetch(package: str) -> zipfile.ZipFile:
    """The wheel of a package of `datasets.lock`, open for reading; the caller closes it.

    Kept under the user's cache directory, and checked against the lock each time it is opened.
    Raises KeyError for a package that is not locked, subprocess.CalledProcessError when pip cannot fetch it.
    """
    entry = _entry(package)
    kept = _directory() / f"{package}-{hashlib.sha256(entry.encode()).hexdigest()[:16]}.whl"
    if not kept.exists() or _sha256(kept) not in entry:
        _download(entry, kept)
    return zipfile.ZipFile(kept)


def _entry(package: str) -> str:
    """The lines of the lock about one package: its version and hash."""
    found = re.search(rf"^{re.escape(package)}==.*(?:\n[ \t].*)*", LOCK.read_text(), re.MULTILINE)
    if found is None:
        raise KeyError(f"{package!r} is not in {LOCK.name}; add it there with its version and hash")
    return found[0]


def _directory() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "batuta" / "datasets"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _download(entry: str, kept: Path) -> None:
    """Into a directory of its own first, so that nobody ever opens half a file."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
        requirements = Path(scratch) / "requirements.txt"
        requirements.write_text(entry)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        hashed = ["--require-hashes", "--only-binary", ":all:", "--dest", scratch, "--requirement", str(requirements)]
        subprocess.run([*pip, *hashed], check=True)
        next(Path(scratch).glob("*.whl")).replace(kept)
