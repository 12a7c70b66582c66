"""Benchmarks: what the engine costs, always beside a reference measured in the same run.

May import every package of the project; none imports it. Start at `__main__`: one registry of sections, each a
file of its own. `workload` is what they are all fed with, `results` how it is written down.
"""

from __future__ import annotations

import os

# NumPy's linear algebra reads these when it is first imported, here and in every process started from here. More
# threads than one only make small matrices slower, and a core that is being measured beside busier.
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"
