//! Intervals, and Wilson's for a share.
//!
//! Sources: Wilson, "Probable inference, the law of succession, and statistical inference", 1927; Wichura, "Algorithm AS 241: the
//! percentage points of the normal distribution", 1988 (PPND16).
//!
//! Where it differs from other implementations:
//! 1. No continuity correction.
//! 2. The number of successes may be fractional, so that ties can count as a half.

// The coefficients have the digits that were published.
#![allow(clippy::excessive_precision)]

use crate::{Error, check_setting};

/// An estimate with the ends of its confidence interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// The estimate itself.
    pub estimate: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Wilson's score interval of a share: `successes` of `trials` at this confidence (0.95, say).
///
/// # Errors
/// No trials; successes outside `0..=trials`; a confidence outside (0, 1).
pub fn wilson_interval(successes: f64, trials: u64, confidence: f64) -> Result<Interval, Error> {
    if trials == 0 {
        return Err(Error::TooFew {
            op: "wilson_interval",
            what: "the set of trials",
            at_least: 1,
        });
    }
    let n = trials as f64;
    check_setting(
        "wilson_interval",
        "successes",
        successes,
        (0.0..=n).contains(&successes),
        "0 to the number of trials",
    )?;
    check_confidence("wilson_interval", confidence)?;
    let z = normal_quantile(0.5 + 0.5 * confidence);
    let p = successes / n;
    let centre = (p + z * z / (2.0 * n)) / (1.0 + z * z / n);
    let half = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt() / (1.0 + z * z / n);
    // At no or only successes the end is the share itself, which rounding would miss
    let low = if successes == 0.0 {
        0.0
    } else {
        clip_unit(centre - half)
    };
    let high = if successes == n { 1.0 } else { clip_unit(centre + half) };
    Ok(Interval { estimate: p, low, high })
}

fn clip_unit(x: f64) -> f64 {
    crate::clip(x, 0.0, 1.0)
}

/// Refuses a confidence outside (0, 1).
pub(super) fn check_confidence(op: &'static str, confidence: f64) -> Result<(), Error> {
    check_setting(
        op,
        "confidence",
        confidence,
        confidence > 0.0 && confidence < 1.0,
        "more than 0 and less than 1",
    )
}

/// The point below which a standard normal number falls with probability `p`; infinite at 0 and 1, NaN outside.
pub fn normal_quantile(p: f64) -> f64 {
    let q = p - 0.5;
    if q.abs() <= 0.425 {
        let r = 0.180_625 - q * q;
        return q * horner(&CENTRE_ABOVE, r) / horner(&CENTRE_BELOW, r);
    }
    let tail = if q < 0.0 { p } else { 1.0 - p };
    if tail == 0.0 {
        return if q < 0.0 { f64::NEG_INFINITY } else { f64::INFINITY };
    }
    let r = (-hone_math::ln(tail)).sqrt();
    let x = if r <= 5.0 {
        horner(&MIDDLE_ABOVE, r - 1.6) / horner(&MIDDLE_BELOW, r - 1.6)
    } else {
        horner(&FAR_ABOVE, r - 5.0) / horner(&FAR_BELOW, r - 5.0)
    };
    if q < 0.0 { -x } else { x }
}

/// A polynomial, the highest power's coefficient first.
fn horner(coefficients: &[f64; 8], x: f64) -> f64 {
    coefficients.iter().fold(0.0, |sum, c| sum * x + c)
}

