//! The threads that work through the jobs: each job is checked by one, waits its turn, and by the other runs as a process and becomes a
//! model. So what is asked for while a job runs, or stops, is checked at once.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::jobs::child::{End, Process, Start};
use crate::jobs::cost;
use crate::jobs::follow::Follow;
use crate::jobs::prepare::CONFIG;
use crate::jobs::record::{Job, Method, Purpose, Status};
use crate::jobs::store::Told;
use crate::jobs::{Jobs, Tuned};
use crate::shared::{Shared, now};

/// How often a running job is looked at.
const GLANCE: Duration = Duration::from_millis(100);
/// How long a process that was asked to stop may take to save.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a process that stops without being asked to is started again.
const STARTS: usize = 5;
/// The code of a stage that stopped on request and can go on.
const RESUMABLE: i32 = 75;
/// The file of a job's folder to which its processes write what they say.
pub(super) const LOG: &str = "log.txt";
/// The file there for what `hone plan` finds.
pub(super) const PLAN: &str = "plan.json";
/// The run directory there.
pub(super) const RUN: &str = "run";
/// Characters of a sample that an event shows.
const SHOWN: usize = 400;

/// Works through the jobs of a server.
#[derive(Clone)]
pub(crate) struct Runner {
    pub shared: Arc<Shared>,
    pub jobs: Arc<Jobs>,
}

/// How a process came to its end here.
enum Outcome {
    /// It ended by itself.
    Ended(End),
    /// The server ends, or the job was cancelled; the process is gone.
    Stopped,
}

impl Runner {
    /// Works until the jobs are told to stop.
    pub fn run(self) {
        self.end_left();
        while !self.jobs.is_stopping() {
            match self.jobs.next() {
                Some(job) => self.train(&job),
                None => self.jobs.wait(2 * GLANCE),
            }
        }
    }

    /// Checks new jobs until the jobs are told to stop.
    pub fn check(self) {
        while !self.jobs.is_stopping() {
            self.check_new();
            self.jobs.wait(2 * GLANCE);
        }
    }

    /// Ends processes of jobs that were paused or cancelled and whose server was killed before they had stopped.
    fn end_left(&self) {
        let jobs = self.jobs.jobs().into_iter();
        let given_up = jobs.filter(|job| matches!(job.status, Status::Paused | Status::Cancelled));
        let run = |job: Job| self.jobs.store().job_folder(&job.id).join(RUN);
        let mut left: Vec<Process> = given_up.filter_map(|job| Process::left(&run(job))).collect();
        for process in &left {
            process.ask_to_stop();
        }
        let asked = Instant::now();
        for process in &mut left {
            while process.ended().is_none() && !self.jobs.is_stopping() {
                if asked.elapsed() > PATIENCE {
                    process.kill();
                    break;
                }
                self.jobs.wait(GLANCE);
            }
        }
    }

    /// Has the configurations of new jobs checked: `hone plan` reads what the stage would read, and counts its memory.
    fn check_new(&self) {
        for job in self.jobs.unchecked() {
            if self.jobs.is_stopping() {
                return;
            }
            let folder = self.jobs.store().job_folder(&job.id);
            let outcome = match self.jobs.plan(job.method, &folder) {
                Ok(process) => self.watch(&job.id, Status::ValidatingFiles, process, &mut || ()),
                Err(error) => {
                    self.not_started(&job.id, &error);
                    continue;
                }
            };
            match outcome {
                Outcome::Stopped => {}
                Outcome::Ended(End::Code(0)) => self.planned(&job, &folder),
                Outcome::Ended(end) => self.ended_badly(&job.id, &folder, end),
            }
        }
    }

    fn not_started(&self, id: &str, error: &std::io::Error) {
        let program = self.jobs.options.program.display();
        self.jobs
            .fail(id, "not_started", format!("{program} cannot be started: {error}"));
    }

    fn planned(&self, job: &Job, folder: &Path) {
        let plan = cost::read(&folder.join(PLAN));
        let needed = megabytes(&plan["peak_bytes"]);
        if plan["fits"] == false {
            let available = megabytes(&plan["machine"]["available"]);
            let message = format!(
                "the job needs about {needed} MB of memory, and {available} MB are available; give fewer tokens a conversation \
                 or a smaller batch"
            );
            return self.jobs.fail(&job.id, "insufficient_memory", message);
        }
        let seconds = plan["time"]["seconds"]
            .as_f64()
            .map(|seconds| format!(" and {:.0} seconds", seconds.ceil()));
        let message = format!(
            "The job is queued: {} steps, about {needed} MB of memory{}",
            plan["steps"],
            seconds.unwrap_or_default()
        );
        if self.jobs.change(&job.id, |job| job.status = Status::Queued).is_ok() {
            let told = Told {
                data: cost::costs(&plan),
                ..Told::info(&message)
            };
            self.jobs.tell(&job.id, &told);
        }
    }

