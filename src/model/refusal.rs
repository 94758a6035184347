//! Why a request goes no further: what the client is told and, where it is our fault, what we log.

use std::error::Error;

use super::problem::Problem;

/// A refusal on its way to the client. Stages return it; `edge::respond` alone renders it.
#[derive(Debug)]
pub struct Refusal {
    /// What the client is told.
    pub problem: Problem,
    /// What went wrong on our side, for the log.
    pub fault: Option<Fault>,
}

/// Something that went wrong on our side. Its text goes to the log with the request's id, never to a client.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Fault(Box<dyn Error + Send + Sync>);

impl Fault {
    /// A fault caused by `source`.
    pub fn new(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(source.into())
    }
}

impl Refusal {
    /// We cannot serve now because of `source`: 503.
    #[cold]
    pub fn unavailable(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { problem: Problem::Unavailable, fault: Some(Fault::new(source)) }
    }

    /// Something that should not happen did: 500.
    #[cold]
    pub fn internal(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { problem: Problem::Internal, fault: Some(Fault::new(source)) }
    }
}

impl From<Problem> for Refusal {
    /// Cold, as all that ends a request early: what goes on is kept together in the code.
    #[cold]
    fn from(problem: Problem) -> Self {
        Self { problem, fault: None }
    }
}
