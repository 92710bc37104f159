"""Speed, each against a named peer in the same process, in paired and interleaved runs.

``python -m benchmarks.NAME`` runs one, ``python -m benchmarks`` (or ``make bench``) all of them. A benchmark prints a
table and writes JSON; the exit code is 0 whatever the numbers unless ``--strict`` is given.
"""
