//! What can go wrong between us and a backend, and what the client is told of it.

use std::error::Error as _;
use std::io;

use super::ahead::Endless;
use super::body::BodyError;
use crate::model::problem::Problem;
use crate::model::refusal::{Fault, Refusal};

/// Why there is no answer to forward.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No server of the upstream could be reached: refused or unknown.
    #[error("cannot connect to {server}")]
    Connect {
        /// The server tried last.
        server: String,
        /// What the system, or TLS, says.
        source: io::Error,
    },
    /// The connection was not made in time.
    #[error("{server} did not take the connection in time")]
    ConnectTimeout {
        /// The server tried last.
        server: String,
    },
    /// TLS with the server failed: a certificate that is not believed, no common version or protocol.
    #[error("no TLS with {server}")]
    Tls {
        /// The server tried last.
        server: String,
        /// What TLS says.
        source: io::Error,
    },
    /// The TLS handshake did not end in time.
    #[error("{server} did not finish the TLS handshake in time")]
    TlsTimeout {
        /// The server tried last.
        server: String,
    },
    /// All connections are in use, and none was freed in time or the queue for them is full.
    #[error("every connection to {server} is in use")]
    Busy {
        /// The server.
        server: String,
    },
    /// Every server fails its health checks.
    #[error("no server of {upstream} is well: all fail their health checks")]
    Unhealthy {
        /// The upstream.
        upstream: String,
    },
    /// The backend has the request and did not answer in time.
    #[error("no answer in time")]
    ResponseTimeout,
    /// The request as a whole took longer than it may.
    #[error("the request took longer than it may")]
    Overdue,
    /// The backend stopped taking the request's body.
    #[error("the backend stopped taking the request body")]
    IdleTimeout,
    /// The backend closed the connection instead of answering.
    #[error("the backend closed the connection without an answer")]
    Closed(#[source] hyper::Error),
    /// The backend did not take the request: it may be asked again (RFC 9113 section 8.7).
    #[error("the backend refused the request's stream")]
    Refused(#[source] hyper::Error),
    /// The backend reset the request's stream.
    #[error("the backend reset the request's stream")]
    Reset(#[source] hyper::Error),
    /// A WebSocket, and the upstream is spoken to in HTTP/2 only.
    #[error("an upstream with protocol = \"http2\" takes no WebSockets")]
    NoTunnel,
    /// What the backend sent is not HTTP.
    #[error("the backend's answer is not HTTP")]
    Nonsense(#[source] hyper::Error),
    /// What the backend sent is HTTP that must not be forwarded.
    #[error("the backend's answer cannot be forwarded: {0}")]
    Unacceptable(&'static str),
    /// The request cannot be written as the upstream's protocol has it.
    #[error("the request cannot be sent: {0}")]
    Unsendable(&'static str),
    /// The request's own body failed; the problem says how.
    #[error("the request body failed while it was forwarded")]
    RequestBody {
        /// What the client is told.
        problem: Problem,
        /// How it failed.
        source: hyper::Error,
    },
}

impl SendError {
    /// The name in metrics and logs.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "connect",
            Self::ConnectTimeout { .. } => "connect_timeout",
            Self::Tls { .. } => "tls",
            Self::TlsTimeout { .. } => "tls_timeout",
            Self::Refused(_) => "refused",
            Self::Reset(_) => "reset",
            Self::NoTunnel => "no_tunnel",
            Self::Unsendable(_) => "unsendable",
            Self::Busy { .. } => "busy",
            Self::Unhealthy { .. } => "unhealthy",
            Self::ResponseTimeout => "response_timeout",
            Self::IdleTimeout => "idle_timeout",
            Self::Overdue => "timeout",
            Self::Closed(_) => "closed",
            Self::Nonsense(_) | Self::Unacceptable(_) => "protocol",
            Self::RequestBody { .. } => "request_body",
        }
    }

    /// What the client is told.
    pub fn problem(&self) -> Problem {
        match self {
            Self::Connect { .. }
            | Self::Tls { .. }
            | Self::Closed(_)
            | Self::Reset(_)
            | Self::NoTunnel
            | Self::Nonsense(_)
            | Self::Unacceptable(_) => Problem::BadGateway,
            Self::ConnectTimeout { .. }
            | Self::TlsTimeout { .. }
            | Self::ResponseTimeout
            | Self::IdleTimeout
            | Self::Overdue => Problem::GatewayTimeout,
            Self::Refused(_) | Self::Busy { .. } | Self::Unhealthy { .. } => Problem::Unavailable,
            Self::Unsendable(what) => Problem::MalformedRequest(what),
            Self::RequestBody { problem, .. } => problem.clone(),
        }
    }

    /// Whether the backend, not the request, is to blame for a connection that could not be made.
    pub(super) const fn is_connect(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::ConnectTimeout { .. } | Self::Tls { .. } | Self::TlsTimeout { .. })
    }

    /// Whether it speaks against the server, where a connection was there.
    pub(super) const fn is_servers(&self) -> bool {
        matches!(
            self,
            Self::ResponseTimeout
                | Self::IdleTimeout
                | Self::Closed(_)
                | Self::Refused(_)
                | Self::Reset(_)
                | Self::Nonsense(_)
        )
    }

    /// Whether the backend says that it did nothing with the request.
    pub(super) const fn is_refused(&self) -> bool {
        matches!(self, Self::Refused(_))
    }

    /// Whether the connection may simply have been too old: closed by the backend as we wrote to it.
    pub(super) const fn is_closed(&self) -> bool {
        matches!(self, Self::Closed(_))
    }
}

impl From<hyper::Error> for SendError {
    fn from(error: hyper::Error) -> Self {
        let Some(source) = error.source() else {
            return if error.is_parse() { Self::Nonsense(error) } else { Self::Closed(error) };
        };
        if let Some(body) = source.downcast_ref::<BodyError>() {
            return Self::RequestBody { problem: body.problem(), source: error };
        }
        if let Some(inner) = source.downcast_ref::<io::Error>().and_then(io::Error::get_ref)
            && inner.is::<Endless>()
        {
            return Self::Nonsense(error);
        }
        match source.downcast_ref::<h2::Error>() {
            Some(stream) if stream.is_remote() && stream.reason() == Some(h2::Reason::REFUSED_STREAM) => {
                Self::Refused(error)
            }
            // The streams that a GOAWAY ends are those above the last one the peer has looked at (section 6.8).
            Some(stream) if stream.is_remote() && stream.is_go_away() => Self::Refused(error),
            Some(stream) if stream.is_remote() && stream.is_reset() => Self::Reset(error),
            Some(stream) if stream.is_library() => Self::Nonsense(error),
            None if error.is_parse() => Self::Nonsense(error),
            _ => Self::Closed(error),
        }
    }
}

impl From<SendError> for Refusal {
    #[cold]
    fn from(error: SendError) -> Self {
        let problem = error.problem();
        // What a client did wrong is no fault of ours: anybody could fill the log with errors.
        let fault = match error {
            SendError::RequestBody { .. } | SendError::Unsendable(_) => None,
            error => Some(Fault::new(error)),
        };
        Self { problem, fault }
    }
}
