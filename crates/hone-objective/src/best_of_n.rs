//! How far best-of-N moves from the policy it samples.
//!
//! Source: Stiennon et al., "Learning to summarize from human feedback", 2020, appendix G.3; Beirami et al., "Theoretical guarantees on
//! the best-of-n alignment policy", 2024, who show that the formula is an upper bound and tight only where samples do not repeat.
//!
//! Where it differs from other implementations:
//! 1. It is called a bound. It is often reported as the divergence itself, which it exceeds for short or repetitive answers.

use crate::Error;

/// Upper bound on KL(best-of-N || policy) in nats: `ln N - (N - 1)/N`.
///
/// # Errors
/// `n` of 0.
pub fn kl_bound(n: u64) -> Result<f64, Error> {
    if n == 0 {
        return Err(Error::TooFew {
            op: "best_of_n::kl_bound",
            what: "the set of samples",
            at_least: 1,
        });
    }
    let n = n as f64;
    Ok(hone_math::ln(n) - (n - 1.0) / n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        assert_eq!(kl_bound(1).unwrap(), 0.0);
        assert!((kl_bound(2).unwrap() - (std::f64::consts::LN_2 - 0.5)).abs() < 1e-15);
        assert!((kl_bound(4).unwrap() - 0.636_294_361_119_890_6).abs() < 1e-14);
        assert!(kl_bound(0).is_err());
    }

    /// The best of N of a uniform choice among M has probability ((M-k)^N - (M-k-1)^N) / M^N for the k-th best.
    #[test]
    fn bounds_the_exact_divergence_and_nearly_equals_it_where_samples_rarely_repeat() {
        let exact = |n: i32, m: usize| -> f64 {
            (0..m)
                .map(|k| {
                    let p = ((m - k) as f64 / m as f64).powi(n) - ((m - k - 1) as f64 / m as f64).powi(n);
                    if p > 0.0 { p * (p * m as f64).ln() } else { 0.0 }
                })
                .sum()
        };
        for n in [2, 4, 16] {
            let bound = kl_bound(n as u64).unwrap();
            assert!(exact(n, 5) < bound);
            assert!((exact(n, 100_000) - bound).abs() < 1e-3);
        }
    }
}
