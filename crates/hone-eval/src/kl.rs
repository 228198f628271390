//! KL divergence of a policy from its reference, estimated on the policy's own samples: the mean over responses of the
//! summed (log pi - log pi_ref), the unbiased estimator (k1) that reports use.

use crate::error::Error;

/// An estimate over responses.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct KlOfSamples {
    /// Nats a response.
    pub kl: f64,
    /// Standard error of that mean; 0 for one response.
    pub standard_error: f64,
    /// Responses.
    pub samples: u64,
}

/// `log_ratios[i]` is the sum over the tokens of response `i`, sampled from the policy, of their log-probability under the policy
/// less that under the reference.
///
/// # Errors
/// No response; a number that is not finite.
pub fn kl_of_samples(log_ratios: &[f64]) -> Result<KlOfSamples, Error> {
    if log_ratios.is_empty() {
        return Err(Error::Empty {
            metric: "kl_of_samples",
            what: "response that both models scored",
        });
    }
    if let Some(sample) = log_ratios.iter().position(|ratio| !ratio.is_finite()) {
        return Err(Error::LogRatio {
            sample,
            got: log_ratios[sample],
        });
    }
    let n = log_ratios.len() as f64;
    let kl = log_ratios.iter().sum::<f64>() / n;
    let squares: f64 = log_ratios.iter().map(|x| (x - kl) * (x - kl)).sum();
    let standard_error = if log_ratios.len() > 1 {
        (squares / (n - 1.0) / n).sqrt()
    } else {
        0.0
    };
    Ok(KlOfSamples {
        kl,
        standard_error,
        samples: log_ratios.len() as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_over_responses() {
        // 0.75 and -0.25: mean 0.25, deviation sqrt(0.5), error sqrt(0.5 / 2) = 0.5
        let expected = KlOfSamples {
            kl: 0.25,
            standard_error: 0.5,
            samples: 2,
        };
        assert_eq!(kl_of_samples(&[0.75, -0.25]).unwrap(), expected);
        assert_eq!(kl_of_samples(&[0.5]).unwrap().standard_error, 0.0);
    }

    #[test]
    fn what_has_no_mean_is_refused() {
        assert!(matches!(kl_of_samples(&[]), Err(Error::Empty { .. })));
        assert!(matches!(
            kl_of_samples(&[0.5, f64::NAN]),
            Err(Error::LogRatio { sample: 1, .. })
        ));
    }
}
