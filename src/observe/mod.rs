//! Seen from outside: metrics, logs, the audit trail.
//!
//! Everyone may count and log; nobody here decides anything. [`metrics::Metrics`] and [`log::Logs`] are made
//! by `app` and handed down: there is no global but `tracing`'s own.

pub mod access;
pub mod audit;
pub mod log;
mod mask;
pub mod metrics;
mod object;
pub mod otlp;
mod sink;
pub mod spans;
#[cfg(test)]
mod tests;
pub mod trace;

use std::path::PathBuf;

/// How logs are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// `error`, `warn`, `info`, `debug` or `trace`, or a filter such as `info,tollgate::edge=debug`.
    pub level: String,
    /// JSON lines, or text for a person.
    pub format: LogFormat,
    /// Whether each request is logged.
    pub access: bool,
    /// Where the audit trail goes beside the log; `None`: the log alone.
    pub audit_file: Option<PathBuf>,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For a person at a terminal.
    Text,
}
