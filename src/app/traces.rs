//! Sends recorded requests to the collector: in batches, in the background, and never in anybody's way.
//!
//! What is handed in beyond the queue's room is dropped, and a collector that is gone costs the spans that no longer fit
//! while it is asked again; each is counted. At the end what waits is sent on, within [`FAREWELL`].

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use tokio_util::sync::CancellationToken;

use crate::config::traces::Collector;
use crate::gateway::Gateway;
use crate::model::time::Timestamp;
use crate::observe::metrics::labels::SpanLoss;
use crate::observe::otlp;
use crate::observe::spans::{Spans, Traced};
use crate::upstream::body::Body;
use crate::upstream::tls::{TlsError, client_config};
use crate::upstream::{Pools, SendError, Settings};

/// How often a batch is tried, and how long to wait before the second time; twice as long before each that follows.
const TRIES: u32 = 5;
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest that a collector may have us wait.
const LONGEST_WAIT: Duration = Duration::from_hours(1);
/// From how long a wait on it is told each time.
const TOLD_WAIT: Duration = Duration::from_mins(1);
/// How long what waits at the end may take.
const FAREWELL: Duration = Duration::from_secs(5);

/// Sends spans on.
pub(super) struct Exporter {
    gateway: Arc<Gateway>,
    spans: Arc<Spans>,
    collector: Settings,
    pools: Pools,
    target: Uri,
    headers: HeaderMap,
    resource: Arc<otlp::Attributes>,
    every: Duration,
    /// The last batch came to nothing.
    failing: bool,
}

/// What a collector said to a batch.
enum Said {
    /// It has it, but for so many spans.
    Taken { rejected: usize },
    /// It may have it later, and says perhaps when.
    Later { why: String, after: Option<Duration> },
    /// It will never have it.
    Never { why: String },
}

