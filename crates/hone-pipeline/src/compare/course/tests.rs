use super::*;

/// A prompt of the half that chooses, or of the other.
fn of_half(choosing: bool, number: usize) -> usize {
    (0..).filter(|&task| chooses(task) == choosing).nth(number).unwrap()
}

/// Looks of 50 answers each to prompts of both halves, with these means and a deviation of about a tenth.
fn looks(means: &[(f64, f64, f64)]) -> Vec<Look> {
    let look = |(step, &(kl, proxy, reward)): (usize, &(f64, f64, f64))| Look {
        step: step as u64,
        seen: (0..50)
            .map(|i| {
                let wobble = 0.1 * ((i / 2 % 3) as f64 - 1.0);
                Seen {
                    task: of_half(i % 2 == 0, i / 2),
                    kl: Some(kl + wobble),
                    proxy: proxy + wobble,
                    reward: reward + wobble,
                }
            })
            .collect(),
    };
    means.iter().enumerate().map(look).collect()
}

#[test]
fn a_run_whose_proxy_rises_while_the_judge_falls_says_look_here() {
    let rising = |i: usize| (0.1 * i as f64, 0.2 * i as f64);
    // The judge's mean is highest at the sixth look
    let falling = |i: usize| (rising(i).0, rising(i).1, 1.0 - 0.02 * (i as f64 - 5.0).powi(2));
    let means: Vec<(f64, f64, f64)> = (0..16).map(falling).collect();
    let course = Course::new(("ppo", 2), &looks(&means), 3).unwrap();
    assert_eq!((course.best_step, course.points.len(), course.unjudged), (5, 16, 3));
    assert_eq!(course.tested_on, Some(25));
    let parted = course.parted.as_ref().unwrap();
    assert!(parted.proxy.low > 0.0 && parted.reward.high < 0.0, "{parted:?}");
    // From the first look on: the proxy's gain at the last is that of 15 updates
    let own = gains(std::slice::from_ref(&course), "ppo");
    assert!((own.proxy[15] - 3.0).abs() < 1e-9 && own.reward[0].abs() < 1e-12);
    assert!(own.kl.iter().all(|&kl| kl >= 0.0));
    assert_eq!(own.curves("ppo").len(), 4);
    // Both rise: nothing to be told
    let means: Vec<(f64, f64, f64)> = (0..16).map(|i| (rising(i).0, rising(i).1, rising(i).1)).collect();
    let course = Course::new(("ppo", 2), &looks(&means), 0).unwrap();
    assert_eq!((course.best_step, course.parted), (15, None));
    assert!(Course::new(("ppo", 2), &[], 0).is_none());
}

#[test]
fn few_prompts_are_not_compared() {
    let falling = |i: usize| (0.1 * i as f64, 0.2 * i as f64, -0.2 * i as f64);
    let means: Vec<(f64, f64, f64)> = (0..16).map(falling).collect();
    let mut few = looks(&means);
    for look in &mut few {
        // Seven prompts of the half that compares
        look.seen
            .retain(|seen| chooses(seen.task) || (0..7).any(|i| of_half(false, i) == seen.task));
    }
    let course = Course::new(("ppo", 1), &few, 0).unwrap();
    assert_eq!((course.best_step, course.tested_on, course.parted), (0, None, None));
    for look in &mut few {
        look.seen.push(Seen {
            task: of_half(false, 7),
            kl: None,
            proxy: 0.2 * look.step as f64,
            reward: -0.2 * look.step as f64,
        });
    }
    let course = Course::new(("ppo", 1), &few, 0).unwrap();
    assert_eq!(course.tested_on, Some(8));
    assert!(course.parted.is_some());
    // A look of which one answer has no log-ratio has none
    assert!(course.points.iter().all(|point| point.kl.is_none()));
    assert_eq!(gains(&[course], "ppo"), Gains::default());
}

