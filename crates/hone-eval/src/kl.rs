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

/// `policy[i][t]` and `reference[i][t]` are log-probabilities of token `t` of response `i`, sampled from the policy.
///
/// # Errors
/// No response; lengths that differ; a number that is not finite.
pub fn kl_of_samples(policy: &[&[f32]], reference: &[&[f32]]) -> Result<KlOfSamples, Error> {
    if policy.is_empty() || policy.len() != reference.len() {
        return Err(Error::Empty {
            metric: "kl_of_samples",
            what: "response that both models scored",
        });
    }
    let mut sums = Vec::with_capacity(policy.len());
    for (sample, (p, r)) in policy.iter().zip(reference).enumerate() {
        if p.len() != r.len() {
            return Err(Error::Lengths {
                sample,
                policy: p.len(),
                reference: r.len(),
            });
        }
        let mut sum = 0.0;
        for (token, (&p, &r)) in p.iter().zip(*r).enumerate() {
            if let Some(got) = [p, r].into_iter().find(|x| !x.is_finite()) {
                return Err(Error::NotFinite {
                    metric: "kl_of_samples",
                    item: sample,
                    token,
                    got,
                });
            }
            sum += f64::from(p) - f64::from(r);
        }
        sums.push(sum);
    }
    let n = sums.len() as f64;
    let kl = sums.iter().sum::<f64>() / n;
    let squares: f64 = sums.iter().map(|x| (x - kl) * (x - kl)).sum();
    let standard_error = if sums.len() > 1 {
        (squares / (n - 1.0) / n).sqrt()
    } else {
        0.0
    };
    Ok(KlOfSamples {
        kl,
        standard_error,
        samples: sums.len() as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_over_tokens_and_averages_over_responses() {
        // Differences: 0.5 + 0.25 = 0.75, and -0.25: mean 0.25, deviation sqrt(0.5), error sqrt(0.5 / 2) = 0.5
        let got = kl_of_samples(&[&[-1.0, -2.0], &[-1.0]], &[&[-1.5, -2.25], &[-0.75]]).unwrap();
        assert_eq!(
            got,
            KlOfSamples {
                kl: 0.25,
                standard_error: 0.5,
                samples: 2
            }
        );
    }

    #[test]
    fn one_model_against_itself_is_exactly_zero() {
        let sample: &[f32] = &[-0.1, -3.7, -12.0];
        assert_eq!(kl_of_samples(&[sample], &[sample]).unwrap().kl, 0.0);
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        assert!(matches!(kl_of_samples(&[], &[]), Err(Error::Empty { .. })));
        assert!(matches!(
            kl_of_samples(&[&[1.0]], &[&[]]),
            Err(Error::Lengths {
                sample: 0,
                policy: 1,
                reference: 0
            })
        ));
        let nan = kl_of_samples(&[&[-1.0, f32::NAN]], &[&[-1.0, -1.0]]);
        assert!(matches!(nan, Err(Error::NotFinite { item: 0, token: 1, .. })));
    }
}
