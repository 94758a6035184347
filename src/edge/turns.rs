//! What takes long at a stretch, one at a time a worker.
//!
//! A TLS handshake keeps its thread busy for a tenth of a millisecond and more. Where hundreds of clients come at once, each
//! of them would be ready, and whoever has a connection already would wait until all were served. So each step waits for
//! its turn, and the next one comes when the thread has looked at its sockets again and at what they brought.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::Semaphore;
use tokio_util::sync::PollSemaphore;

thread_local! {
    /// A worker is a thread.
    static TURN: Arc<Semaphore> = Arc::new(Semaphore::new(1));
}

/// Work each of whose steps takes long.
pub struct InTurns<F> {
    work: F,
    turn: PollSemaphore,
}

impl<F> InTurns<F> {
    /// Of the thread that this is called on.
    pub fn of(work: F) -> Self {
        Self { work, turn: PollSemaphore::new(TURN.with(Arc::clone)) }
    }
}

impl<F: Future + Unpin> Future for InTurns<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // Never closed: there is always one.
        let turn = ready!(self.turn.poll_acquire(cx));
        let polled = Pin::new(&mut self.work).poll(cx);
        tokio::spawn(async move {
            tokio::task::yield_now().await;
            drop(turn);
        });
        polled
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::future::poll_fn;
    use std::rc::Rc;
    use std::time::Duration;

    use super::*;

    /// Each step in its place, and what else the thread has to do between any two of them.
    #[tokio::test]
    async fn others_come_between_any_two_steps() {
        let story = Rc::new(RefCell::new(Vec::new()));
        let steps = |name: char| {
            let (story, mut left) = (Rc::clone(&story), 3);
            InTurns::of(Box::pin(poll_fn(move |cx| {
                story.borrow_mut().push(name);
                left -= 1;
                cx.waker().wake_by_ref();
                if left == 0 { Poll::Ready(()) } else { Poll::Pending }
            })))
        };
        let other = async {
            for _ in 0..40 {
                tokio::task::yield_now().await;
                story.borrow_mut().push('.');
            }
        };
        let all = async { tokio::join!(steps('a'), steps('b'), steps('c'), other) };
        tokio::time::timeout(Duration::from_secs(20), all).await.unwrap();
        let story: String = story.borrow().iter().collect();
        assert_eq!(story.matches(char::is_alphabetic).count(), 9, "{story}");
        let pairs: Vec<char> = story.chars().collect();
        assert!(!pairs.windows(2).any(|two| two.iter().all(|step| step.is_alphabetic())), "{story}");
    }

    #[tokio::test]
    async fn whoever_leaves_while_waiting_holds_up_nobody() {
        let mut first = InTurns::of(Box::pin(std::future::pending::<()>()));
        let mut second = InTurns::of(Box::pin(std::future::pending::<()>()));
        let started = poll_fn(|cx| {
            // The turn is the first's for now; the second queues for it.
            Poll::Ready((Pin::new(&mut first).poll(cx).is_pending(), Pin::new(&mut second).poll(cx).is_pending()))
        });
        assert_eq!(started.await, (true, true));
        drop((first, second));
        let third = InTurns::of(std::future::ready(7));
        assert_eq!(tokio::time::timeout(Duration::from_secs(20), third).await, Ok(7));
    }
}
