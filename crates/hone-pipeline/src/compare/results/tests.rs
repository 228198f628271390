use super::*;

fn verdict(task: usize, reward: f64, tokens: usize) -> Verdict {
    Verdict {
        task,
        response: String::new(),
        tokens,
        sampled: 2 * tokens,
        ended: reward > 0.0,
        reward,
        proxy: None,
        kl: Some(0.5 * reward),
    }
}

/// Two prompts with two answers each.
fn two() -> (Vec<Verdict>, Vec<Verdict>) {
    let own = vec![
        verdict(0, 3.0, 4),
        verdict(0, 1.0, 2),
        verdict(1, 0.0, 6),
        verdict(1, 0.0, 6),
    ];
    let other = vec![
        verdict(0, 1.0, 3),
        verdict(0, 1.0, 3),
        verdict(1, 2.0, 5),
        verdict(1, 0.0, 1),
    ];
    (own, other)
}

#[test]
fn figures_by_hand() {
    let (own, other) = two();
    let optimum = Some(vec![3.0, 2.0]);
    let own = PerPrompt::new(&own, &other, optimum.clone(), 2);
    let baseline = PerPrompt::new(&other, &other, optimum, 2);
    assert_eq!(own.reward, [2.0, 0.0]);
    // 3 beats both, 1 ties with both: (1 + 1 + 1/2 + 1/2) / 4; then 0 loses to 2 and ties with 0
    assert_eq!(own.win, [0.75, 0.25]);
    assert_eq!(baseline.win, [0.5, 0.5]);
    let tokens = Tokens {
        sampled: Some(7.0),
        trained: None,
    };
    let found = Measures::new(&own, &baseline, None, tokens, &draws(200)).unwrap();
    assert_eq!((found.reward.mean, found.difference.mean), (1.0, 0.0));
    // Two prompts with 2 and 0: the mean of two draws is 0, 1 or 2
    assert_eq!((found.reward.low, found.reward.high), (0.0, 2.0));
    assert_eq!((found.difference.low, found.difference.high), (-1.0, 1.0));
    assert_eq!(
        (found.win_rate.mean, found.win_rate.low, found.win_rate.high),
        (0.5, 0.25, 0.75)
    );
    assert_eq!(found.share_of_optimum, Some(0.4));
    assert_eq!(
        (found.kl.unwrap().mean, found.kl_is_bound, found.proxy),
        (0.5, false, None)
    );
    assert_eq!(
        (found.mean_length, found.ended, found.tokens_per_answer),
        (4.5, 0.5, 9.0)
    );
    assert_eq!((found.tokens_sampled, found.tokens_trained), (Some(7.0), None));
    // The win goes along with nothing but length here: 0 longer and won, 3 longer and lost
    assert!((0.0..1.0).contains(&found.length_controlled_win_rate));

    let bound = Measures::new(&own, &baseline, Some(4), tokens, &draws(200)).unwrap();
    assert!(bound.kl_is_bound && (bound.kl.unwrap().mean - 0.636_294_361_119_890_6).abs() < 1e-12);
    let itself = Measures::new(&baseline, &baseline, None, tokens, &draws(200)).unwrap();
    assert_eq!(
        (itself.win_rate.low, itself.win_rate.high, itself.difference.high),
        (0.5, 0.5, 0.0)
    );
    assert_eq!(itself.length_controlled_win_rate, 0.5);
}

#[test]
fn the_interval_narrows_with_the_prompts_and_holds_the_mean() {
    // 400 prompts, half of them worth 1 and half 0: deviation 1/2, so 1.96 * 0.5 / 20 = 0.049 to either side
    let answers: Vec<Verdict> = (0..400).map(|i| verdict(i, (i % 2) as f64, 3)).collect();
    let own = PerPrompt::new(&answers, &answers, None, 1);
    let found = Measures::new(&own, &own, None, Tokens::default(), &draws(1000)).unwrap();
    assert!(
        (found.reward.low - 0.451).abs() < 0.006 && (found.reward.high - 0.549).abs() < 0.006,
        "{found:?}"
    );
}

