//! Datasets, mixtures, packing and importers.
