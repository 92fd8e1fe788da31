"""Time and memory of every loss, one module a loss, run by asv (``make bench``)."""