#[test]
fn seeds_are_averaged_prompt_by_prompt() {
    let (own, other) = two();
    let (a, b) = (
        PerPrompt::new(&own, &other, None, 2),
        PerPrompt::new(&other, &other, None, 2),
    );
    let mean = PerPrompt::mean(&[a.clone(), b.clone()]);
    assert_eq!(mean.reward, [1.5, 0.5]);
    assert_eq!(mean.win, [0.625, 0.375]);
    assert_eq!((mean.optimum, mean.proxy), (None, None));
    let without = PerPrompt { kl: None, ..b };
    assert_eq!(PerPrompt::mean(&[a, without]).kl, None);
    let tokens = |sampled, trained| Tokens { sampled, trained };
    let found = Tokens::mean(&[tokens(Some(1.0), Some(2.0)), tokens(Some(3.0), None)]);
    assert_eq!(found, tokens(Some(2.0), None));
    assert_eq!(deviation(&[1.0, 3.0]), Some(2.0_f64.sqrt()));
    assert_eq!(deviation(&[1.0]), None);
}

#[test]
fn tokens_are_read_from_a_runs_metrics() {
    let dir = tempfile::tempdir().unwrap();
    let write = |text: &str| std::fs::write(dir.path().join("metrics.jsonl"), text).unwrap();
    let of = |epochs| Tokens::of_run(dir.path(), epochs).unwrap();
    // 8 responses a step, counted up, of mean length 2.5 and 3
    write(
        "{\"step\":1,\"completions/mean_length\":2.5,\"episode\":8}\n{\"step\":2,\"completions/mean_length\":3,\"episode\":16}\n",
    );
    assert_eq!((of(2.0).sampled, of(2.0).trained), (Some(44.0), Some(88.0)));
    // What is said of them goes before what can be told from their lengths; tokens that were trained on are said
    write("{\"step\":1,\"rollout/tokens\":70,\"completions/mean_length\":9,\"episode\":8,\"train/tokens\":30}\n");
    assert_eq!((of(2.0).sampled, of(2.0).trained), (Some(70.0), Some(30.0)));
    // Expert iteration: a round in which nothing is kept trains on nothing
    write("{\"step\":1,\"rollout/tokens\":40,\"train/target_tokens\":9}\n{\"step\":2,\"rollout/tokens\":50}\n");
    assert_eq!((of(3.0).sampled, of(3.0).trained), (Some(90.0), Some(9.0)));
    // Supervised tuning: targets, not all that is read; its evaluations have lengths but no episodes
    write(
        "{\"step\":1,\"train/tokens\":50,\"train/target_tokens\":20}\n{\"step\":1,\"completions/mean_length\":5,\"eval/loss\":1}\n",
    );
    assert_eq!((of(1.0).sampled, of(1.0).trained), (Some(0.0), Some(20.0)));
}

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
        kind: "grpo".into(),
        control: false,
        trains: true,
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
    let methods = [
        method("a", (1.0, gain(1.0), 1.0)),
        method("b", (2.0, gain(4.0), 4.0)),
        method("c", (3.0, gain(400.0), 400.0)),
    ];
    let (results, prompts): (Vec<MethodResult>, Vec<PerPrompt>) = methods.into_iter().unzip();
    let found = overoptimisation(&results, &prompts, &draws(100)).unwrap().unwrap();
    // b is above a in both; c has the highest proxy and the lowest reward
    let pairs: Vec<(&str, &str)> = found
        .alarms
        .iter()
        .map(|a| (a.method.as_str(), a.than.as_str()))
        .collect();
    assert_eq!(pairs, [("c", "a"), ("c", "b")], "{:?}", found.alarms);
    assert!(found.alarms.iter().all(|a| a.proxy.low > 0.0 && a.reward.high < 0.0));
    let curve = &found.curves[0];
    assert_eq!(
        (found.curves.len(), curve.family.as_str(), curve.points),
        (1, "training", 3)
    );
    assert!(
        (curve.alpha - 1.5).abs() < 0.02 && (curve.beta - 0.5).abs() < 0.01,
        "{curve:?}"
    );

    let mut controls = results.clone();
    controls[2].control = true;
    let found = overoptimisation(&controls, &prompts, &draws(100)).unwrap().unwrap();
    assert!(found.alarms.is_empty() && found.curves.is_empty(), "{found:?}");
    let mut none = results;
    none[0].measures.proxy = None;
    assert_eq!(overoptimisation(&none, &prompts, &draws(100)).unwrap(), None);
}
