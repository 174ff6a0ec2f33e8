"""Speed, memory and scaling: `make bench` (or `python -m benchmarks`) measures, prints, and writes
docs/performance.md from its JSON."""
