//! Requests that are recorded, from their end until they are sent on.
//!
//! Whoever has served one hands it in and goes on: there is room for so many, and what comes beyond is dropped and counted.
//! `app` takes them out, a batch at a time, and sends them to the collector ([`super::otlp`] says how they are written).

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::mask;
use super::metrics::TraceMetrics;
use super::metrics::labels::{Cut, SpanLoss, TunnelEnd, UpstreamOutcome};
use crate::model::problem::ProblemKind;
use crate::model::time::Timestamp;
use crate::rules::trace::{SpanId, TraceId};

/// How many requests are sent on at once.
const BATCH: usize = 512;

/// A request that is over. What is not here cannot be exported: no header, no body, no query, no user and no organization;
/// those who may know find them in the access log, by the request's id.
#[derive(Clone, Debug)]
pub struct Traced {
    /// The trace.
    pub trace: TraceId,
    /// Its own span.
    pub span: SpanId,
    /// The span elsewhere that it is a part of.
    pub parent: Option<SpanId>,
    /// The trace's last bytes are random.
    pub random: bool,
    /// When its head had arrived.
    pub began: Timestamp,
    /// Until the answer's last byte, or its WebSocket's.
    pub took: Duration,
    /// Its id in the log.
    pub request_id: String,
    /// Its method, by [`method`].
    pub method: &'static str,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Its version, as HTTP spells it.
    pub version: http::Version,
    /// The host it asked for, where a site has it.
    pub host: Option<String>,
    /// Its canonical path, by [`path`]; empty where it has none.
    pub path: String,
    /// The client, as the trusted proxies tell it.
    pub client: IpAddr,
    /// The site, by its configured name.
    pub site: Option<String>,
    /// The route or native operation that took it, by its configured text.
    pub route: Option<Arc<str>>,
    /// How the caller proved who they are.
    pub auth: Option<&'static str>,
    /// The answer's status.
    pub status: u16,
    /// Why it was refused.
    pub problem: Option<ProblemKind>,
    /// Something went wrong on our side.
    pub faulty: bool,
    /// Why its answer was broken off.
    pub cut: Option<Cut>,
    /// How the WebSocket ended that it opened.
    pub tunnel: Option<TunnelEnd>,
    /// What a backend was asked.
    pub backend: Option<Asked>,
}

/// A request to a backend, up to the head of its answer.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Its span: the backend's parent.
    pub span: SpanId,
    /// How long after the request's own beginning.
    pub after: Duration,
    /// Until the head of the answer, or the failure.
    pub took: Duration,
    /// The upstream, by its configured name.
    pub upstream: Arc<str>,
    /// The last server that was tried: its host or its socket's path, and its port.
    pub server: Option<(String, Option<u16>)>,
    /// How often another connection or server was tried after the first.
    pub resends: u32,
    /// What it came to.
    pub outcome: UpstreamOutcome,
    /// The answer's status.
    pub status: Option<u16>,
}

/// Those that wait to be sent on.
#[derive(Debug)]
pub struct Spans {
    waiting: Mutex<Vec<Traced>>,
    /// Some wait where none did, or a whole batch does.
    came: Notify,
    room: usize,
    batch: usize,
    metrics: TraceMetrics,
}

/// A method as it is recorded; what a client invents is `_OTHER`.
pub fn method(method: &http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        "CONNECT" => "CONNECT",
        "TRACE" => "TRACE",
        _ => "_OTHER",
    }
}

/// A path as it is recorded: as in the access log, so that no query, no token and no more than 2 KiB waits or is sent.
pub fn path(path: &str) -> String {
    mask::path(path).into_owned()
}

impl Traced {
    /// How many spans it is.
    pub fn spans(&self) -> usize {
        1 + usize::from(self.backend.is_some())
    }
}

impl Spans {
    /// Room for so many requests.
    pub fn new(room: usize, metrics: TraceMetrics) -> Self {
        Self { waiting: Mutex::default(), came: Notify::new(), room, batch: BATCH.min(room), metrics }
    }

    /// Hands one in; never waits.
    pub fn push(&self, traced: Traced) {
        let mut waiting = self.lock();
        if waiting.len() >= self.room {
            drop(waiting);
            self.metrics.dropped(SpanLoss::QueueFull, traced.spans());
            return;
        }
        waiting.push(traced);
        let count = waiting.len();
        drop(waiting);
        if count == 1 || count == self.batch {
            self.came.notify_one();
        }
    }

    /// Waits for some, and then for a whole batch, but no longer than `patience`.
    pub async fn gathered(&self, patience: Duration) {
        while self.lock().is_empty() {
            self.came.notified().await;
        }
        let whole = async {
            while self.lock().len() < self.batch {
                self.came.notified().await;
            }
        };
        let _ = tokio::time::timeout(patience, whole).await;
    }

    /// The oldest that wait, a batch at most.
    pub fn take(&self) -> Vec<Traced> {
        let mut waiting = self.lock();
        let count = waiting.len().min(self.batch);
        waiting.drain(..count).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Traced>> {
        // Nothing panics while it holds the lock.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