#[test]
fn gains_need_a_look_at_the_start_and_begin_at_that_of_all_seeds() {
    let early = looks(&[(0.0, 1.0, 1.0), (1.0, 2.0, 2.0)]);
    let other = looks(&[(0.0, 3.0, 2.0), (1.0, 4.0, 3.0)]);
    let mut late = looks(&[(0.5, 1.0, 1.0), (1.0, 2.0, 2.0), (2.0, 3.0, 2.5)]);
    for look in &mut late {
        look.step += 4;
    }
    let late = Course::new(("ppo", 3), &late, 0).unwrap();
    assert_eq!(gains(std::slice::from_ref(&late), "ppo"), Gains::default());
    let courses = [
        Course::new(("ppo", 1), &early, 0).unwrap(),
        Course::new(("ppo", 2), &other, 0).unwrap(),
        late,
    ];
    let all = gains(&courses, "ppo");
    assert_eq!(all.kl.len(), 4);
    for (found, expected) in all.proxy.iter().zip([-1.0, 0.0, 1.0, 2.0]) {
        assert!((found - expected).abs() < 1e-9, "{all:?}");
    }
    assert!((all.reward[0] + 0.5).abs() < 1e-9);
    assert!(gains(&courses, "grpo").curves("grpo").is_empty());
}

/// A judge whose mean stays where it is, with answers to eight prompts a look that are alike within a prompt: however clear the proxy's rise,
/// hardly a run is told of.
#[test]
fn chance_is_seldom_told_of() {
    const RUNS: u64 = 200;
    // Prompts come once, or are few and come again and again
    for different in [usize::MAX, 60] {
        let mut told = 0;
        for run in 0..RUNS {
            let (prompts, answers) = (Key::new(run, "prompts", 0), Key::new(run, "answers", 0));
            let look = |step: usize| Look {
                step: step as u64,
                seen: (0..32)
                    .map(|i| {
                        let drawn = step * 8 + i / 4;
                        let task = match different {
                            usize::MAX => drawn,
                            different => (prompts.child(1).bits(drawn as u64) % different as u64) as usize,
                        };
                        let noise = 0.3_f64.sqrt() * prompts.normal(task as u64)
                            + 0.7_f64.sqrt() * answers.normal((step * 32 + i) as u64);
                        Seen {
                            task,
                            kl: None,
                            proxy: step as f64,
                            reward: noise,
                        }
                    })
                    .collect(),
            };
            let looks: Vec<Look> = (0..60).map(look).collect();
            let course = Course::new(("ppo", run), &looks, 0).unwrap();
            told += u64::from(course.parted.is_some());
        }
        assert!(told <= RUNS / 20, "{told} of {RUNS}, {different} prompts");
    }
}

#[test]
fn answers_of_which_nobody_knows_the_row_are_not_judged() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let said = |context: &str, last: &str, answer: u32| {
        let turns = format!(r#"{{"role":"assistant","content":"{context}"}},{{"role":"user","content":"{last}"}}"#);
        format!(r#"{{"prompt":[{{"role":"user","content":"Hi."}},{turns}],"answer":"{answer}"}}"#)
    };
    let rows = [
        said("Yes.", "Why?", 1),
        said("No.", "Why?", 1),
        said("Yes.", "When?", 2),
        said("Yes.", "When?", 2),
        said("Yes.", "Who?", 3),
        said("Yes.", "Who?", 4),
        said("Yes.", "Where?", 5),
    ];
    std::fs::write(dir.path().join("p.jsonl"), rows.join("\n")).unwrap();
    let tasks = Tasks::prompts(&[Source::new("p.jsonl")], dir.path())?;
    // Another context, and another answer, make rows that cannot be told apart; the same row twice is one
    let places = |unreadable: &[usize]| places(&tasks, &unreadable.iter().copied().collect());
    let expected = [("When?", Some(2)), ("Where?", Some(6)), ("Who?", None), ("Why?", None)];
    assert_eq!(
        places(&[]),
        expected.map(|(last, place)| (last.to_owned(), place)).into()
    );
    assert_eq!(places(&[6]).get("Where?"), None);
    Ok(())
}
