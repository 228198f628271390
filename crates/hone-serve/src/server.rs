//! The server: its parts, its socket, and its end.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use hone_compute::{Engine, Precision};
use hone_generate::GeneratorOptions;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::accept::accept;
use crate::bounds::{self, Patience};
use crate::desk::Desk;
use crate::engine::{Handle, Worker};
use crate::error::ServeError;
use crate::jobs::{JobOptions, Jobs, Runner, Tuned};
use crate::metrics::Metrics;
use crate::models::{Models, Served, ServedModel};
use crate::openai::preferences::{AnnotationOptions, Preferences};
use crate::routes::router;
use crate::security::Gate;
use crate::shared::{Shared, now};

/// How often it is said what was done, where something was.
const SAID: Duration = Duration::from_secs(5);
/// For the last words of answers that were given up.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How a server is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// The address to listen on, or a name of it.
    pub host: String,
    /// The port; 0 for a free one.
    pub port: u16,
    /// Tokens, any of which lets a request in; none where none is asked for.
    pub tokens: Vec<String>,
    /// Other names that the server goes by, as `Host` says them.
    pub names: Vec<String>,
    /// Sequences decoded together on each model.
    pub batch: usize,
    /// Sequences and texts that are taken at once, those that wait for a place included.
    pub queue: usize,
    /// Tokens of ended conversations, of each model, that are kept to go on from.
    pub kept_tokens: usize,
    /// How long running answers may go on once the server is to end.
    pub grace: Duration,
    /// Where and how models are tuned; none: they are not.
    pub jobs: Option<JobOptions>,
    /// How long clients may take.
    pub patience: Patience,
    /// Where preferences of whoever chats are kept; none: they are not.
    pub annotations: Option<AnnotationOptions>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".into(),
            port: 8080,
            tokens: Vec::new(),
            names: Vec::new(),
            batch: 64,
            queue: 2048,
            kept_tokens: 16_384,
            grace: Duration::from_secs(10),
            jobs: None,
            patience: Patience::default(),
            annotations: None,
        }
    }
}

impl Options {
    /// Refuses what no server can be with models of these names: for those who have not loaded them yet.
    ///
    /// # Errors
    /// No models, or two of one name; an address that others reach, without a token; a host that has no address.
    pub fn check(&self, names: &[&str]) -> Result<(), ServeError> {
        if names.is_empty() {
            return Err(ServeError::NoModel);
        }
        for (i, name) in names.iter().enumerate() {
            if names[..i].contains(name) {
                return Err(ServeError::SameName {
                    name: (*name).to_owned(),
                });
            }
        }
        self.addresses().map(|_| ())
    }

    /// Where to listen: one of these.
    fn addresses(&self) -> Result<Vec<SocketAddr>, ServeError> {
        let name = self.host.trim_matches(['[', ']']);
        let addresses: Vec<SocketAddr> = match name.parse::<IpAddr>() {
            Ok(address) => vec![(address, self.port).into()],
            Err(_) => {
                let found = (name, self.port).to_socket_addrs();
                found.map_err(|source| self.failed(source))?.collect()
            }
        };
        if self.tokens.is_empty() && !addresses.iter().all(|address| address.ip().is_loopback()) {
            return Err(ServeError::OpenHost {
                host: self.host.clone(),
            });
        }
        Ok(addresses)
    }

    fn failed(&self, source: io::Error) -> ServeError {
        ServeError::Listen {
            host: self.host.clone(),
            port: self.port,
            source,
        }
    }
}

/// A server that has its socket and its models, and does not answer yet.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
    worker: Worker,
    grace: Duration,
    /// What is to be said once it runs.
    notes: Vec<String>,
}

