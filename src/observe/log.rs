//! The log: events of the gateway, a line a request, the audit trail.
//!
//! All three are lines of one format on one output, told apart by `kind` (`event`, `access`, `audit`); the
//! audit trail can have a file of its own besides. [`init`] is called once by `app` (and by the operator's
//! commands, with [`Output::Stderr`]); everything else holds a [`Logs`] or uses `tracing`'s macros.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use super::access::AccessLine;
pub use super::access::told;
use super::audit;
use super::mask;
use super::metrics::Metrics;
use super::metrics::labels::LogStream;
use super::sink::{Durable, Sink, Weight, Writer};
use super::{LogFormat, LogSettings};
use crate::model::time::Clock;

/// How long the log's thread rests between two writes: what a person at a terminal does not see.
const PAUSE: Duration = Duration::from_millis(10);

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter cannot be read.
    #[error(
        "log.level: `{level}` is no filter ({reason}): write `error`, `warn`, `info`, `debug` or `trace`, or such as `info,tollgate::edge=debug`"
    )]
    Filter {
        /// What is configured.
        level: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The audit trail's file cannot be written.
    #[error("{}: the audit trail cannot be written ({source}): make its folder writable for the gateway's user", file.display())]
    AuditFile {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The log's thread cannot be started.
    #[error("the log's thread cannot be started: {0}")]
    Thread(io::Error),
    /// There is a log already in this process.
    #[error("a log was set up before in this process")]
    Twice,
    /// There is no log whose level could be changed.
    #[error("this gateway writes no log")]
    Off,
}

/// Where lines go.
#[derive(Debug)]
pub enum Output {
    /// For a server.
    Stdout,
    /// For a command whose answer goes to standard output.
    Stderr,
}

/// Hands lines to the log. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Logs(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    format: LogFormat,
    access: AtomicBool,
    level: Mutex<Levels>,
    /// What decides which events are written, once `tracing` hands them over.
    filter: OnceLock<reload::Handle<EnvFilter, Registry>>,
    log: Sink,
    audit: Option<Sink>,
    clock: Arc<dyn Clock>,
}

/// Which events are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Levels {
    /// What the configuration says.
    pub configured: String,
    /// What the operator said since; `None`: as configured.
    pub set: Option<String>,
}

/// Owns the log's threads: keep it to the end of `main`, and finish it there.
#[derive(Debug)]
pub struct LogWriter(Vec<Writer>);

/// Opens the log and makes it `tracing`'s for the whole process.
pub fn init(
    settings: &LogSettings,
    output: &Output,
    clock: Arc<dyn Clock>,
    metrics: &Metrics,
) -> Result<(Logs, LogWriter), LogError> {
    let out: Box<dyn Write + Send> = match output {
        Output::Stdout => Box::new(io::stdout()),
        Output::Stderr => Box::new(io::stderr()),
    };
    let filter = filter(&settings.level)?;
    let (logs, writer) = Logs::open(settings, out, clock, metrics)?;
    tracing::subscriber::set_global_default(logs.subscriber(filter)).map_err(|_| LogError::Twice)?;
    Ok((logs, writer))
}

/// Whether `level` is a filter that [`init`] will take.
pub fn check_level(level: &str) -> Result<(), LogError> {
    filter(level).map(drop)
}

pub(super) fn filter(level: &str) -> Result<EnvFilter, LogError> {
    // A word that is no level would be the name of a part, of which alone there were lines then.
    let is_none =
        |part: &&str| !part.is_empty() && !part.contains(['=', '[', ']']) && part.parse::<LevelFilter>().is_err();
    let bare = level.split(',').map(str::trim).find(is_none);
    if let Some(bare) = bare {
        let reason = format!("`{bare}` is no level");
        return Err(LogError::Filter { level: level.to_owned(), reason });
    }
    EnvFilter::try_new(level).map_err(|error| LogError::Filter { level: level.to_owned(), reason: told(&error) })
}

impl Logs {
    /// A log that says nothing, for tests and tools.
    pub const fn off() -> Self {
        Self(None)
    }

