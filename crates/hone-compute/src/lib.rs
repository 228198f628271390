//! Tensors, kernels, the tape, the optimiser step, random numbers.
