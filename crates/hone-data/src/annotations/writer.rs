//! The one thread that writes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use rusqlite::{Connection, TransactionBehavior};

use super::problem::AnnotationProblem;

/// The most requests that are written in one transaction.
const BATCH: usize = 64;

/// Something to write, for somebody who waits.
trait Request: Send {
    /// Does the work. False where it failed, and what it wrote is to be taken back.
    fn work(&mut self, connection: &Connection) -> bool;

    /// Answers, once it is known whether the work is on the disk.
    fn answer(self: Box<Self>, committed: Result<(), AnnotationProblem>);
}

struct Asked<T, F> {
    work: Option<F>,
    result: Option<Result<T, AnnotationProblem>>,
    give: SyncSender<Result<T, AnnotationProblem>>,
}

impl<T, F> Request for Asked<T, F>
where
    T: Send,
    F: FnOnce(&Connection) -> Result<T, AnnotationProblem> + Send,
{
    fn work(&mut self, connection: &Connection) -> bool {
        let result = match self.work.take() {
            // A defect in one request is no reason to refuse all that come after it
            Some(work) => catch_unwind(AssertUnwindSafe(|| work(connection))).unwrap_or(Err(AnnotationProblem::Defect)),
            None => Err(AnnotationProblem::Closed),
        };
        self.result.insert(result).is_ok()
    }

    fn answer(self: Box<Self>, committed: Result<(), AnnotationProblem>) {
        let answer = match (self.result, committed) {
            // What the work itself says is nearer to the cause
            (Some(Err(problem)), _) | (_, Err(problem)) => Err(problem),
            (Some(Ok(value)), Ok(())) => Ok(value),
            (None, Ok(())) => Err(AnnotationProblem::Closed),
        };
        // Whoever asked may be gone
        let _ = self.give.send(answer);
    }
}

/// A handle on the thread. Dropping it ends the thread after what was asked before.
pub(super) struct Writer {
    requests: Option<Sender<Box<dyn Request>>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// A system that has no thread to give.
    pub(super) fn start(connection: Connection) -> Result<Self, AnnotationProblem> {
        let (requests, queue) = channel();
        let thread = std::thread::Builder::new()
            .name("annotations".into())
            .spawn(move || run(connection, &queue))
            .map_err(|_| AnnotationProblem::Closed)?;
        Ok(Self {
            requests: Some(requests),
            thread: Some(thread),
        })
    }

    /// Runs `work` in a transaction and waits until it is on the disk.
    ///
    /// # Errors
    /// What `work` returns, in which case nothing of it is kept; what the transaction says.
    pub(super) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, AnnotationProblem> + Send + 'static,
    ) -> Result<T, AnnotationProblem> {
        let (give, take) = sync_channel(1);
        let request = Box::new(Asked {
            work: Some(work),
            result: None,
            give,
        });
        let requests = self.requests.as_ref().ok_or(AnnotationProblem::Closed)?;
        requests.send(request).map_err(|_| AnnotationProblem::Closed)?;
        take.recv().map_err(|_| AnnotationProblem::Closed)?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(mut connection: Connection, queue: &Receiver<Box<dyn Request>>) {
    while let Ok(first) = queue.recv() {
        let mut batch = vec![first];
        while batch.len() < BATCH
            && let Ok(next) = queue.try_recv()
        {
            batch.push(next);
        }
        let committed = together(&mut connection, &mut batch);
        for request in batch {
            request.answer(committed.clone());
        }
    }
}

/// All requests in one transaction, each within a savepoint of its own.
fn together(connection: &mut Connection, batch: &mut [Box<dyn Request>]) -> Result<(), AnnotationProblem> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for request in batch {
        transaction.execute_batch("SAVEPOINT request")?;
        let end = match request.work(&transaction) {
            true => "RELEASE request",
            false => "ROLLBACK TO request; RELEASE request",
        };
        transaction.execute_batch(end)?;
    }
    Ok(transaction.commit()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_panics_is_taken_back_and_others_go_on() {
        let writer = Writer::start(Connection::open_in_memory().unwrap()).unwrap();
        writer
            .run(|connection| Ok(connection.execute_batch("CREATE TABLE t (x)")?))
            .unwrap();
        let panics = writer.run(|connection| -> Result<(), AnnotationProblem> {
            connection.execute_batch("INSERT INTO t VALUES (1)")?;
            panic!("a defect")
        });
        assert_eq!(panics, Err(AnnotationProblem::Defect));
        writer
            .run(|connection| Ok(connection.execute_batch("INSERT INTO t VALUES (2)")?))
            .unwrap();
        let found =
            writer.run(|connection| Ok(connection.query_row("SELECT group_concat(x) FROM t", [], |row| row.get(0))?));
        assert_eq!(found, Ok("2".to_string()));
    }
}
