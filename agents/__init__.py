"""The imperative shell: what touches Kafka, the network, the clock or a terminal. May import all packages."""

import os

# Numpy's linear algebra reads these once, when it is first imported. What is multiplied here is small, and its threads
# would take the cores of whoever runs beside: decisions, learning, the broker.
for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
