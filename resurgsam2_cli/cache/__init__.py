"""Changes to the cache of weight files: adding, fetching, removing. Reading it is :mod:`weights.store`."""
