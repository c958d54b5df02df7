"""Hostile bytes for every decoder that meets bytes from outside.

    targets    what is fuzzed: the product's own entry points, as functions of bytes
    shapes     how a valid input is taken apart, and put together and signed again, so that a mutation reaches what
               stands behind the signature
    mutation   what is changed
    judge      what must hold of each input, and what is a find
    engines    who chooses the inputs: atheris (libFuzzer with coverage of the Python code) where it is installed, else
               a seeded random walk that keeps what ends somewhere new
    finds/     inputs that once broke something, by target; the test suite reads them all again

Three properties hold of every input of up to 10 KiB:

1. Only the error types that the target declares ever leave it, with a message of bounded length.
2. It costs no more than 64 MiB of memory and 100 ms of CPU time.
3. What is accepted encodes again to identical bytes. Where a format has no one encoding (TOML, JSON, the commands of a
   SUIT manifest) it is what was read that must survive a second round.

    make fuzz SECONDS=60                 all targets share the seconds
    python -m tests.fuzz TARGET FILE     reads one input again
"""

from __future__ import annotations