impl Server {
    /// Takes the socket, and makes the models ready.
    ///
    /// # Errors
    /// No models, or two of one name; an address that others reach, without a token; a socket, a folder of jobs or a store of
    /// annotations that cannot be had.
    pub fn bind(engine: Engine, models: Vec<ServedModel>, options: &Options) -> Result<Self, ServeError> {
        let models: Vec<Arc<Served>> = models
            .into_iter()
            .map(|model| Served::new(model).map(Arc::new))
            .collect::<Result<_, _>>()?;
        options.check(&models.iter().map(|model| model.name.as_str()).collect::<Vec<_>>())?;
        let (listener, address) = listen(options)?;
        let given = models.len();
        let jobs = match &options.jobs {
            Some(jobs) => Some(Arc::new(Jobs::open(jobs.clone(), engine.precision())?)),
            None => None,
        };
        let preferences = match &options.annotations {
            Some(annotations) => Some(Preferences::open(annotations)?),
            None => None,
        };
        let (models, notes) = match &jobs {
            Some(jobs) => with_results(&engine, models, jobs),
            None => (models, Vec::new()),
        };
        let (handle, messages) = Handle::new();
        let metrics = Arc::new(Metrics::default());
        let fingerprint = format!(
            "hone-{}-{}-{:?}",
            env!("CARGO_PKG_VERSION"),
            engine.isa(),
            engine.precision()
        );
        let most_places = options.queue.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        let worker = Worker {
            engine,
            models: models.clone(),
            options: GeneratorOptions {
                max_batch: options.batch,
                kept_tokens: options.kept_tokens,
                ..GeneratorOptions::default()
            },
            messages,
            metrics: Arc::clone(&metrics),
        };
        let shared = Shared {
            models: Models::new(models, given),
            jobs,
            preferences,
            engine: handle,
            gate: Gate::new(&options.host, address.ip(), &options.names, &options.tokens),
            metrics,
            places: Arc::new(Semaphore::new(most_places)),
            most_places,
            patience: options.patience,
            desk: Desk::new(bounds::PREPARED, bounds::UNPREPARED),
            stopping: AtomicBool::new(false),
            started: now(),
            serial: AtomicU64::new(0),
            fingerprint: fingerprint.to_lowercase(),
        };
        Ok(Self {
            listener,
            address,
            shared: Arc::new(shared),
            worker,
            grace: options.grace,
            notes,
        })
    }

