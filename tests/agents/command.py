"""The command line in this process, for tests."""

from __future__ import annotations

import io
import sys
import unittest.mock
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

from agents.cli import main


class Result(NamedTuple):
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


def batuta(*arguments: str | Path) -> Result:
    """Run a command in this process, through the same door as the script."""
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with (
        unittest.mock.patch.object(sys, "argv", ["batuta", *map(str, arguments)]),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as ended:
            code = ended.code
    return Result(code if isinstance(code, int) else 0, out.getvalue(), err.getvalue())
