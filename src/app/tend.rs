//! What the process is told while it serves, by signals and by files that change, and what it does about it.
//!
//! Nothing here waits for another: whoever is told to stop does so, also while a file that is read again does not answer or
//! a new process is about to take over.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinError;

use super::reload::{Before, Watcher};
use super::{Running, handover, manager};
use crate::config::Read;
use crate::config::footprint::Footprint;
use crate::observe::audit::Act;

/// How long reading the configuration again may take before it counts as failed. It is waited for all the same: what a
/// disk on the network gives in the end is taken.
const LONG: Duration = Duration::from_secs(5);

/// How a gateway came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// What had begun was finished or had its time.
    Drained,
    /// It was told to stop a second time, and did at once.
    CutOff,
}

/// SIGHUP and SIGUSR2: what a process is asked for while it serves. To be listened for before anything else is done:
/// whoever has just started it may ask at once, and either would end a process that does not listen. What comes too
/// early is done once it serves. (SIGTERM ends a process that does not serve yet at once, as it should.)
#[derive(Debug)]
pub struct Asked {
    again: Signal,
    hand_over: Signal,
}

impl Asked {
    /// Listens from now on; to be called in a runtime.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self { again: signal(SignalKind::hangup())?, hand_over: signal(SignalKind::user_defined2())? })
    }
}

/// SIGTERM and SIGINT.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Resolves when it is told to.
    async fn told(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Why it ends.
enum Leaving {
    Told,
    HandedOver,
}

impl Running {
    /// Serves until SIGTERM or SIGINT, then drains; the second of them ends that at once. SIGHUP, and a change of the
    /// files in `footprint`, read the configuration again by `read`, which is told what is in force. SIGUSR2
    /// has this program started anew and hands the listeners over to it.
    pub async fn until_signal<F>(self, mut asked: Asked, read: F, footprint: Footprint) -> std::io::Result<Ended>
    where
        F: Fn(Before) -> Read + Send + Sync + 'static,
    {
        let mut stop = Stop::listen()?;
        manager::ready().await;
        let delay = match self.tend(&mut stop, &mut asked, &Arc::new(read), footprint).await {
            Leaving::Told => {
                self.gateway.start_draining();
                manager::stopping().await;
                self.reloader.boot.drain.delay
            }
            // Readiness is the other's now, and so is the operator's listener.
            Leaving::HandedOver => {
                self.stop_admin.cancel();
                Duration::ZERO
            }
        };
        tokio::select! {
            () = self.drain_after(delay) => return Ok(Ended::Drained),
            () = stop.told() => {}
        }
        tracing::warn!("told a second time to stop: what is under way is cut off");
        Ok(Ended::CutOff)
    }

    async fn tend<F>(&self, stop: &mut Stop, asked: &mut Asked, read: &Arc<F>, footprint: Footprint) -> Leaving
    where
        F: Fn(Before) -> Read + Send + Sync + 'static,
    {
        let every = self.reloader.boot.watch_every;
        let mut watcher = Watcher::new(footprint, every);
        let mut reading = pin!(None);
        let mut successor = pin!(None);
        let mut again = false;
        loop {
            tokio::select! {
                () = stop.told() => return Leaving::Told,
                _ = asked.again.recv() => again = true,
                () = watcher.changed(), if reading.is_none() => {
                    tracing::info!("a file of the configuration has changed");
                    again = true;
                }
                footprint = outcome(reading.as_mut()) => {
                    reading.set(None);
                    if let Some(footprint) = footprint {
                        watcher = Watcher::new(footprint, every);
                    }
                    manager::ready().await;
                }
                _ = asked.hand_over.recv() => {
                    if successor.is_none() {
                        tracing::info!("handing over: starting this program anew");
                        successor.set(Some(handover::hand_over(&self.sockets, self.reloader.before())));
                    }
                }
                outcome = outcome(successor.as_mut()) => {
                    successor.set(None);
                    if self.has_handed_over(outcome).await {
                        return Leaving::HandedOver;
                    }
                }
            }
            // One at a time: what was asked for during one is done after it.
            if reading.is_none() && std::mem::take(&mut again) {
                manager::reloading().await;
                reading.set(Some(self.reload(read)));
            }
        }
    }

    async fn has_handed_over(&self, outcome: anyhow::Result<u32>) -> bool {
        match outcome {
            Ok(pid) => {
                tracing::info!(pid, "another process serves now");
                self.gateway.audit(Act::HandedOver { to: pid });
                manager::handed_over(pid).await;
                true
            }
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(error, "the listeners are not handed over: this process goes on");
                self.gateway.metrics.connections.handover_failures.inc();
                self.gateway.audit(Act::HandoverFailed);
                false
            }
        }
    }

    /// Reads the configuration again, off the workers; what it was read from, unless that broke off.
    async fn reload<F>(&self, read: &Arc<F>) -> Option<Footprint>
    where
        F: Fn(Before) -> Read + Send + Sync + 'static,
    {
        let (read, reloader) = (Arc::clone(read), Arc::clone(&self.reloader));
        let (before, runtime) = (reloader.before(), Handle::current());
        let mut reading = pin!(tokio::task::spawn_blocking(move || {
            let Read { outcome, footprint } = read(before);
            let known = outcome.as_ref().map_or(Ok(()), |loaded| runtime.block_on(reloader.remember_peppers(loaded)));
            match known {
                Ok(()) => reloader.take(outcome),
                Err(error) => reloader.refuse(&[format!("{error:#}")]),
            }
            footprint
        }));
        let timely = tokio::time::timeout(LONG, reading.as_mut()).await;
        let read = if let Ok(read) = timely {
            read
        } else {
            let why = format!("reading it takes longer than {LONG:?}: a file or a disk does not answer");
            self.reloader.refuse(&[why]);
            reading.await
        };
        read.inspect_err(|error: &JoinError| self.reloader.refuse(&[format!("reading it broke off: {error}")])).ok()
    }
}

/// Resolves with what is under way, where something is.
async fn outcome<F: Future>(under_way: Pin<&mut Option<F>>) -> F::Output {
    match under_way.as_pin_mut() {
        Some(under_way) => under_way.await,
        None => std::future::pending().await,
    }
}
