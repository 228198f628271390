//! Sampling, the key-value cache, batching and best-of-N.
