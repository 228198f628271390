//! Where requests are made ready, away from the thread that serves connections: few at once, and few that wait. What waits
//! goes with its client; what has begun ends.

use std::sync::Arc;

use axum::http::StatusCode;
use tokio::sync::Semaphore;

use crate::openai::ApiError;

/// Places of work that takes a while.
pub(crate) struct Desk {
    working: Arc<Semaphore>,
    waiting: Semaphore,
}

impl Desk {
    /// For so many at once, and so many that wait.
    pub fn new(working: usize, waiting: usize) -> Self {
        Self {
            working: Arc::new(Semaphore::new(working)),
            waiting: Semaphore::new(working + waiting),
        }
    }

    /// Does work, when its turn comes.
    ///
    /// # Errors
    /// 429 where too many wait; 500 if the work panics.
    pub async fn work<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
        let Ok(_waits) = self.waiting.try_acquire() else {
            let message = "too many requests wait; try again soon";
            return Err(ApiError::of(StatusCode::TOO_MANY_REQUESTS, message));
        };
        let failed = || ApiError::internal("the request could not be prepared");
        let place = Arc::clone(&self.working).acquire_owned().await.map_err(|_| failed())?;
        // The place is free when the work has ended, even if nobody waits for it any more
        let done = tokio::task::spawn_blocking(move || {
            let _place = place;
            work()
        });
        done.await.map_err(|_| failed())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn few_work_few_wait_and_the_rest_is_refused() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let desk = Arc::new(Desk::new(1, 1));
            let begun = Arc::new(AtomicUsize::new(0));
            let (go, gone) = mpsc::channel::<()>();
            let counted = |wait: Option<mpsc::Receiver<()>>| {
                let begun = Arc::clone(&begun);
                move || {
                    begun.fetch_add(1, Ordering::SeqCst);
                    wait.map(|wait| wait.recv())
                }
            };
            let spawn = |work: Box<dyn FnOnce() -> Option<Result<(), mpsc::RecvError>> + Send>| {
                let desk = Arc::clone(&desk);
                tokio::spawn(async move { desk.work(work).await.map(|_| ()).map_err(|error| error.status.as_u16()) })
            };
            let first = spawn(Box::new(counted(Some(gone))));
            let leaves = spawn(Box::new(counted(None)));
            while begun.load(Ordering::SeqCst) == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(spawn(Box::new(counted(None))).await.expect("no panic"), Err(429));
            // A client that leaves while it waits has nothing done, and its place is free
            leaves.abort();
            assert!(leaves.await.is_err());
            let next = spawn(Box::new(counted(None)));
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert_eq!(begun.load(Ordering::SeqCst), 1, "one at a time");
            go.send(()).expect("heard");
            assert_eq!(first.await.expect("no panic"), Ok(()));
            assert_eq!(next.await.expect("no panic"), Ok(()));
            assert_eq!(begun.load(Ordering::SeqCst), 2);
        });
    }
}
