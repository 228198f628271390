//! Connections: taken, answered, and let go. What the three servers have in common.

use std::convert::Infallible;
use std::io;
use std::net::TcpListener as Socket;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use crate::bounds::{self, Patience};
use crate::patient::Patient;

/// How often it is asked whether a server is to end.
const GLANCE: Duration = Duration::from_millis(50);

/// Connections that are being answered.
pub(crate) struct Connections {
    open: JoinSet<()>,
}

/// Takes connections and answers them until `glance`, which is asked every few milliseconds, says true. Then nothing new is
/// taken, and those that are open end with the request that they are at.
///
/// # Errors
/// What `glance` says.
pub(crate) async fn accept<E>(
    listener: TcpListener,
    router: &Router,
    patience: Patience,
    mut glance: impl FnMut() -> Result<bool, E>,
) -> Result<Connections, E> {
    let (closing, closes) = watch::channel(());
    let mut open = JoinSet::new();
    let mut ticks = tokio::time::interval(GLANCE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut again = Instant::now();
    loop {
        tokio::select! {
            _ = ticks.tick() => if glance()? {
                break;
            },
            Some(_) = open.join_next(), if !open.is_empty() => {}
            accepted = listener.accept(), if open.len() < bounds::CONNECTIONS && Instant::now() >= again => {
                match accepted {
                    Ok((stream, _)) => {
                        open.spawn(connection(stream, router.clone(), (patience, closes.clone())));
                    }
                    Err(error) if is_clients(&error) => {}
                    // No more file handles or memory: that passes, but not at once
                    Err(_) => again = Instant::now() + GLANCE,
                }
            }
        }
    }
    // Whoever waits for a change hears that there will be none
    drop(closing);
    Ok(Connections { open })
}

impl Connections {
    /// Waits for all connections to end; false if some did not in this time.
    pub async fn end(&mut self, within: Duration) -> bool {
        let end = Instant::now() + within;
        while !self.open.is_empty() {
            if tokio::time::timeout_at(end, self.open.join_next()).await.is_err() {
                return false;
            }
        }
        true
    }
}

/// How a server of pages is run.
pub(crate) struct Manner {
    /// How long clients may take.
    pub patience: Patience,
    /// Threads on which pages wait for files.
    pub threads: usize,
    /// For answers that are being made when the server is to end.
    pub grace: Duration,
}

/// Answers on a runtime of its own until `stopped` says so.
///
/// # Errors
/// If the system refuses threads or the socket.
pub(crate) fn run(socket: Socket, router: &Router, manner: &Manner, stopped: &dyn Fn() -> bool) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(manner.threads)
        .build()?;
    let served = runtime.block_on(async {
        let listener = TcpListener::from_std(socket)?;
        let glance = || Ok::<bool, Infallible>(stopped());
        let Ok(mut connections) = accept(listener, router, manner.patience, glance).await;
        connections.end(manner.grace).await;
        Ok(())
    });
    runtime.shutdown_timeout(manner.grace);
    served
}

/// Whether a connection failed because of its other end, so that the next may be taken at once.
fn is_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, WouldBlock};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | Interrupted | WouldBlock
    )
}

/// Answers the requests of one connection until its client leaves or the server closes, within limits of headers and time.
async fn connection(stream: TcpStream, router: Router, (patience, mut closes): (Patience, watch::Receiver<()>)) {
    // Parts of a streamed answer are small and are to be seen at once
    let _ = stream.set_nodelay(true);
    let mut settings = http1::Builder::new();
    settings
        .timer(TokioTimer::new())
        .header_read_timeout(patience.headers)
        .max_buf_size(bounds::HEADER_BYTES);
    let stream = TokioIo::new(Patient::new(stream, patience.reader));
    let connection = settings.serve_connection(stream, TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    // A connection that breaks is its client's concern
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = closes.changed() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}
