//! One question to a server: is it well?
//!
//! Each check makes a connection of its own, outside of the pool and its bounds, as a request would be made one: the same
//! TLS, the same protocol. It asks, reads the answer and says goodbye. Who asks when, and what follows from the answers,
//! is in `watch`.

use std::ops::RangeInclusive;
use std::pin::pin;
use std::time::Duration;

use http::header::{CONNECTION, HOST, HeaderValue, USER_AGENT};
use http::uri::PathAndQuery;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_util::task::TaskTracker;

use super::body::Body;
use super::connect::{Origin, Steps, Stream, Tracked, dial};
use super::error::SendError;
use super::framing;
use crate::observe::metrics::labels::CheckResult;

/// What is read of an answer's body; the rest is cut off.
const BODY: usize = 64 * 1024;
/// The longest head of an answer.
const HEAD: u16 = 16 * 1024;
/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// How the servers of an upstream are asked whether they are well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What is asked.
    pub ask: Ask,
    /// Another port than the one that requests go to.
    pub port: Option<u16>,
    /// From the end of one check to the next, give or take a tenth.
    pub interval: Duration,
    /// How long a check may take in all.
    pub timeout: Duration,
    /// Checks in a row that a server which was down has to pass.
    pub rise: u32,
    /// Checks in a row that a server which was up has to fail.
    pub fall: u32,
}

/// What is asked of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// That it takes a connection, with TLS where there is TLS.
    Connect,
    /// That it answers a request with one of these statuses.
    Http {
        /// `GET` or `HEAD`.
        method: Method,
        /// The path, and a query.
        path: PathAndQuery,
        /// In place of the server's own name and port.
        host: Option<HeaderValue>,
        /// What it may answer. A redirection is an answer; it is not followed.
        statuses: Vec<RangeInclusive<u16>>,
    },
}

impl Default for Check {
    fn default() -> Self {
        Self {
            ask: Ask::Connect,
            port: None,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            rise: 2,
            fall: 3,
        }
    }
}

/// Why a server did not pass.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unwell {
    /// There is no connection to ask on.
    #[error(transparent)]
    Connect(SendError),
    /// The connection ended, or what came on it is not an answer.
    #[error("there is no whole answer")]
    Answer(#[source] hyper::Error),
    /// It answered otherwise than it should.
    #[error("it answers {0}")]
    Status(StatusCode),
    /// It did not answer in time.
    #[error("no answer within {0:?}")]
    Late(Duration),
    /// The question cannot be put.
    #[error("its name is no host")]
    Unaskable,
}

impl Unwell {
    pub(super) const fn result(&self) -> CheckResult {
        match self {
            Self::Connect(SendError::Tls { .. }) => CheckResult::Tls,
            Self::Connect(SendError::ConnectTimeout { .. } | SendError::TlsTimeout { .. }) | Self::Late(_) => {
                CheckResult::Timeout
            }
            Self::Connect(_) => CheckResult::Connect,
            Self::Answer(_) | Self::Unaskable => CheckResult::Protocol,
            Self::Status(_) => CheckResult::Status,
        }
    }
}

/// Asks the server at `origin` once; what hyper has to run runs in `tasks`.
pub(super) async fn probe(origin: &Origin, check: &Check, tasks: &TaskTracker) -> Result<(), Unwell> {
    let asked = async {
        let steps = Steps { tcp: check.timeout, tls: check.timeout };
        let dialled = dial(origin, check.port, false, steps).await.map_err(Unwell::Connect)?;
        match dialled.stream {
            Stream::Tcp(stream) => ask(stream, dialled.joint, origin, check, tasks).await,
            Stream::Unix(stream) => ask(stream, dialled.joint, origin, check, tasks).await,
            Stream::Tls(stream) => ask(*stream, dialled.joint, origin, check, tasks).await,
        }
    };
    tokio::time::timeout(check.timeout, asked).await.unwrap_or(Err(Unwell::Late(check.timeout)))
}

async fn ask<T>(mut stream: T, joint: bool, origin: &Origin, check: &Check, tasks: &TaskTracker) -> Result<(), Unwell>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Ask::Http { method, path, host, statuses } = &check.ask else {
        let _gone = stream.shutdown().await;
        return Ok(());
    };
    let mut request = Request::new(Body::Empty);
    *request.method_mut() = method.clone();
    *request.uri_mut() = path.clone().into();
    let host = host.clone().or_else(|| HeaderValue::try_from(origin.authority(check.port)).ok());
    request.headers_mut().insert(HOST, host.ok_or(Unwell::Unaskable)?);
    request.headers_mut().insert(USER_AGENT, HeaderValue::from_static("tollgate-health-check"));
    let stream = TokioIo::new(stream);
    let status = if joint {
        framing::reframe_http2(&mut request, origin.scheme()).ok_or(Unwell::Unaskable)?;
        let mut builder = http2::Builder::new(Tracked(tasks.clone()));
        builder.max_header_list_size(HEAD.into());
        let (mut sender, connection) = builder.handshake::<_, Body>(stream).await.map_err(Unwell::Answer)?;
        let asking = async move { whole(sender.send_request(request).await?).await };
        converse(asking, connection, tasks).await
    } else {
        framing::reframe(&mut request);
        request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        let mut builder = http1::Builder::new();
        builder.max_buf_size(HEAD.into());
        let (mut sender, connection) = builder.handshake::<_, Body>(stream).await.map_err(Unwell::Answer)?;
        let asking = async move { whole(sender.send_request(request).await?).await };
        converse(asking, connection, tasks).await
    };
    let status = status.map_err(Unwell::Answer)?;
    if statuses.iter().any(|range| range.contains(&status.as_u16())) { Ok(()) } else { Err(Unwell::Status(status)) }
}

/// Reads an answer to its end, or as much of it as is read of any.
async fn whole(answer: http::Response<Incoming>) -> Result<StatusCode, hyper::Error> {
    let (head, mut body) = answer.into_parts();
    let mut read = 0;
    while read <= BODY
        && let Some(frame) = body.frame().await
    {
        read += frame?.data_ref().map_or(0, bytes::Bytes::len);
    }
    Ok(head.status)
}

/// Runs the connection while it is asked on, and lets it say goodbye by itself. `asking` holds the only sender.
async fn converse<C>(
    asking: impl Future<Output = Result<StatusCode, hyper::Error>>,
    connection: C,
    tasks: &TaskTracker,
) -> Result<StatusCode, hyper::Error>
where
    C: Future<Output = Result<(), hyper::Error>> + Send + 'static,
{
    let mut connection = Box::pin(connection);
    let mut asking = pin!(asking);
    let status = tokio::select! {
        biased;
        status = asking.as_mut() => status?,
        // The connection is over; whatever it had to say is there for whoever asked.
        _ended = connection.as_mut() => return asking.await,
    };
    // The answer was in time, however long this takes.
    tasks.spawn(tokio::time::timeout(GOODBYE, connection));
    Ok(status)
}