const CENTRE_ABOVE: [f64; 8] = [
    2.509_080_928_730_122_672_7e3,
    3.343_057_558_358_812_810_5e4,
    6.726_577_092_700_870_085_3e4,
    4.592_195_393_154_987_145_7e4,
    1.373_169_376_550_946_112_5e4,
    1.971_590_950_306_551_442_7e3,
    1.331_416_678_917_843_774_5e2,
    3.387_132_872_796_366_608e0,
];
const CENTRE_BELOW: [f64; 8] = [
    5.226_495_278_852_854_561e3,
    2.872_908_573_572_194_267_4e4,
    3.930_789_580_009_271_061e4,
    2.121_379_430_158_659_586_7e4,
    5.394_196_021_424_751_107_7e3,
    6.871_870_074_920_579_083e2,
    4.231_333_070_160_091_125_2e1,
    1.0,
];
const MIDDLE_ABOVE: [f64; 8] = [
    7.745_450_142_783_414_076_4e-4,
    2.272_384_498_926_918_458_33e-2,
    2.417_807_251_774_506_117_7e-1,
    1.270_458_252_452_368_382_58,
    3.647_848_324_763_204_605_04,
    5.769_497_221_460_691_405_5,
    4.630_337_846_156_545_295_9,
    1.423_437_110_749_683_577_34,
];
const MIDDLE_BELOW: [f64; 8] = [
    1.050_750_071_644_416_843_24e-9,
    5.475_938_084_995_344_946e-4,
    1.519_866_656_361_645_719_66e-2,
    1.481_039_764_274_800_745_9e-1,
    6.897_673_349_851_000_045_5e-1,
    1.676_384_830_183_803_849_4,
    2.053_191_626_637_758_821_87,
    1.0,
];
const FAR_ABOVE: [f64; 8] = [
    2.010_334_399_292_288_132_65e-7,
    2.711_555_568_743_487_578_15e-5,
    1.242_660_947_388_078_438_6e-3,
    2.653_218_952_657_612_309_3e-2,
    2.965_605_718_285_048_912_3e-1,
    1.784_826_539_917_291_335_8,
    5.463_784_911_164_114_369_9,
    6.657_904_643_501_103_777_2,
];
const FAR_BELOW: [f64; 8] = [
    2.044_263_103_389_939_785_64e-15,
    1.421_511_758_316_445_888_7e-7,
    1.846_318_317_510_054_681_8e-5,
    7.868_691_311_456_132_591e-4,
    1.487_536_129_085_061_485_25e-2,
    1.369_298_809_227_358_053_1e-1,
    5.998_322_065_558_879_376_9e-1,
    1.0,
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Percentage points as tables print them.
    #[test]
    fn normal_quantiles_of_the_tables() {
        let table = [
            (0.5, 0.0),
            (0.75, 0.674_489_750_196_081_7),
            (0.9, 1.281_551_565_544_600_4),
            (0.975, 1.959_963_984_540_054),
            (0.995, 2.575_829_303_548_900_4),
            (0.001, -3.090_232_306_167_813_5),
            (1e-20, -9.262_340_089_798_408),
        ];
        for (p, expected) in table {
            assert!(
                (normal_quantile(p) - expected).abs() < 2e-14,
                "{p}: {}",
                normal_quantile(p)
            );
        }
        assert_eq!(normal_quantile(0.0), f64::NEG_INFINITY);
        assert_eq!(normal_quantile(1.0), f64::INFINITY);
        assert!(normal_quantile(1.5).is_nan() && normal_quantile(-0.5).is_nan() && normal_quantile(f64::NAN).is_nan());
    }

    /// The interval's ends p solve (p - share)^2 = z^2 p (1 - p) / n.
    #[test]
    fn the_ends_solve_wilsons_equation() {
        let z = 1.959_963_984_540_054;
        for (successes, trials) in [(8.0, 10), (0.5, 7), (513.0, 1000), (1.0, 2)] {
            let out = wilson_interval(successes, trials, 0.95).unwrap();
            let n = trials as f64;
            for end in [out.low, out.high] {
                let left = (end - out.estimate).powi(2);
                assert!((left - z * z * end * (1.0 - end) / n).abs() < 1e-12);
            }
            assert!(out.low < out.estimate && out.estimate < out.high);
        }
    }

    #[test]
    fn a_published_case_and_the_ends() {
        // Newcombe, 1998, table I: 81 of 263 has the interval 0.2553 to 0.3662
        let out = wilson_interval(81.0, 263, 0.95).unwrap();
        assert!(
            (out.low - 0.2553).abs() < 5e-5 && (out.high - 0.3662).abs() < 5e-5,
            "{out:?}"
        );
        let none = wilson_interval(0.0, 20, 0.95).unwrap();
        assert!(none.low == 0.0 && (none.high - 0.1611).abs() < 5e-5);
        assert_eq!(wilson_interval(20.0, 20, 0.95).unwrap().high, 1.0);
        assert!(wilson_interval(0.0, 0, 0.95).is_err());
        assert!(wilson_interval(3.0, 2, 0.95).is_err());
        assert!(wilson_interval(1.0, 2, 1.0).is_err());
    }
}
