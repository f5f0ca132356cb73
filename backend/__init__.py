"""What is there for speed: matrix products, threads, memory. The results are those of plain NumPy."""