    /// Runs a job to its end, or until the server ends.
    fn train(&self, job: &Job) {
        let folder = self.jobs.store().job_folder(&job.id);
        let run = folder.join(RUN);
        let began = match job.status {
            Status::Running => Ok("The job goes on"),
            _ => {
                let queued = (&[Status::Queued][..], "queued can be started");
                let changed = self
                    .jobs
                    .change_from(&job.id, queued, |job| job.status = Status::Running);
                changed.map(|_| {
                    if run.exists() {
                        "The job goes on"
                    } else {
                        "The job has started"
                    }
                })
            }
        };
        // Cancelled or paused in this moment
        let Ok(began) = began else { return };
        self.jobs.tell(&job.id, &Told::info(began));
        let mut news = News::new(self, job, &folder);
        for _ in 0..STARTS {
            let process = match Process::left(&run) {
                Some(left) => Ok(left),
                None => self.start(job, &folder),
            };
            let process = match process {
                Ok(process) => process,
                Err(error) => return self.not_started(&job.id, &error),
            };
            let outcome = self.watch(&job.id, Status::Running, process, &mut || news.tell());
            news.tell();
            match outcome {
                Outcome::Stopped => return,
                Outcome::Ended(End::Code(0)) => return self.succeed(job, &run),
                // Somebody else stopped it, or it is not known how it ended: it goes on, or says that it is done
                Outcome::Ended(End::Code(RESUMABLE) | End::Unknown) => {}
                Outcome::Ended(end) => return self.ended_badly(&job.id, &folder, end),
            }
        }
        let message = format!("its process was stopped {STARTS} times from outside");
        self.jobs.fail(&job.id, "interrupted", message);
    }

    fn start(&self, job: &Job, folder: &Path) -> std::io::Result<Process> {
        let arguments = self
            .jobs
            .arguments(&[job.method.stage(), CONFIG, "--runs", ".", "--name", RUN, "--json"]);
        Process::start(&Start {
            program: &self.jobs.options.program,
            arguments: &arguments,
            folder,
            output: None,
            log: LOG,
        })
    }

    /// Waits for a process, which is stopped where its job has another status or the server ends.
    fn watch(&self, id: &str, status: Status, mut process: Process, glance: &mut dyn FnMut()) -> Outcome {
        let mut asked: Option<Instant> = None;
        loop {
            if let Some(end) = process.ended() {
                return match asked {
                    Some(_) => Outcome::Stopped,
                    None => Outcome::Ended(end),
                };
            }
            let wanted = !self.jobs.is_stopping() && self.jobs.job(id).is_some_and(|job| job.status == status);
            match asked {
                None if !wanted => {
                    process.ask_to_stop();
                    asked = Some(Instant::now());
                }
                Some(since) if since.elapsed() > PATIENCE => {
                    process.kill();
                    return Outcome::Stopped;
                }
                _ => {}
            }
            glance();
            self.jobs.wait(GLANCE);
        }
    }

    /// Serves what a job came to.
    fn succeed(&self, job: &Job, run: &Path) {
        let name = job.result_name();
        let Some(parent) = self.shared.models.named(&job.model) else {
            let message = format!(
                "`{}` is not served here; start the server with it, and create the job again",
                job.model
            );
            return self.jobs.fail(&job.id, "model_not_found", message);
        };
        let tuned = Tuned {
            name: name.clone(),
            directory: self.jobs.result(&job.id),
            parent,
            models: self.shared.models.all(),
        };
        let loaded = self.shared.engine.load(Box::new(move |engine| tuned.load(engine)));
        let served = match loaded {
            Ok(served) => served,
            // With the next server
            Err(_) if self.jobs.is_stopping() => return,
            Err(reason) => {
                let message = format!("the tuned model cannot be served: {reason}");
                return self.jobs.fail(&job.id, "result_not_loaded", message);
            }
        };
        let metrics = metrics_of(run);
        let results = self.results(job, &metrics);
        let named = || {
            self.jobs.change(&job.id, |job| {
                job.status = Status::Succeeded;
                job.finished_at = Some(now());
                job.fine_tuned_model = Some(name.clone());
                job.trained_tokens = Some(trained_tokens(job.method, &metrics));
                job.result_files.extend(results);
            })
        };
        match self.shared.models.add(served, named) {
            Ok(_) => self.jobs.tell(
                &job.id,
                &Told::info(&format!("The job is done; its model is served as {name}")),
            ),
            // Cancelled in this moment, or not written down: a model that nothing names is not served
            Err((place, _)) => self.shared.engine.close(place),
        }
    }

