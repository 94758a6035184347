//! What can go wrong between us and a backend, and what the client is told of it.

use std::error::Error as _;
use std::io;

use super::body::BodyError;
use crate::model::problem::Problem;
use crate::model::refusal::{Fault, Refusal};

/// Why there is no answer to forward.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No server of the upstream could be reached: refused, unknown, or TLS failed.
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
    /// All connections are in use, and none was freed in time or the queue for them is full.
    #[error("every connection to {server} is in use")]
    Busy {
        /// The server.
        server: String,
    },
    /// The backend has the request and did not answer in time.
    #[error("no answer in time")]
    ResponseTimeout,
    /// The backend stopped taking the request's body.
    #[error("the backend stopped taking the request body")]
    IdleTimeout,
    /// The backend closed the connection instead of answering.
    #[error("the backend closed the connection without an answer")]
    Closed(#[source] hyper::Error),
    /// What the backend sent is not HTTP.
    #[error("the backend's answer is not HTTP")]
    Nonsense(#[source] hyper::Error),
    /// What the backend sent is HTTP that must not be forwarded.
    #[error("the backend's answer cannot be forwarded: {0}")]
    Unacceptable(&'static str),
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
            Self::Busy { .. } => "busy",
            Self::ResponseTimeout => "response_timeout",
            Self::IdleTimeout => "idle_timeout",
            Self::Closed(_) => "closed",
            Self::Nonsense(_) | Self::Unacceptable(_) => "protocol",
            Self::RequestBody { .. } => "request_body",
        }
    }

    /// What the client is told.
    pub fn problem(&self) -> Problem {
        match self {
            Self::Connect { .. } | Self::Closed(_) | Self::Nonsense(_) | Self::Unacceptable(_) => Problem::BadGateway,
            Self::ConnectTimeout { .. } | Self::ResponseTimeout | Self::IdleTimeout => Problem::GatewayTimeout,
            Self::Busy { .. } => Problem::Unavailable,
            Self::RequestBody { problem, .. } => problem.clone(),
        }
    }

    /// Whether the backend, not the request, is to blame for a connection that could not be made.
    pub(super) const fn is_connect(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::ConnectTimeout { .. })
    }

    /// Whether the connection may simply have been too old: closed by the backend as we wrote to it.
    pub(super) const fn is_closed(&self) -> bool {
        matches!(self, Self::Closed(_))
    }
}

impl From<hyper::Error> for SendError {
    fn from(error: hyper::Error) -> Self {
        match error.source().and_then(|source| source.downcast_ref::<BodyError>()) {
            Some(BodyError::TooLarge) => Self::RequestBody { problem: Problem::PayloadTooLarge, source: error },
            Some(BodyError::ClientStalled) => Self::RequestBody { problem: Problem::RequestTimeout, source: error },
            Some(_) => {
                Self::RequestBody { problem: Problem::MalformedRequest("the body ended too early"), source: error }
            }
            None if error.is_parse() => Self::Nonsense(error),
            None => Self::Closed(error),
        }
    }
}

impl From<SendError> for Refusal {
    fn from(error: SendError) -> Self {
        Self { problem: error.problem(), fault: Some(Fault::new(error)) }
    }
}
