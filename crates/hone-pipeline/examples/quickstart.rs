//! The quickstart without the program: `quickstart OUT [smoke|default] [SEED] [KEY=VALUE]...`
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use hone_pipeline::quickstart::{QuickstartOptions, Scale, quickstart};
use hone_run::{Event, ExitStatus, Observer, Shutdown};

struct Lines(Mutex<(Instant, Instant)>);

impl Observer for Lines {
    fn event(&self, event: &Event) {
        let Ok(mut last) = self.0.lock() else { return };
        let at = last.0.elapsed().as_secs_f64();
        match event {
            Event::Step { step, total, .. } if step != total && last.1.elapsed().as_secs() < 5 => {
                return;
            }
            Event::Step {
                step,
                total,
                tokens,
                headline,
            } => eprintln!("{at:7.1} {step}/{total} {tokens} {headline:?}"),
            Event::Started { stage, step, total } => {
                eprintln!("{at:7.1} == {stage} {step}/{total}")
            }
            Event::Saved { .. } => return,
            other => eprintln!("{at:7.1} {other:?}"),
        }
        last.1 = Instant::now();
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let out = arguments.next().unwrap_or_else(|| "quickstart".into()).into();
    let scale = if arguments.next().as_deref() == Some("smoke") {
        Scale::Smoke
    } else {
        Scale::Default
    };
    let seed = arguments.next().and_then(|s| s.parse().ok()).unwrap_or(1);
    let set = arguments.collect();
    let options = QuickstartOptions {
        out,
        scale,
        seed,
        set,
        threads: None,
        allow_isa_change: false,
    };
    let observer = Arc::new(Lines(Mutex::new((Instant::now(), Instant::now()))));
    match quickstart(&options, observer, Shutdown::default()) {
        Ok(result) => {
            println!("{}", result.closing());
            let missed = result.expectation_missed();
            if missed {
                ExitStatus::ExpectationNotMet.into()
            } else {
                ExitStatus::Done.into()
            }
        }
        Err(error) => {
            eprintln!("{error}");
            error.exit_status().into()
        }
    }
}
