//! Threads for work that is to wait for nobody and that nobody is to wait for: what a node computes
//! to help or repair, beside the reads and writes that it serves.
//!
//! Reads run on the runtime's blocking threads, as many as their lane allows. Work on slivers of
//! megabytes there would take the processors from them for milliseconds at a time. So it has a few
//! threads of its own; on Linux they have a lower priority, so that the kernel runs whatever
//! reads and writes need first. Elsewhere their number alone bounds what they take.
//!
//! Invariants: as much runs at a time as there are threads, and a bounded number of jobs waits;
//! who gives a job waits for its place, then for its end. The threads end with the last handle.

use std::sync::Arc;

use tokio::{
    sync::{mpsc, oneshot},
    task::spawn_blocking,
};

/// Jobs that wait for a thread, for each.
const QUEUE_MAX: usize = 16;
/// What the threads add to the process's niceness: they get a quarter of a contended processor, so
/// that repair goes on however busy the machine is.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 5;

type Job = Box<dyn FnOnce() + Send>;

/// A handle to the threads. Clones are handles to the same.
#[derive(Clone, Debug)]
pub(super) struct Background {
    queues: Arc<[mpsc::Sender<Job>]>,
}

impl Background {
    /// Starts so many threads, one at least.
    pub(super) fn start(threads: usize) -> Self {
        let start = |_| {
            let (sender, jobs) = mpsc::channel(QUEUE_MAX);
            // A thread of the runtime's, for as long as the node runs.
            drop(spawn_blocking(move || work(jobs)));
            sender
        };
        Self { queues: (0..threads.max(1)).map(start).collect() }
    }

    /// Runs `job` on one of the threads; nothing comes back only when they have ended.
    ///
    /// # Panics
    /// If the job does.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (sender, result) = oneshot::channel();
        let job = Box::new(move || {
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
            // Who asked may have gone.
            drop(sender.send(ended));
        });
        let queue = self.queues.iter().max_by_key(|queue| queue.capacity())?;
        queue.send(job).await.ok()?;
        match result.await.ok()? {
            Ok(result) => Some(result),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

fn work(mut jobs: mpsc::Receiver<Job>) {
    lower_priority();
    while let Some(job) = jobs.blocking_recv() {
        job();
    }
}

/// Lowers the priority of this thread. Without it everything works, only less politely.
fn lower_priority() {
    #[cfg(target_os = "linux")]
    {
        // On Linux niceness belongs to the thread, and "no process" names the calling one.
        let lowered = rustix::process::getpriority_process(None)
            .and_then(|now| rustix::process::setpriority_process(None, now + NICENESS));
        if let Err(error) = lowered {
            tracing::debug!(%error, "the priority of a background thread stays as it is");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn jobs_run_and_a_panic_reaches_who_asked() {
        let background = Background::start(2);
        let jobs = (0..100).map(|number| {
            let background = background.clone();
            tokio::spawn(async move { background.run(move || number).await })
        });
        let mut sum = 0;
        for job in jobs.collect::<Vec<_>>() {
            sum += job.await.unwrap().unwrap();
        }
        assert_eq!(sum, 4_950);
        let panicking = background.clone();
        let ended = tokio::spawn(async move { panicking.run(|| assert_eq!(1, 2)).await }).await;
        assert!(ended.unwrap_err().is_panic());
        assert_eq!(background.run(|| 7).await, Some(7), "the thread lives on");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_threads_are_nicer_than_the_rest_of_the_process() {
        let niceness = || rustix::process::getpriority_process(None).unwrap();
        let background = Background::start(1);
        let theirs = background.run(niceness).await.unwrap();
        assert!(theirs > niceness() || theirs == 19, "{theirs}");
    }
}
