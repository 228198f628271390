//! Fine-tuning by uploading a file: files and jobs that outlive the server, and the thread that works through them.
//!
//! A job is a run of a stage (`hone sft`, `hone preference`, `hone grpo`) in a process of its own, whose configuration is written
//! here ([`prepare`]) and whose run directory stands in the store ([`store`]). So a crash of either does not harm the other: a
//! stage that was stopped or killed goes on as it would have ([`runner`]). Results are adapters, which share the weights of the
//! model that they were made from ([`load`]).

mod child;
pub(crate) mod cost;
mod follow;
pub(crate) mod judging;
mod load;
mod prepare;
pub(crate) mod record;
pub(crate) mod rows;
mod runner;
pub(crate) mod store;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hone_compute::Precision;
use serde_json::Value;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

use crate::bounds::{PLANNED, UPLOADS};
use crate::error::ServeError;
use crate::models::InUse;
use crate::shared::now;

pub(crate) use load::Tuned;
pub(crate) use prepare::{PrepareError, Settings};
pub(crate) use runner::Runner;

use judging::Judging;
use prepare::Materials;
use record::{FileRecord, Job, JobError, Method, Purpose, Status};
use rows::RowError;
use store::{Store, StoreError, Told, unique_id};

/// Jobs that may wait or run.
const MOST_OPEN: usize = 100;

/// Where and how models are tuned.
#[derive(Clone, Debug)]
pub struct JobOptions {
    /// The folder for files and jobs. It is made where it is not there.
    pub directory: PathBuf,
    /// The program whose commands `sft`, `preference`, `grpo` and `plan` do the work.
    pub program: PathBuf,
    /// The directories of the models that are served, by name. A model without one cannot be tuned, nor judge.
    pub sources: BTreeMap<String, PathBuf>,
    /// Threads of a job; none: as many as the machine has.
    pub threads: Option<u32>,
    /// Bytes of an uploaded file, at most.
    pub file_bytes: u64,
}

impl JobOptions {
    /// 512 MiB, as in OpenAI's interface.
    pub const FILE_BYTES: u64 = 512 << 20;
}

/// All files and jobs.
pub(crate) struct Jobs {
    pub options: JobOptions,
    precision: Precision,
    store: Store,
    state: Mutex<State>,
    changed: Condvar,
    stopping: AtomicBool,
    uploads: Arc<Semaphore>,
    planning: Arc<Semaphore>,
    deleting: Arc<AsyncMutex<()>>,
}

struct State {
    files: Vec<FileRecord>,
    jobs: Vec<Job>,
    /// The next place.
    serial: u64,
}

/// A job that is asked for. What it names was looked up.
pub(crate) struct NewJob {
    pub model: String,
    /// The same, which is served until the job is made.
    pub served: InUse,
    /// The model's directory.
    pub start: PathBuf,
    pub method: Method,
    pub settings: Settings,
    pub judging: Option<Judging>,
    pub asked: Value,
    pub suffix: Option<String>,
    pub seed: u64,
    pub training_file: String,
    pub validation_file: Option<String>,
    pub metadata: Value,
}

/// Why a file is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TakeError {
    /// Its content.
    #[error(transparent)]
    Rows(#[from] RowError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a job is not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CreateError {
    /// What it is to be made from.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There are too many.
    #[error("{} jobs wait or run already; cancel one, or wait", MOST_OPEN)]
    TooMany,
}