impl Exporter {
    /// Prepares everything that can fail; asks nobody yet.
    pub(super) fn new(gateway: &Arc<Gateway>, spans: &Arc<Spans>, settings: &Collector) -> Result<Self, TlsError> {
        let collector = settings.server.clone().prepare()?;
        let secured = settings.secured && collector.trust.is_none();
        let mut instance = [0; 16];
        gateway.entropy.fill(&mut instance);
        let instance = uuid::Builder::from_random_bytes(instance).into_uuid().to_string();
        let mut resource = settings.resource.clone();
        resource.push(("service.instance.id".to_owned(), instance));
        let mut headers: HeaderMap = settings.headers.iter().cloned().collect();
        headers.insert(HOST, settings.host.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("tollgate/", env!("CARGO_PKG_VERSION"))));
        Ok(Self {
            gateway: Arc::clone(gateway),
            spans: Arc::clone(spans),
            pools: Pools::new(if secured { Some(client_config()?) } else { None }),
            collector,
            target: Uri::from(settings.path.clone()),
            headers,
            resource: Arc::new(resource),
            every: settings.every,
            failing: false,
        })
    }

    /// Sends until `stop`, and then what is left.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let stopped = stop.clone();
        let ended = {
            let work = self.work(&stop);
            let mut work = std::pin::pin!(work);
            tokio::select! {
                () = &mut work => true,
                () = stopped.cancelled() => tokio::time::timeout(FAREWELL, work).await.is_ok(),
            }
        };
        if !ended {
            tracing::warn!("spans were left at the end: the collector did not take them in time");
        }
    }

    /// Returns once it is told to stop and nothing is left.
    async fn work(&mut self, stop: &CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.spans.gathered(self.every) => {}
            }
            let batch = self.spans.take();
            if !batch.is_empty() {
                self.deliver(batch, stop).await;
            } else if stop.is_cancelled() {
                return;
            }
        }
    }

    async fn deliver(&mut self, batch: Vec<Traced>, stop: &CancellationToken) {
        let metrics = self.gateway.metrics.traces.clone();
        let count = batch.iter().map(Traced::spans).sum();
        let resource = Arc::clone(&self.resource);
        let encoded = tokio::task::spawn_blocking(move || Bytes::from(otlp::encode(&resource, &batch))).await;
        let Ok(body) = encoded else { return metrics.dropped(SpanLoss::GivenUp, count) };
        let mut wait = FIRST_WAIT;
        for at in 1..=TRIES {
            let (why, after) = match self.send(body.clone()).await {
                Said::Taken { rejected } => {
                    let rejected = rejected.min(count);
                    metrics.exported.inc_by((count - rejected) as u64);
                    metrics.dropped(SpanLoss::Refused, rejected);
                    if std::mem::take(&mut self.failing) {
                        tracing::info!("the collector takes spans again");
                    }
                    return;
                }
                Said::Later { why, after } => (why, after),
                Said::Never { why } => {
                    self.failed(&why, None);
                    return metrics.dropped(SpanLoss::Refused, count);
                }
            };
            // One that says "at once" (0, a date that is past) is not asked without a pause for it.
            let own = self.scattered(wait);
            let pause = after.map_or(own, |after| after.max(own)).min(LONGEST_WAIT);
            self.failed(&why, Some(pause));
            let ends = at == TRIES || stop.is_cancelled();
            if ends {
                metrics.dropped(SpanLoss::GivenUp, count);
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // Once more, now or never.
                () = stop.cancelled() => {}
            }
            if ends {
                return;
            }
            wait *= 2;
        }
    }

    /// Counts every failure, and tells of the first and of each that is waited long for.
    fn failed(&mut self, why: &str, pause: Option<Duration>) {
        self.gateway.metrics.traces.failures.inc();
        let long = pause.is_some_and(|pause| pause >= TOLD_WAIT);
        if !std::mem::replace(&mut self.failing, true) || long {
            let wait_seconds = pause.map(|pause| pause.as_secs());
            tracing::warn!(
                why,
                wait_seconds,
                "the collector does not take spans; those that no longer fit are dropped"
            );
        }
    }

    async fn send(&self, body: Bytes) -> Said {
        let mut request = Request::new(Body::from(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.target.clone();
        *request.headers_mut() = self.headers.clone();
        let answer = match self.pools.send(&self.collector, request, None).await {
            Ok(answer) => answer,
            Err(error) => return Said::Later { why: told(&error), after: None },
        };
        let (status, after) = (answer.status(), self.retry_after(answer.headers()));
        let page = is_page(answer.headers());
        // Also what nobody reads: so the connection can be used again.
        let read = Limited::new(answer.into_body(), otlp::LONGEST_ANSWER).collect().await;
        let read = read.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        match status {
            _ if status.is_success() && page => {
                Said::Never { why: format!("it answers {status} with a page: it is none") }
            }
            _ if status.is_success() => Said::Taken { rejected: otlp::rejected(&read) },
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Said::Later { why: format!("it answers {status}"), after },
            _ => Said::Never { why: format!("it answers {status}") },
        }
    }

    /// Seconds or a date (RFC 9110 section 10.2.3).
    fn retry_after(&self, headers: &HeaderMap) -> Option<Duration> {
        let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
        if let Ok(seconds) = text.parse() {
            return Some(Duration::from_secs(seconds));
        }
        let date = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
        let date = Timestamp::from_secs(i64::try_from(date.as_secs()).ok()?);
        Some(self.gateway.clock.now().wall.until(date))
    }

    /// Between half and all of it: a fleet does not come back at one moment.
    fn scattered(&self, wait: Duration) -> Duration {
        let mut draw = [0];
        self.gateway.entropy.fill(&mut draw);
        wait.mul_f64(0.5 + f64::from(draw[0]) / 512.0)
    }
}

/// Something else listens there, which takes everything and keeps nothing.
fn is_page(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().to_ascii_lowercase().starts_with(b"text/html"))
}

fn told(error: &SendError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