    /// Bytes that keys and values may take at most: of the sequences decoded together on each model, each as long as its
    /// context, and of the ended conversations that are kept.
    pub fn cache_bytes(&self) -> u64 {
        let number = match self.worker.engine.precision() {
            Precision::Bf16 => 2,
            _ => 4,
        };
        let options = &self.worker.options;
        let models = self.shared.models.all();
        let each = models.iter().map(|served| {
            let shape = served.transformer().architecture();
            let token = (2 * shape.layers * shape.kv_heads * shape.head_dim * number) as u64;
            let tokens = (options.max_batch as u64).saturating_mul(shape.context as u64);
            tokens.saturating_add(options.kept_tokens as u64).saturating_mul(token)
        });
        each.fold(0, u64::saturating_add)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stopped` says so; then lets running answers end for as long as the grace lasts, and gives up the rest
    /// with an error each. A job that runs is stopped and goes on with the next server. `log` hears every few seconds what was
    /// done.
    ///
    /// # Errors
    /// If the system refuses threads or the socket, or the engine's thread ends by itself.
    pub fn run(self, stopped: &dyn Fn() -> bool, log: &dyn Fn(&str)) -> Result<(), ServeError> {
        let refused = |action: &'static str| move |source: io::Error| ServeError::Io { action, source };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .max_blocking_threads(
                bounds::PREPARED + bounds::WRITTEN + bounds::UPLOADS + bounds::ASKED + bounds::PLANNED,
            )
            .build()
            .map_err(refused("start serving"))?;
        let (worker, handle) = (self.worker, self.shared.engine.clone());
        let worker = std::thread::Builder::new()
            .name("hone-engine".into())
            .spawn(move || worker.run())
            .map_err(refused("start the engine's thread"))?;
        let mut runners = Vec::new();
        if let Some(jobs) = &self.shared.jobs {
            let runner = Runner {
                shared: Arc::clone(&self.shared),
                jobs: Arc::clone(jobs),
            };
            for (name, work) in [
                ("hone-jobs", Runner::run as fn(Runner)),
                ("hone-checks", Runner::check as fn(Runner)),
            ] {
                let own = runner.clone();
                let thread = std::thread::Builder::new().name(name.into());
                let started = thread.spawn(move || work(own));
                runners.push(started.map_err(refused("start the jobs' threads"))?);
            }
        }
        self.notes.iter().for_each(|note| log(note));
        let owner = Owner {
            stopped,
            log,
            grace: self.grace,
        };
        let served = runtime.block_on(serve(self.listener, &self.shared, &owner, &worker));
        if let Some(jobs) = &self.shared.jobs {
            jobs.stop();
        }
        // They may wait for the engine, which therefore ends after them
        let ended: Vec<bool> = runners.into_iter().map(|runner| runner.join().is_ok()).collect();
        let jobs_ended = !ended.contains(&false);
        handle.stop();
        // What nobody waits for any more may go on to its end, but not hold up this one
        runtime.shutdown_timeout(LAST_WORDS);
        let ended = worker.join().is_ok();
        match served {
            Ok(()) if !ended => Err(ServeError::EngineEnded),
            Ok(()) if !jobs_ended => Err(ServeError::JobsEnded),
            served => served,
        }
    }
}

/// The models with those that earlier jobs left, and why some of these are not among them.
fn with_results(engine: &Engine, mut models: Vec<Arc<Served>>, jobs: &Jobs) -> (Vec<Arc<Served>>, Vec<String>) {
    let mut notes = Vec::new();
    for job in jobs.jobs() {
        // What a crash or a failure left of it
        if job.deleted && jobs.given_from(&job.id).is_none() {
            notes.extend(jobs.remove_run(&job.id).err().map(|error| error.to_string()));
        }
        let Some(name) = job.result().map(String::from) else {
            continue;
        };
        if models.iter().any(|served| served.name == name) {
            continue;
        }
        let Some(parent) = models.iter().find(|served| served.name == job.model).cloned() else {
            notes.push(format!(
                "{name} is not served: it was made from {}, which is not",
                job.model
            ));
            continue;
        };
        let tuned = Tuned {
            name: name.clone(),
            directory: jobs.result(&job.id),
            parent,
            models: models.clone().into(),
        };
        match tuned.load(engine) {
            Ok(served) => models.push(Arc::new(served)),
            Err(reason) => notes.push(format!("{name} is not served: {reason}")),
        }
    }
    (models, notes)
}

/// Takes a socket where the options say.
pub(crate) fn listen(options: &Options) -> Result<(TcpListener, SocketAddr), ServeError> {
    let addresses = options.addresses()?;
    let failed = |source: io::Error| options.failed(source);
    let listener = TcpListener::bind(&*addresses).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

/// Who runs the server.
struct Owner<'a> {
    stopped: &'a dyn Fn() -> bool,
    log: &'a dyn Fn(&str),
    grace: Duration,
}

/// What was done up to a moment.
struct Done {
    at: Instant,
    requests: u64,
    tokens: u64,
}

impl Done {
    fn new(metrics: &Metrics) -> Self {
        Self {
            at: Instant::now(),
            requests: metrics.requests(),
            tokens: metrics.sampled_tokens.load(Ordering::Relaxed),
        }
    }

    /// A line on what was done since, where something was.
    fn since(&self, before: &Self, metrics: &Metrics) -> Option<String> {
        let (requests, tokens) = (self.requests - before.requests, self.tokens - before.tokens);
        let seconds = (self.at - before.at).as_secs_f64().max(1e-9);
        let running = metrics.running.load(Ordering::Relaxed);
        let waiting = metrics.waiting.load(Ordering::Relaxed) + metrics.unread.load(Ordering::Relaxed);
        (requests + tokens > 0).then(|| {
            let rate = tokens as f64 / seconds;
            format!("{requests} requests answered, {running} sequences running, {waiting} waiting, {rate:.0} tokens/s")
        })
    }
}

async fn serve(
    listener: TcpListener,
    shared: &Arc<Shared>,
    owner: &Owner<'_>,
    worker: &JoinHandle<()>,
) -> Result<(), ServeError> {
    let listener = tokio::net::TcpListener::from_std(listener).map_err(|source| ServeError::Io {
        action: "listen",
        source,
    })?;
    let mut before = Done::new(&shared.metrics);
    let glance = || {
        if (owner.stopped)() {
            return Ok(true);
        }
        if before.at.elapsed() >= SAID {
            let done = Done::new(&shared.metrics);
            if let Some(line) = done.since(&before, &shared.metrics) {
                (owner.log)(&line);
            }
            before = done;
        }
        if worker.is_finished() {
            return Err(ServeError::EngineEnded);
        }
        Ok(false)
    };
    // 1. Answer
    let mut connections = accept(listener, &router(shared), shared.patience, glance).await?;
    // 2. Take nothing new, and let answers end
    shared.stopping.store(true, Ordering::Relaxed);
    if let Some(jobs) = &shared.jobs {
        jobs.stop();
    }
    if !connections.end(owner.grace).await {
        // 3. Those that did not are told
        shared.engine.stop();
        connections.end(LAST_WORDS).await;
    }
    Ok(())
}
