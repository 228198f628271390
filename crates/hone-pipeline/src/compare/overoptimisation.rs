//! Where what methods could see and what counts part: over-optimisation of a proxy.
//!
//! 1. Of two methods of which the proxy prefers one and the judge the other, beyond the intervals of both differences, an alarm tells. Intervals
//!    are a pair's own: of pairs that the proxy tells apart and that are equal to the judge, one in forty is told of by chance.
//! 2. Gains, in the proxy and for the judge, are those over the starting model with the same seed: the method of kind `start`. Without one there
//!    are no curves.
//! 3. Both published forms are fitted to the gains of best-of-N at several N and, apart from these, of what was trained; and to each method's
//!    own course, look by look ([`Course`]). The one with the smaller error describes them better, if there are more than a few distances.
//! 4. A divergence is the mean of log-ratios, which may come out below 0; it counts as 0 then.
//!
//! Controls are left out of pairs and of the curves over methods; along its own runs a control has its curve.
//!
//! Source: Gao, Schulman and Hilton, "Scaling laws for reward model overoptimization", 2023.

use hone_objective::overoptimisation::{Form, fit};
use hone_objective::statistics::Bootstrap;
use serde::{Deserialize, Serialize};

use super::course::{Course, Courses};
use super::results::{Figure, Measures, MethodResult, PerPrompt, difference};
use super::updates::LeftOut;
use crate::error::Result;

/// Two methods of which the proxy prefers one and the judge the other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alarm {
    /// The one with the higher proxy and the lower reward.
    pub method: String,
    /// The other.
    pub than: String,
    /// By how much its proxy is higher.
    pub proxy: Figure,
    /// By how much its reward is lower: below 0.
    pub reward: Figure,
}

/// One form of over-optimisation's curve, fitted to some gains.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// What the points are: `best-of`, `training` (every method that trains, with every seed), or the method along whose runs they lie.
    pub family: String,
    /// What is gained: `reward` or `proxy`.
    pub of: String,
    /// `best-of-n`, `d (alpha - beta d)`, or `reinforcement-learning`, `d (alpha - beta ln d)`, `d` the root of KL.
    pub form: String,
    /// See `form`.
    pub alpha: f64,
    /// See `form`.
    pub beta: f64,
    /// Root-mean-square error, in units of what is gained.
    pub rmse: f64,
    /// KL at which the curve is highest, if it comes down again.
    pub peak_kl: Option<f64>,
    /// The largest KL among the points: a peak beyond it was not seen.
    pub farthest_kl: f64,
    /// Points it was fitted to.
    pub points: u64,
}

/// Where what the methods could see and what counts part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Overoptimisation {
    /// Pairs of methods that were compared, each once.
    pub pairs: u64,
    /// Pairs to be looked at.
    pub alarms: Vec<Alarm>,
    /// Curves, where there are points enough.
    pub curves: Vec<Curve>,
    /// What methods that practise on samples did on their way, with each seed.
    pub courses: Vec<Course>,
    /// Methods (`METHOD`) and runs (`METHOD/SEED`) that practise on prompts and have no course, or a course without a curve, with the reason.
    pub left_out: Vec<LeftOut>,
}

impl Overoptimisation {
    /// The alarms in words: a sentence for each method that the proxy prefers to others and the judge does not, in the order of `alarms`.
    pub fn looks(&self) -> Vec<String> {
        let mut found: Vec<(&str, Vec<&str>)> = Vec::new();
        for alarm in &self.alarms {
            match found.iter_mut().find(|(method, _)| *method == alarm.method) {
                Some((_, others)) => others.push(&alarm.than),
                None => found.push((&alarm.method, vec![&alarm.than])),
            }
        }
        let told = found.into_iter().map(|(method, others)| match others[..] {
            [other] => format!("{method} is above {other} in what the methods could see, and below it in what counts"),
            _ => format!(
                "{method} is above {} others in what the methods could see, and below each of them in what counts: {}",
                others.len(),
                others.join(", ")
            ),
        });
        told.collect()
    }
}

/// Divergences with gains in proxy and reward.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Gains {
    pub kl: Vec<f64>,
    pub proxy: Vec<f64>,
    pub reward: Vec<f64>,
}

