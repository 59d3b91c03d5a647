"""A fault campaign: attacks on every command, as machines, disks and people make them, and what the program promised.

    python tests/faults [--long] [--only kills damage ...] [--seed N] [--case N]

Every attack is drawn from the seed, the category and its own number, and can be made again alone. See docs/reliability.md.
"""