    /// The metrics as a table, kept as a file. A full disk loses it, and ends nothing.
    fn results(&self, job: &Job, metrics: &[Map<String, Value>]) -> Option<String> {
        let incoming = self.jobs.store().incoming();
        let text = table(metrics);
        fs::write(&incoming, &text).ok()?;
        let filename = format!("{}-metrics.csv", job.id);
        let bytes = text.len() as u64;
        let kept = self
            .jobs
            .keep_file(&incoming, filename, (bytes, Purpose::FineTuneResults), None);
        kept.ok().map(|file| file.id)
    }

    fn ended_badly(&self, id: &str, folder: &Path, end: End) {
        let (code, otherwise) = match end {
            End::Code(2) => ("invalid_configuration", "the configuration cannot be used".to_owned()),
            End::Code(4) => ("diverged", "training diverged".to_owned()),
            End::Code(code) => ("training_failed", format!("its process ended with code {code}")),
            End::Signal(signal) => {
                let signal = signal.map(|number| format!(" {number}")).unwrap_or_default();
                (
                    "killed",
                    format!("its process was ended by signal{signal}; is there enough memory?"),
                )
            }
            End::Unknown => ("training_failed", "its process ended".to_owned()),
        };
        let message = match end {
            End::Signal(_) => otherwise,
            _ => last_error(&folder.join(LOG)).unwrap_or(otherwise),
        };
        self.jobs.fail(id, code, message);
    }
}

/// What the log ends with: the error, with its hint.
pub(super) fn last_error(log: &Path) -> Option<String> {
    let text = fs::read_to_string(log).ok()?;
    let at = text
        .rfind("\nerror: ")
        .map(|at| at + 1)
        .or_else(|| text.starts_with("error: ").then_some(0))?;
    let said = text[at..].trim_start_matches("error: ").trim();
    Some(said.chars().take(2000).collect())
}

fn megabytes(bytes: &Value) -> u64 {
    bytes.as_u64().unwrap_or_default().div_ceil(1_000_000)
}

/// What a running job is heard of.
struct News<'a> {
    runner: &'a Runner,
    job: &'a Job,
    metrics: Follow,
    samples: Follow,
    log: Follow,
}

impl<'a> News<'a> {
    fn new(runner: &'a Runner, job: &'a Job, folder: &Path) -> Self {
        let events = runner.jobs.store().events(&job.id);
        let run = folder.join(RUN);
        // A run that goes on has the lines again that it had before, to the byte: those that were told are passed over
        let told = |holds: &dyn Fn(&Value) -> bool| events.iter().filter(|event| holds(event)).count() as u64;
        Self {
            runner,
            job,
            metrics: Follow::new(run.join("metrics.jsonl"), told(&|event| event["type"] == "metrics")),
            samples: Follow::new(
                run.join("samples.jsonl"),
                told(&|event| !event["data"]["sample"].is_null()),
            ),
            log: Follow::from_its_end(folder.join(LOG)),
        }
    }

    fn tell(&mut self) {
        let (jobs, id) = (&self.runner.jobs, &self.job.id);
        let progress = format!("{}: ", self.job.method.stage());
        for line in self.log.news() {
            let said = line.trim();
            // Steps are told as metrics, and errors with the job's end
            if !said.is_empty() && !said.starts_with(&progress) && !said.starts_with("error: ") {
                jobs.tell(id, &Told::info(said));
            }
        }
        for line in self.metrics.news() {
            let Ok(Value::Object(metrics)) = serde_json::from_str(&line) else {
                continue;
            };
            let (message, data) = metrics_event(self.job.method, metrics);
            let told = Told {
                kind: "metrics",
                data,
                ..Told::info(&message)
            };
            jobs.tell(id, &told);
        }
        for line in self.samples.news() {
            let Ok(sample) = serde_json::from_str::<Value>(&line) else {
                continue;
            };
            let text = |key: &str| -> String { sample[key].as_str().unwrap_or_default().chars().take(SHOWN).collect() };
            let message = format!(
                "Step {}: {:?} is answered with {:?}",
                sample["step"],
                text("prompt"),
                text("response")
            );
            let told = Told {
                data: json!({"sample": sample}),
                ..Told::info(&message)
            };
            jobs.tell(id, &told);
        }
    }
}