/// The two forms as `compare.json` calls them.
pub(super) const FORMS: [(&str, Form); 2] = [
    ("best-of-n", Form::BestOfN),
    ("reinforcement-learning", Form::ReinforcementLearning),
];

impl Gains {
    /// A point. An estimate of the divergence may lie below what it estimates: it counts as 0 then.
    pub fn add(&mut self, kl: f64, proxy: f64, reward: f64) {
        self.kl.push(kl.max(0.0));
        self.proxy.push(proxy);
        self.reward.push(reward);
    }

    /// Both forms fitted to both gains; too few points, or all at one divergence, make no curve.
    pub fn curves(&self, family: &str) -> Vec<Curve> {
        let mut curves = Vec::new();
        for (of, gain) in [("reward", &self.reward), ("proxy", &self.proxy)] {
            for (name, form) in FORMS {
                let Ok(fitted) = fit(form, &self.kl, gain) else {
                    continue;
                };
                curves.push(Curve {
                    family: family.to_owned(),
                    of: of.to_owned(),
                    form: name.to_owned(),
                    alpha: fitted.alpha,
                    beta: fitted.beta,
                    rmse: fitted.rmse,
                    peak_kl: fitted.peak().map(|peak| peak.kl),
                    farthest_kl: self.kl.iter().copied().fold(0.0, f64::max),
                    points: self.kl.len() as u64,
                });
            }
        }
        curves
    }
}

/// Gains of methods, a seed a point, over the starting model with the same seed; controls are left out. None without a start.
pub(super) fn gains(methods: &[MethodResult], chosen: &dyn Fn(&MethodResult) -> bool) -> Option<Gains> {
    let start = methods.iter().find(|method| method.kind == "start")?;
    let mut gains = Gains::default();
    for method in methods.iter().filter(|method| !method.control && chosen(method)) {
        for (own, start) in method.seeds.iter().zip(&start.seeds) {
            let (own, start): (&Measures, &Measures) = (&own.measures, &start.measures);
            let (Some(kl), Some(proxy), Some(before)) = (own.kl, own.proxy, start.proxy) else {
                continue;
            };
            gains.add(kl.mean, proxy.mean - before.mean, own.reward.mean - start.reward.mean);
        }
    }
    Some(gains)
}

/// Pairs of methods about which proxy and judge disagree beyond their intervals, and curves where there are points enough. Controls are left out.
pub(super) fn overoptimisation(
    methods: &[MethodResult],
    prompts: &[PerPrompt],
    courses: Courses,
    draws: &Bootstrap,
) -> Result<Option<Overoptimisation>> {
    if methods.iter().any(|method| method.measures.proxy.is_none()) {
        return Ok(None);
    }
    let shown: Vec<usize> = (0..methods.len()).filter(|&i| !methods[i].control).collect();
    let mut alarms = Vec::new();
    for &a in &shown {
        for &b in &shown {
            let (Some(own), Some(other)) = (&prompts[a].proxy, &prompts[b].proxy) else {
                continue;
            };
            if a == b {
                continue;
            }
            let proxy = difference(own, other, draws)?;
            let reward = difference(&prompts[a].reward, &prompts[b].reward, draws)?;
            if proxy.low > 0.0 && reward.high < 0.0 {
                alarms.push(Alarm {
                    method: methods[a].name.clone(),
                    than: methods[b].name.clone(),
                    proxy,
                    reward,
                });
            }
        }
    }
    let mut curves = Vec::new();
    if let Some(gains) = gains(methods, &|method| method.measures.kl_is_bound) {
        curves.extend(gains.curves("best-of"));
    }
    if let Some(gains) = gains(methods, &|method| method.trains) {
        curves.extend(gains.curves("training"));
    }
    for method in methods {
        let gains = super::course::gains(&courses.found, &method.name);
        curves.extend(gains.curves(&method.name));
    }
    Ok(Some(Overoptimisation {
        pairs: (shown.len() * shown.len().saturating_sub(1) / 2) as u64,
        alarms,
        curves,
        courses: courses.found,
        left_out: courses.left_out,
    }))
}

#[cfg(test)]
mod tests;
