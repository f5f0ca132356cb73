"""One pass on as many cores as help."""
CHUNK = 128


def in_chunks(run, x, cache, n_wanted, whole):
    if whole or len(x) <= CHUNK:
        return run(x, cache.layers, n_wanted)
    out = []
    import numpy as np
    for start in range(0, len(x), CHUNK):
        part = x[start:start+CHUNK]
        left = len(x) - start - len(part)
        out.append(run(part, cache.layers, max(0, min(len(part), n_wanted - left))))
    return np.concatenate(out)