/// A line of metrics as an event: in words, and with the names that OpenAI's clients know beside hone's own.
fn metrics_event(method: Method, metrics: Map<String, Value>) -> (String, Value) {
    let number = |name: &str| metrics.get(name).and_then(Value::as_f64);
    let train = match method {
        Method::Reinforcement => ("objective/scores", "score", "train_mean_reward"),
        Method::Supervised | Method::Dpo => ("train/loss", "training loss", "train_loss"),
    };
    let named = [train, ("eval/loss", "validation loss", "valid_loss")];
    let step = metrics.get("step").cloned().unwrap_or_default();
    let mut words = Vec::new();
    let mut data = Map::new();
    data.insert("step".into(), step.clone());
    for (own, word, known) in named {
        if let Some(value) = number(own) {
            words.push(format!("{word} {value:.4}"));
            data.insert(known.into(), value.into());
        }
    }
    data.extend(
        metrics
            .iter()
            .filter(|(name, _)| *name != "step")
            .map(|(name, value)| (name.clone(), value.clone())),
    );
    let words = if words.is_empty() {
        "further figures".to_owned()
    } else {
        words.join(", ")
    };
    (format!("Step {step}: {words}"), Value::Object(data))
}

/// The lines of a run's metrics.
fn metrics_of(run: &Path) -> Vec<Map<String, Value>> {
    let mut follow = Follow::new(PathBuf::from(run).join("metrics.jsonl"), 0);
    let lines = follow.news();
    lines
        .iter()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

/// Tokens that were learned from.
fn trained_tokens(method: Method, metrics: &[Map<String, Value>]) -> u64 {
    let name = match method {
        Method::Reinforcement => "rollout/tokens",
        Method::Supervised | Method::Dpo => "train/tokens",
    };
    metrics.iter().filter_map(|line| line.get(name)?.as_f64()).sum::<f64>() as u64
}

/// Metrics as a table: a line each, a column for every name, the step first.
fn table(metrics: &[Map<String, Value>]) -> String {
    let mut names: Vec<&str> = metrics.iter().flat_map(Map::keys).map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    names.retain(|name| *name != "step");
    names.insert(0, "step");
    let mut out = names.join(",");
    out.push('\n');
    for line in metrics {
        let cell = |name: &&str| line.get(*name).filter(|value| !value.is_null()).map(Value::to_string);
        let cells: Vec<String> = names.iter().map(|name| cell(name).unwrap_or_default()).collect();
        out.push_str(&cells.join(","));
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn metrics_are_told_under_both_names() {
        let (message, data) = metrics_event(
            Method::Supervised,
            line(json!({"step": 3, "grad_norm": 1.0, "train/loss": 2.5})),
        );
        assert_eq!(message, "Step 3: training loss 2.5000");
        assert_eq!(
            data,
            json!({"step": 3, "train_loss": 2.5, "grad_norm": 1.0, "train/loss": 2.5})
        );
        let (message, data) = metrics_event(Method::Dpo, line(json!({"step": 3, "eval/loss": 0.5})));
        assert_eq!(
            (message.as_str(), &data["valid_loss"]),
            ("Step 3: validation loss 0.5000", &json!(0.5))
        );
        let (message, data) = metrics_event(
            Method::Reinforcement,
            line(json!({"step": 1, "objective/scores": -1.0})),
        );
        assert_eq!(
            (message.as_str(), &data["train_mean_reward"]),
            ("Step 1: score -1.0000", &json!(-1.0))
        );
        assert_eq!(
            metrics_event(Method::Dpo, line(json!({"step": 3, "kl": 0.5}))).0,
            "Step 3: further figures"
        );
    }

    #[test]
    fn metrics_become_a_table_and_tokens_are_counted() {
        let metrics = [
            line(json!({"step": 1, "train/loss": 0.5, "train/tokens": 10.0})),
            line(json!({"step": 2, "train/loss": null, "train/tokens": 12.0})),
            line(json!({"step": 2, "eval/loss": 0.25})),
        ];
        assert_eq!(
            table(&metrics),
            "step,eval/loss,train/loss,train/tokens\n1,,0.5,10.0\n2,,,12.0\n2,0.25,,\n"
        );
        assert_eq!(trained_tokens(Method::Supervised, &metrics), 22);
        assert_eq!(trained_tokens(Method::Reinforcement, &metrics), 0);
    }

    #[test]
    fn the_error_of_a_log_is_its_last() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join(LOG);
        assert_eq!(last_error(&log), None);
        fs::write(
            &log,
            "reading\nerror: first\nmore\nerror: train.batch is 0\n  hint: raise it\n",
        )
        .unwrap();
        assert_eq!(last_error(&log).unwrap(), "train.batch is 0\n  hint: raise it");
        fs::write(&log, "no such line").unwrap();
        assert_eq!(last_error(&log), None);
    }
}
