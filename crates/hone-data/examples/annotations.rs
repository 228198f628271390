//! How long claiming and handing in take with many annotators at once.
//!
//!     cargo run --release -p hone-data --example annotations [ITEMS] [ANNOTATORS]
#![allow(clippy::print_stdout)]

use std::time::{Duration, Instant};

use hone_data::Message;
use hone_data::annotations::{Input, Judgement, NewItem, Response, Role, Settings, Store, Submission, TaskKind};

fn main() -> Result<(), hone_data::DataError> {
    let mut numbers = std::env::args().skip(1).filter_map(|text| text.parse::<usize>().ok());
    let (items, people) = (numbers.next().unwrap_or(5000), numbers.next().unwrap_or(24));
    let name = format!("annotations-{}.db", std::process::id());
    let path = std::env::temp_dir().join(name);
    let store = Store::open(&path)?;
    let settings = Settings {
        overlap: 3,
        gold_share: 0.0,
        ..Settings::default()
    };
    let project = store.put_project("bench", &settings, 0)?;
    let new = (0..items).map(|i| NewItem {
        kind: TaskKind::Rank,
        input: Input {
            prompt: vec![Message::user(format!("question {i}?"))],
            responses: (0..4).map(|k| Response::new(format!("answer {k} of {i}"))).collect(),
        },
        gold: None,
    });
    store.add_items(&project, new.collect())?;
    let mut annotators = Vec::new();
    for i in 0..people {
        let digest = Store::token_digest(&i.to_string());
        annotators.push(store.add_annotator(&i.to_string(), Role::Annotator, &digest, 0)?.id);
    }
    let started = Instant::now();
    let times: Vec<(Vec<Duration>, Vec<Duration>)> = std::thread::scope(|scope| {
        let (store, project) = (&store, &project);
        let threads: Vec<_> = annotators
            .into_iter()
            .map(|annotator| scope.spawn(move || work(store, project, annotator)))
            .collect();
        threads
            .into_iter()
            .filter_map(|thread| thread.join().ok()?.ok())
            .collect()
    });
    let wall = started.elapsed();
    let (claims, submits): (Vec<_>, Vec<_>) = times.into_iter().unzip();
    println!(
        "{items} items, overlap 3, {people} annotators: {:.1} s",
        wall.as_secs_f64()
    );
    for (what, times) in [("claim", claims), ("submit", submits)] {
        let mut times = times.concat();
        times.sort_unstable();
        let at = |share: f64| {
            times
                .get((times.len() as f64 * share) as usize)
                .map_or(0.0, |t| t.as_secs_f64() * 1e3)
        };
        println!(
            "{what:<8} {} calls, median {:.2} ms, 99% {:.2} ms",
            times.len(),
            at(0.5),
            at(0.99)
        );
    }
    drop(store);
    for ending in ["", "-wal", "-shm"] {
        let mut name = path.clone().into_os_string();
        name.push(ending);
        let _ = std::fs::remove_file(name);
    }
    Ok(())
}

type Times = (Vec<Duration>, Vec<Duration>);

fn work(
    store: &Store,
    project: &hone_data::annotations::Project,
    annotator: i64,
) -> Result<Times, hone_data::DataError> {
    let (mut claims, mut submits) = (Vec::new(), Vec::new());
    loop {
        let before = Instant::now();
        let Some(task) = store.claim(project, annotator, 0)? else {
            return Ok((claims, submits));
        };
        claims.push(before.elapsed());
        let judgement = Judgement {
            ranking: Some(task.shown.iter().map(|&index| vec![index]).collect()),
            ..Judgement::default()
        };
        let submission = Submission {
            lease: task.lease,
            annotator,
            judgement,
            started: 0,
            active: None,
        };
        let before = Instant::now();
        store.submit(submission, 0)?;
        submits.push(before.elapsed());
    }
}
