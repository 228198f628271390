//! Scalar mathematics and counter-based random numbers with the same bits everywhere.
//!
//! The standard library's `exp`, `ln` and `sin` call the system's mathematical library, whose results
//! differ between platforms and versions. Everything that ends in a result of hone uses these functions instead:
//! polynomials of plain multiplications and additions, which IEEE 754 rounds the same way on every machine.
#![forbid(unsafe_code)]

mod elementary;
mod rng;

pub use elementary::{cos, exp, ln, log_sigmoid, pow, sigmoid, sin, softplus};
pub use rng::{Key, Stream};
