"""Chaos: workers and brokers are killed, frozen and cut off while customers act, and every signal is accounted for.

One scenario, process by process:

    publisher ──► signals ──► workers, under a supervisor ──► decisions, rejects, profiles, identities ──► reader
                                 ▲ faults ▲ brokers

The publisher notes what the broker accepted, the reader what came out, and `verdict` compares the two.
"""