    /// Opens a log on `out` without making it `tracing`'s.
    pub fn open(
        settings: &LogSettings,
        out: Box<dyn Write + Send>,
        clock: Arc<dyn Clock>,
        metrics: &Metrics,
    ) -> Result<(Self, LogWriter), LogError> {
        let (log, writer) = Sink::start(out, PAUSE, metrics.lines_dropped(LogStream::Log)).map_err(LogError::Thread)?;
        let mut writers = vec![writer];
        let audit = match &settings.audit_file {
            Some(file) => {
                let dropped = metrics.lines_dropped(LogStream::Audit);
                let (sink, writer) =
                    Sink::start(audit_file(file)?, Duration::ZERO, dropped).map_err(LogError::Thread)?;
                writers.push(writer);
                Some(sink)
            }
            None => None,
        };
        let inner = Inner {
            format: settings.format,
            access: AtomicBool::new(settings.access),
            level: Mutex::new(Levels { configured: settings.level.clone(), set: None }),
            filter: OnceLock::new(),
            log,
            audit,
            clock,
        };
        Ok((Self(Some(Arc::new(inner))), LogWriter(writers)))
    }

    /// Takes over what a configuration that was read again says of events and access lines. A level that the operator
    /// has set stays unless the configured one is another now.
    pub fn configure(&self, settings: &LogSettings) -> Result<(), LogError> {
        let Some(inner) = &self.0 else { return Ok(()) };
        let mut level = inner.level();
        if level.configured != settings.level {
            inner.apply(&settings.level)?;
            *level = Levels { configured: settings.level.clone(), set: None };
        }
        inner.access.store(settings.access, Ordering::Relaxed);
        Ok(())
    }

    /// Writes events by another filter from now on; `None`: by the configured one again.
    pub fn set_level(&self, set: Option<&str>) -> Result<(), LogError> {
        let inner = self.0.as_ref().ok_or(LogError::Off)?;
        let mut level = inner.level();
        inner.apply(set.unwrap_or(&level.configured))?;
        level.set = set.map(str::to_owned);
        Ok(())
    }

    /// Which events are written; `None`: none ever are.
    pub fn level(&self) -> Option<Levels> {
        Some(self.0.as_ref()?.level().clone())
    }

    /// What `tracing` hands its events to.
    pub(super) fn subscriber(&self, filter: EnvFilter) -> impl Subscriber + Send + Sync + use<> {
        let (filter, handle) = reload::Layer::new(filter);
        if let Some(inner) = &self.0 {
            // A second subscriber of one log, which only tests make, keeps its own filter.
            let _ = inner.filter.set(handle);
        }
        Registry::default().with(Events(self.clone()).with_filter(filter))
    }

    /// Whether access lines are written at all.
    pub fn wants_access(&self) -> bool {
        self.0.as_ref().is_some_and(|inner| inner.access.load(Ordering::Relaxed))
    }

    /// Writes a request's line.
    pub fn access(&self, line: &AccessLine<'_>) {
        if let Some(inner) = self.0.as_ref().filter(|_| self.wants_access()) {
            let put = |buffer: &mut Vec<u8>| match inner.format {
                LogFormat::Json => line.json(buffer),
                LogFormat::Text => put_text(line, buffer),
            };
            with_line(inner.format, put, |line| inner.log.push(line, Weight::Light));
        }
    }

    /// Writes an entry of the audit trail, to the log and to the trail's own file.
    pub fn audit(&self, event: &audit::Event<'_>) {
        let Some(inner) = &self.0 else { return };
        let json = event.json();
        if let Some(audit) = &inner.audit {
            with_line(LogFormat::Json, |buffer| put_json(&json, buffer), |line| audit.push(line, Weight::Heavy));
        }
        let put = |buffer: &mut Vec<u8>| match inner.format {
            LogFormat::Json => put_json(&json, buffer),
            LogFormat::Text => put_text(event, buffer),
        };
        with_line(inner.format, put, |line| inner.log.push(line, Weight::Heavy));
    }
}

