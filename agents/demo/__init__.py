"""The demo: a simulated shop, its customers and their channels, on a real broker and a real worker, live.

Start with `run`, which puts it together. `simulation` is the world (its people from `population`, what they want
from `demand`), `worker` the engine on a fast clock, `play` the conversation over Kafka, `rivals` other policies in
copies of the world, `tally` and `lessons` what is counted, `view`, `chart` and `words` what is shown.
"""
