use super::super::results::{SeedResult, Tokens, draws};
use super::*;

/// A method whose prompts all have about this proxy and reward.
fn method(name: &str, (proxy, reward, kl): (f64, f64, f64)) -> (MethodResult, PerPrompt) {
    let wobble = |p: usize| 0.01 * (p % 3) as f64;
    let prompts = PerPrompt {
        reward: (0..30).map(|p| reward + wobble(p)).collect(),
        proxy: Some((0..30).map(|p| proxy + wobble(p + 1)).collect()),
        kl: Some(vec![kl; 30]),
        win: vec![0.5; 30],
        length: vec![1.0; 30],
        ended: vec![1.0; 30],
        sampled: vec![1.0; 30],
        optimum: None,
    };
    let baseline = PerPrompt {
        reward: (0..30).map(wobble).collect(),
        ..prompts.clone()
    };
    let measures = Measures::new(&prompts, &baseline, None, Tokens::default(), &draws(100)).unwrap();
    let result = MethodResult {
        name: name.into(),
        kind: if kl == 0.0 { "start" } else { "grpo" }.into(),
        picked_by: None,
        control: false,
        trains: kl > 0.0,
        seeds: vec![SeedResult {
            seed: 1,
            measures: measures.clone(),
        }],
        measures,
        reward_seed_deviation: None,
    };
    (result, prompts)
}

#[test]
fn an_alarm_needs_proxy_and_judge_to_part_beyond_their_intervals() {
    let gain = |kl: f64| {
        let d = kl.sqrt();
        d * (1.5 - 0.5 * d.ln())
    };
    // Gains are over the start, whatever the baseline is
    let methods = [
        method("start", (0.5, 0.25, 0.0)),
        method("a", (1.0, 0.25 + gain(1.0), 1.0)),
        method("b", (2.0, 0.25 + gain(4.0), 4.0)),
        method("c", (3.0, 0.25 + gain(400.0), 400.0)),
    ];
    let (results, prompts): (Vec<MethodResult>, Vec<PerPrompt>) = methods.into_iter().unzip();
    let found = overoptimisation(&results, &prompts, Courses::default(), &draws(100))
        .unwrap()
        .unwrap();
    assert_eq!(found.pairs, 6);
    // b is above a in both; c has the highest proxy and the lowest reward
    let pairs: Vec<(&str, &str)> = found
        .alarms
        .iter()
        .map(|a| (a.method.as_str(), a.than.as_str()))
        .collect();
    assert_eq!(pairs, [("c", "a"), ("c", "b")], "{:?}", found.alarms);
    assert!(found.alarms.iter().all(|a| a.proxy.low > 0.0 && a.reward.high < 0.0));
    let looks = ["c is above 2 others in what the methods could see, and below each of them in what counts: a, b"];
    assert_eq!(found.looks(), looks);
    let one = Overoptimisation {
        alarms: vec![found.alarms[1].clone()],
        ..found.clone()
    };
    assert_eq!(
        one.looks(),
        ["c is above b in what the methods could see, and below it in what counts"]
    );
    let told: Vec<(&str, &str, &str, u64)> = found
        .curves
        .iter()
        .map(|c| (c.family.as_str(), c.of.as_str(), c.form.as_str(), c.points))
        .collect();
    let expected =
        ["reward", "proxy"].map(|of| ["best-of-n", "reinforcement-learning"].map(|form| ("training", of, form, 3)));
    assert_eq!(told, expected.concat());
    let (other, curve) = (&found.curves[0], &found.curves[1]);
    assert!(
        (curve.alpha - 1.5).abs() < 0.02 && (curve.beta - 0.5).abs() < 0.01,
        "{curve:?}"
    );
    assert!(curve.rmse < other.rmse && curve.farthest_kl == 400.0);
    // An estimate of the divergence below 0 counts as none
    let mut below = results.clone();
    if let Some(kl) = &mut below[1].seeds[0].measures.kl {
        kl.mean = -0.5;
    }
    let all = gains(&below, &|method| method.trains).unwrap();
    assert_eq!(all.kl, [0.0, 4.0, 400.0]);
    // Without a start nobody knows what was gained
    let (without, prompts_without) = (&results[1..], &prompts[1..]);
    let found = overoptimisation(without, prompts_without, Courses::default(), &draws(100))
        .unwrap()
        .unwrap();
    assert!(found.curves.is_empty() && found.alarms.len() == 2);

    let mut controls = results.clone();
    controls[3].control = true;
    let found = overoptimisation(&controls, &prompts, Courses::default(), &draws(100))
        .unwrap()
        .unwrap();
    assert!(found.alarms.is_empty() && found.curves.is_empty(), "{found:?}");
    let mut none = results;
    none[0].measures.proxy = None;
    assert_eq!(
        overoptimisation(&none, &prompts, Courses::default(), &draws(100)).unwrap(),
        None
    );
}