impl Inner {
    fn level(&self) -> MutexGuard<'_, Levels> {
        self.level.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(&self, level: &str) -> Result<(), LogError> {
        let filter = filter(level)?;
        // Before `tracing` hands events over there is nothing to filter, and after it none are left.
        self.filter.get().map_or(Ok(()), |handle| handle.reload(filter)).map_err(|_| LogError::Off)
    }
}

impl LogWriter {
    /// Writes what waits and ends the threads; `false` when an output took longer than `patience`.
    #[must_use]
    pub fn finish(self, patience: Duration) -> bool {
        // Each is waited for, also after one that is stuck.
        self.0.iter().filter(|writer| !writer.finish(patience)).count() == 0
    }
}

fn audit_file(file: &Path) -> Result<Box<dyn Write + Send>, LogError> {
    let opened = Durable::open(file).map_err(|source| LogError::AuditFile { file: file.to_owned(), source })?;
    Ok(Box::new(opened))
}

fn put_json(line: &impl serde::Serialize, buffer: &mut Vec<u8>) {
    // Writing to memory does not fail, and no map here has a key that is not text.
    let _ = serde_json::to_writer(buffer, line);
}

fn put_text(line: &impl fmt::Display, buffer: &mut Vec<u8>) {
    let _ = write!(buffer, "{line}");
}

/// Builds a line in this thread's buffers, escapes it, ends it, and hands it on: no allocation a line.
fn with_line(format: LogFormat, put: impl FnOnce(&mut Vec<u8>), hand_on: impl FnOnce(&[u8])) {
    thread_local! {
        static BUFFERS: RefCell<(Vec<u8>, Vec<u8>)> = const { RefCell::new((Vec::new(), Vec::new())) };
    }
    BUFFERS.with_borrow_mut(|(raw, line)| {
        raw.clear();
        line.clear();
        put(raw);
        match format {
            LogFormat::Json => mask::append_json(raw, line),
            LogFormat::Text => mask::append_text(raw, line),
        }
        line.push(b'\n');
        hand_on(line);
    });
}

/// Takes `tracing`'s events.
struct Events(Logs);

impl<S: Subscriber> Layer<S> for Events {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let Some(inner) = &self.0.0 else { return };
        let mut fields = Fields::default();
        event.record(&mut fields);
        let time = inner.clock.now().wall.to_rfc3339();
        let (level, target) = (*event.metadata().level(), event.metadata().target());
        let put = |buffer: &mut Vec<u8>| match inner.format {
            LogFormat::Json => put_json(&fields.json(&time, level, target), buffer),
            LogFormat::Text => put_text(&fields.text(&time, level, target), buffer),
        };
        with_line(inner.format, put, |line| inner.log.push(line, Weight::Heavy));
    }
}

/// An event's fields, with what looks like a credential starred out.
#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, Value)>,
}

impl Fields {
    fn json(&self, time: &str, level: Level, target: &str) -> Value {
        let mut line = Map::new();
        line.insert("time".into(), time.into());
        line.insert("kind".into(), "event".into());
        line.insert("level".into(), level.as_str().to_ascii_lowercase().into());
        line.insert("target".into(), target.into());
        line.insert("message".into(), self.message.as_str().into());
        for (name, value) in &self.others {
            // What tells lines apart is not the event's to overwrite.
            line.entry(*name).or_insert_with(|| value.clone());
        }
        Value::Object(line)
    }

    fn text(&self, time: &str, level: Level, target: &str) -> String {
        let mut line = format!("{time} {level:<5} {target}: {}", self.message);
        for (name, value) in &self.others {
            let _ = write!(line, " {name}={value}");
        }
        line
    }

    fn put(&mut self, field: &Field, value: Value) {
        self.others.push((field.name(), value));
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = mask::scrub(&format!("{value:?}"));
        if field.name() == "message" { self.message = text } else { self.put(field, text.into()) }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let text = mask::scrub(value);
        if field.name() == "message" { self.message = text } else { self.put(field, text.into()) }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, told(value).into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}