/// Why a job is not cancelled, paused or resumed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CancelError {
    /// There is none of that name.
    #[error("there is no such job")]
    Absent,
    /// It has ended.
    #[error("the job has {} already; only one that waits or runs can be cancelled", .0.name())]
    Ended(Status),
    /// It is elsewhere than where this can be done.
    #[error("the job is {}; only one that is {expected}", .status.name())]
    Elsewhere {
        /// Where it is.
        status: Status,
        /// Where it should be, and what can be done there.
        expected: &'static str,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Jobs {
    /// Opens the folder.
    pub fn open(options: JobOptions, precision: Precision) -> Result<Self, ServeError> {
        let (store, files, jobs) = Store::open(&options.directory)?;
        let serials = files
            .iter()
            .map(|file| file.serial)
            .chain(jobs.iter().map(|job| job.serial));
        let state = State {
            serial: serials.max().map_or(0, |last| last + 1),
            files,
            jobs,
        };
        Ok(Self {
            options,
            precision,
            store,
            state: Mutex::new(state),
            changed: Condvar::new(),
            stopping: AtomicBool::new(false),
            uploads: Arc::new(Semaphore::new(UPLOADS)),
            planning: Arc::new(Semaphore::new(PLANNED)),
            deleting: Arc::default(),
        })
    }

    /// Where the model of a job stands once it is done.
    pub fn result(&self, id: &str) -> PathBuf {
        self.run_of(id).join("model")
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    /// A place for an upload, if one is free.
    pub fn uploads(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.uploads).try_acquire_owned().ok()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All files, the oldest first.
    pub fn files(&self) -> Vec<FileRecord> {
        self.state().files.clone()
    }

    pub fn file(&self, id: &str) -> Option<FileRecord> {
        self.state().files.iter().find(|file| file.id == id).cloned()
    }

    /// All jobs, the oldest first.
    pub fn jobs(&self) -> Vec<Job> {
        self.state().jobs.clone()
    }

    pub fn job(&self, id: &str) -> Option<Job> {
        self.state().jobs.iter().find(|job| job.id == id).cloned()
    }

    /// Looks at an upload that is complete, and takes it in.
    pub fn take_file(&self, incoming: &Path, filename: String) -> Result<FileRecord, TakeError> {
        let rows = rows::inspect(incoming)?;
        let bytes = incoming.metadata().map_err(RowError::Read)?.len();
        Ok(self.keep_file(incoming, filename, (bytes, Purpose::FineTune), Some(rows))?)
    }

    fn keep_file(
        &self,
        content: &Path,
        filename: String,
        (bytes, purpose): (u64, Purpose),
        rows: Option<(rows::Shape, u64)>,
    ) -> Result<FileRecord, StoreError> {
        let mut state = self.state();
        let file = FileRecord {
            id: unique_id("file-"),
            serial: state.serial,
            filename,
            bytes,
            created_at: now(),
            purpose,
            rows,
        };
        self.store.keep_file(&file, content)?;
        state.serial += 1;
        state.files.push(file.clone());
        Ok(file)
    }

    /// Removes a file; false if there is none. Jobs have what they need of it.
    pub fn remove_file(&self, id: &str) -> Result<bool, StoreError> {
        let mut state = self.state();
        let Some(place) = state.files.iter().position(|file| file.id == id) else {
            return Ok(false);
        };
        state.files.remove(place);
        self.store.remove_file(id).map(|()| true)
    }

    /// Makes a job. Its files are read and looked at line by line.
    pub fn create(&self, new: NewJob) -> Result<Job, CreateError> {
        let open = self.state().jobs.iter().filter(|job| !job.status.has_ended()).count();
        if open >= MOST_OPEN {
            return Err(CreateError::TooMany);
        }
        let id = unique_id("ftjob-");
        let folder = self.store.job_folder(&id);
        std::fs::create_dir_all(&folder).map_err(PrepareError::Write)?;
        let prepared = self.prepare(&new, &folder);
        if let Err(error) = prepared {
            self.store.abandon_job(&id);
            return Err(error.into());
        }
        let mut state = self.state();
        let job = Job {
            id,
            serial: state.serial,
            status: Status::ValidatingFiles,
            model: new.model,
            method: new.method,
            asked: new.asked,
            suffix: new.suffix,
            seed: new.seed,
            training_file: new.training_file,
            validation_file: new.validation_file,
            metadata: new.metadata,
            created_at: now(),
            finished_at: None,
            fine_tuned_model: None,
            deleted: false,
            trained_tokens: None,
            result_files: Vec::new(),
            error: None,
        };
        self.store.keep_job(&job)?;
        state.serial += 1;
        state.jobs.push(job.clone());
        drop(state);
        self.tell(
            &job.id,
            &Told::info("The job is created; its configuration is being checked"),
        );
        self.changed.notify_all();
        Ok(job)
    }

    /// Writes what a job's stage reads into a folder.
    fn prepare(&self, new: &NewJob, folder: &Path) -> Result<(), PrepareError> {
        let training = self.store.content(&new.training_file);
        let validation = new.validation_file.as_ref().map(|file| self.store.content(file));
        let materials = Materials {
            method: new.method,
            settings: &new.settings,
            judging: new.judging.as_ref(),
            seed: new.seed,
            training: &training,
            validation: validation.as_deref(),
            start: &new.start,
            context: new.served.context(),
            precision: self.precision,
        };
        prepare::prepare(&materials, folder)
    }

    /// The arguments of a process, with the threads that jobs have.
    fn arguments(&self, words: &[&str]) -> Vec<String> {
        let mut all: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        if let Some(threads) = self.options.threads {
            all.extend(["--threads".to_owned(), threads.to_string()]);
        }
        all
    }

    /// The one place to find out what a job would take, when it is free; none once nothing is begun any more.
    pub async fn planning(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.planning).acquire_owned().await.ok()
    }

    /// Gives a job up. One that runs is asked to stop, and its process is waited for before the next begins.
    pub fn cancel(&self, id: &str) -> Result<Job, CancelError> {
        let job = self.change(id, |job| {
            job.status = Status::Cancelled;
            job.finished_at = Some(now());
        })?;
        self.tell(id, &Told::info("The job is cancelled"));
        self.changed.notify_all();
        Ok(job)
    }

    /// Has a job wait until it is resumed. One that runs is asked to stop, saves where it is, and others come meanwhile.
    pub fn pause(&self, id: &str) -> Result<Job, CancelError> {
        let from = [Status::Queued, Status::Running];
        let expected = "queued or running can be paused";
        let job = self.change_from(id, (&from, expected), |job| job.status = Status::Paused)?;
        self.tell(id, &Told::info("The job is paused"));
        self.changed.notify_all();
        Ok(job)
    }

    /// Has a paused job go on when its turn comes, as if it had not been paused.
    pub fn resume(&self, id: &str) -> Result<Job, CancelError> {
        let expected = "paused can be resumed";
        let job = self.change_from(id, (&[Status::Paused], expected), |job| job.status = Status::Queued)?;
        self.tell(id, &Told::info("The job is queued again"));
        self.changed.notify_all();
        Ok(job)
    }

    /// Changes a job that has not ended.
    fn change(&self, id: &str, change: impl FnOnce(&mut Job)) -> Result<Job, CancelError> {
        self.change_from(id, (&[], ""), change)
    }

    /// The same of one that is at one of these; no places are all of them.
    fn change_from(
        &self,
        id: &str,
        (places, expected): (&[Status], &'static str),
        change: impl FnOnce(&mut Job),
    ) -> Result<Job, CancelError> {
        let mut state = self.state();
        let job = state
            .jobs
            .iter_mut()
            .find(|job| job.id == id)
            .ok_or(CancelError::Absent)?;
        let status = job.status;
        if !places.is_empty() && !places.contains(&status) {
            return Err(CancelError::Elsewhere { status, expected });
        }
        if status.has_ended() {
            return Err(CancelError::Ended(status));
        }
        let mut changed = job.clone();
        change(&mut changed);
        self.store.keep_job(&changed)?;
        *job = changed.clone();
        Ok(changed)
    }

    /// The job that made this model, deleted or not.
    pub fn maker(&self, model: &str) -> Option<Job> {
        let state = self.state();
        let made = |job: &&Job| job.fine_tuned_model.as_deref() == Some(model);
        state.jobs.iter().find(made).cloned()
    }

    /// A job that needs this model: one that has not ended and starts from it, or whose own model was made from it.
    pub fn needs(&self, model: &str) -> Option<Job> {
        let state = self.state();
        let needs = |job: &&Job| job.model == model && (!job.status.has_ended() || job.result().is_some());
        state.jobs.iter().find(needs).cloned()
    }

    /// The right to delete, of one at a time.
    pub async fn deleting(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.deleting).lock_owned().await
    }

    /// The model that was given to the server and whose files stand in the run directory of a job, if one does.
    pub fn given_from(&self, id: &str) -> Option<&str> {
        let whole = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        let run = whole(&self.run_of(id));
        let mut given = self.options.sources.iter();
        let (name, _) = given.find(|(_, directory)| whole(directory).starts_with(&run))?;
        Some(name)
    }

    /// Notes that the model that a job made is deleted. Its files go after that, so that what a crash leaves of them is removed by the
    /// next server.
    pub fn mark_deleted(&self, id: &str) -> Result<(), StoreError> {
        let mut state = self.state();
        if let Some(job) = state.jobs.iter_mut().find(|job| job.id == id) {
            let deleted = Job {
                deleted: true,
                ..job.clone()
            };
            self.store.keep_job(&deleted)?;
            *job = deleted;
        }
        drop(state);
        self.tell(id, &Told::info("The job's model is deleted"));
        Ok(())
    }

    /// The run directory of a job.
    fn run_of(&self, id: &str) -> PathBuf {
        self.store.job_folder(id).join(runner::RUN)
    }

    /// Whether there is something where the run directory of a job stands.
    pub fn has_run(&self, id: &str) -> bool {
        self.run_of(id).exists()
    }

    /// Removes the run directory of a job, if there is one.
    pub fn remove_run(&self, id: &str) -> Result<(), StoreError> {
        let path = self.run_of(id);
        match std::fs::remove_dir_all(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                let action = "delete the run";
                Err(StoreError::Io { action, path, source })
            }
            _ => Ok(()),
        }
    }

    /// Ends a job with an error, unless it has ended.
    fn fail(&self, id: &str, code: &str, message: String) {
        let error = JobError {
            code: code.to_owned(),
            message: message.clone(),
            param: None,
        };
        let failed = self.change(id, |job| {
            job.status = Status::Failed;
            job.finished_at = Some(now());
            job.error = Some(error);
        });
        if failed.is_ok() {
            self.tell(id, &Told::error(&message));
        }
    }

    /// Adds to what happened to a job. A full disk loses the line, and ends nothing.
    fn tell(&self, id: &str, told: &Told<'_>) {
        let _ = self.store.tell(id, told);
    }

    /// Asks the threads that work through the jobs to end. What runs is stopped and goes on with the next server.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.changed.notify_all();
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// The job to work on: one that was running, else the oldest that waits.
    fn next(&self) -> Option<Job> {
        let state = self.state();
        let of = |status: Status| state.jobs.iter().find(move |job| job.status == status);
        of(Status::Running).or_else(|| of(Status::Queued)).cloned()
    }

    /// Jobs whose configuration was not checked yet.
    fn unchecked(&self) -> Vec<Job> {
        let state = self.state();
        let unchecked = state.jobs.iter().filter(|job| job.status == Status::ValidatingFiles);
        unchecked.cloned().collect()
    }

    /// Waits until something changes, or for this long.
    fn wait(&self, most: Duration) {
        let state = self.state();
        if !self.is_stopping() {
            let _ = self.changed.wait_timeout(state, most);
        }
    }
}
