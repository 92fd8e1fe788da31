"""Production PyTorch losses."""
