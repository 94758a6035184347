//! `tollgate serve`: the gateway, until it is told to stop.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use super::{ConfigFile, Reading};
use crate::app::handover::{self, Predecessor};
use crate::app::listeners::Inherited;
use crate::app::{self, Asked, Before, Ended, Parts};
use crate::config::env::Override;
use crate::config::template::{self, Place};
use crate::config::{Loaded, Read};
use crate::model::entropy::SystemEntropy;
use crate::model::time::{Clock, SystemClock};
use crate::observe::log::{self, LogWriter, Logs, Output};
use crate::observe::metrics::Metrics;

/// How long the last log lines may take.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// `tollgate serve …`
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// Try it before one backend, without a configuration file: everything that is authenticated goes there.
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    upstream: Option<String>,
    /// Listen here for https instead of where the configuration says.
    #[arg(long, value_name = "ADDRESS")]
    https: Option<String>,
    /// Listen here for plain http as well.
    #[arg(long, value_name = "ADDRESS")]
    http: Option<String>,
    /// Listen here for the operator instead of where the configuration says.
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<String>,
}

impl Arguments {
    fn flags(&self) -> Vec<Override> {
        let given = [
            ("--https", "listen.https", &self.https),
            ("--http", "listen.http", &self.http),
            ("--admin", "listen.admin", &self.admin),
        ];
        let set = |(flag, key, value): (&str, &str, &Option<String>)| {
            value.as_ref().map(|value| Override::from_flag(flag, key, value))
        };
        given.into_iter().filter_map(set).collect()
    }
}

/// Serves until SIGTERM or SIGINT, then drains; SIGHUP and a changed file read the configuration again.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let (inherited, predecessor) = inherited()?;
    let before = if predecessor.is_some() { handover::before() } else { Before::default() };
    let runtime = app::runtime()?;
    let asked = runtime.block_on(async { Asked::listen() })?;
    let given = arguments.clone();
    let read = move |before: Before| {
        let reading = Reading::to_serve(given.flags(), before);
        match &given.upstream {
            Some(url) => reading.read_text("(--upstream)", &template::for_upstream(url, &Place::default())),
            None => reading.read(&given.file.config),
        }
    };
    let Read { outcome, footprint } = read(before);
    let loaded = match outcome {
        Ok(loaded) => loaded,
        Err(errors) => {
            let name = if arguments.upstream.is_some() { Path::new("--upstream") } else { &arguments.file.config };
            return Ok(super::check::complain(name, &errors));
        }
    };
    for warning in &loaded.warnings {
        eprintln!("warning: {warning}");
    }
    let opened = Opened::new(&loaded)?;
    let served = runtime.block_on(async {
        let running = app::start_on(inherited, loaded, opened.parts.clone()).await?;
        if let Some(predecessor) = predecessor {
            predecessor.ready();
        }
        Ok(status(running.until_signal(asked, read, footprint).await?))
    });
    // First the tasks that were cut off, whose last lines are still to be written.
    runtime.shutdown_timeout(LAST_WORDS);
    opened.finish();
    served
}

/// Listeners from the process before this one, or from the service manager. Both are said in the environment by whoever
/// has started this process, and by no `.env` file.
fn inherited() -> anyhow::Result<(Inherited, Option<Predecessor>)> {
    if std::env::var_os(handover::VARIABLE).is_some() {
        return handover::inherit().map(|(inherited, predecessor)| (inherited, Some(predecessor)));
    }
    let names = std::env::var_os("LISTEN_FDNAMES");
    Ok((Inherited::from_manager(names.as_deref().and_then(|names| names.to_str()))?, None))
}

/// A second signal is no clean end: somebody may have to look at what was cut off.
pub fn status(ended: Ended) -> ExitCode {
    match ended {
        Ended::Drained => ExitCode::SUCCESS,
        Ended::CutOff => ExitCode::FAILURE,
    }
}

/// What the machine gives, with the log's threads that must be ended.
pub struct Opened {
    /// The parts to start with.
    pub parts: Parts,
    writer: Option<LogWriter>,
}

impl Opened {
    /// Opens the log as configured.
    pub fn new(loaded: &Loaded) -> anyhow::Result<Self> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let metrics = Arc::new(Metrics::new(clock.now().wall));
        let (logs, writer) = log::init(&loaded.boot.log, &Output::Stdout, Arc::clone(&clock), &metrics)?;
        Ok(Self { parts: Parts { clock, entropy: Arc::new(SystemEntropy), metrics, logs }, writer: Some(writer) })
    }

    /// With a log that says nothing.
    pub fn silent() -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let metrics = Arc::new(Metrics::new(clock.now().wall));
        Self { parts: Parts { clock, entropy: Arc::new(SystemEntropy), metrics, logs: Logs::off() }, writer: None }
    }

    /// Writes what waits to be logged.
    pub fn finish(self) {
        if self.writer.is_some_and(|writer| !writer.finish(LAST_WORDS)) {
            eprintln!("tollgate: the last log lines could not be written in {LAST_WORDS:?}");
        }
    }
}
