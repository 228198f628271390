//! Encoding many rows: on several threads, in order, with news of how far it is.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::job::Job;

/// Rows that are encoded before they are taken, so that not all of them are in memory twice.
const BLOCK: usize = 1024;
/// Time between two messages.
const NEWS: Duration = Duration::from_secs(5);

/// Encodes `items` and takes the results in the order of the items, whatever the threads. Tells every few seconds how many
/// are done.
pub(crate) fn encode_all<T: Sync, U: Send>(
    job: &Job,
    name: &str,
    items: &[T],
    encode: impl Fn(&T) -> Result<U> + Sync,
    take: impl FnMut(&T, U) -> Result<()>,
) -> Result<()> {
    let mut told = Instant::now();
    in_blocks(job.worker_threads(), items, encode, take, &mut |done| {
        if told.elapsed() >= NEWS {
            told = Instant::now();
            job.message(format!("{name}: {done} of {} rows tokenised", items.len()));
        }
    })
}

fn in_blocks<T: Sync, U: Send>(
    threads: usize,
    items: &[T],
    encode: impl Fn(&T) -> Result<U> + Sync,
    mut take: impl FnMut(&T, U) -> Result<()>,
    news: &mut dyn FnMut(usize),
) -> Result<()> {
    let mut done = 0;
    for block in items.chunks(BLOCK) {
        for (item, encoded) in block.iter().zip(encoded_block(threads, block, &encode)) {
            take(item, encoded?)?;
        }
        done += block.len();
        news(done);
    }
    Ok(())
}

/// The results for a block, in its order.
fn encoded_block<T: Sync, U: Send>(
    threads: usize,
    block: &[T],
    encode: &(impl Fn(&T) -> Result<U> + Sync),
) -> Vec<Result<U>> {
    if threads <= 1 || block.len() == 1 {
        return block.iter().map(encode).collect();
    }
    let next = AtomicUsize::new(0);
    let work = || {
        let mut results = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            match block.get(index) {
                Some(item) => results.push((index, encode(item))),
                None => return results,
            }
        }
    };
    let mut results: Vec<(usize, Result<U>)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.min(block.len())).map(|_| scope.spawn(work)).collect();
        let joined = workers.into_iter().map(|worker| match worker.join() {
            Ok(results) => results,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.flatten().collect()
    });
    results.sort_unstable_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::TrainError;

    #[test]
    fn results_are_in_order_whatever_the_threads() {
        let items: Vec<usize> = (0..3_000).collect();
        for threads in [1, 2, 5] {
            let (mut taken, mut news) = (Vec::new(), Vec::new());
            let square = |&i: &usize| Ok(i * i);
            let take = |&i: &usize, square: usize| {
                taken.push((i, square));
                Ok(())
            };
            in_blocks(threads, &items, square, take, &mut |done| news.push(done)).unwrap();
            assert!(taken.iter().enumerate().all(|(i, &pair)| pair == (i, i * i)));
            assert_eq!((taken.len(), news), (3_000, vec![1_024, 2_048, 3_000]));
            // Of several errors the first in the order is given, and what is before it has been taken
            let mut last = 0;
            let refuse = |&i: &usize| match i % 1_000 {
                999 => Err(TrainError::setting("row", i.to_string())),
                _ => Ok(()),
            };
            let take = |&i: &usize, ()| {
                last = i;
                Ok(())
            };
            let error = in_blocks(threads, &items, refuse, take, &mut |_| {}).unwrap_err();
            assert_eq!((error.to_string(), last), ("row: 999".into(), 998));
        }
    }
}
