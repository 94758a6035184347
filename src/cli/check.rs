//! `tollgate check`: is this configuration usable? Or this contract, where the file is one.

use std::fmt::Display;
use std::path::Path;
use std::process::ExitCode;

use super::say;
use crate::config::Loaded;
use crate::contract::compile;
use crate::contract::source::{Located, Source};
use crate::gateway::Live;
use crate::limit::Limiter;
use crate::model::time::{Clock, SystemClock};
use crate::observe::log;
use crate::observe::metrics::Metrics;
use crate::{store, tls};

/// Checks the file and says so; exit status 78 (`EX_CONFIG`) when it cannot be used.
pub fn run(path: &Path) -> anyhow::Result<ExitCode> {
    if let Some(source) = contract(path) {
        return judge(path, &source);
    }
    let loaded = match super::Reading::to_look().load(path) {
        Ok(loaded) => loaded,
        Err(errors) => return Ok(complain(path, &errors)),
    };
    for warning in &loaded.warnings {
        eprintln!("warning: {warning}");
    }
    let sites = loaded.snapshot.sites.clone();
    let faults = start(loaded);
    if !faults.is_empty() {
        return Ok(tell(path, &faults));
    }
    say!("{} is good", path.display());
    for site in &sites {
        let asked = match &site.client_certificates {
            None => "",
            Some(policy) if policy.required => ", client certificates required",
            Some(_) => ", client certificates verified where shown",
        };
        say!(
            "  site {}: contract {}, hosts {}, {} native operations, {} routes, {} upstreams{asked}",
            site.name,
            site.contract.name,
            site.hosts.join(", "),
            site.contract.operations.len(),
            site.routes.len(),
            site.upstreams.len(),
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// What a start would find wrong with what the files hold, and with the URLs of what it would connect to. Nothing is opened
/// but files, and nobody is asked.
fn start(loaded: Loaded) -> Vec<String> {
    let now = SystemClock::new().now().wall;
    let Loaded { boot, snapshot, .. } = loaded;
    // Development certificates are made by the start, and not here.
    let served = boot.tls.as_ref().filter(|settings| !matches!(settings, tls::Settings::Development { .. }));
    let tls = served.map_or(Ok(()), |settings| tls::Server::new(settings, now).map(drop));
    let live = Live::new(snapshot, &Metrics::new(now), None).map(drop);
    let faults = [
        tls.map_err(|error| format!("[tls] {}", log::told(&error))),
        live.map_err(|error| log::told(&error)),
        store::check(&boot.store).map_err(|error| format!("[store] {}", log::told(&error))),
        Limiter::new(&boot.limit).map(drop).map_err(|error| format!("[limits] redis_url: {}", log::told(&error))),
    ];
    faults.into_iter().filter_map(Result::err).collect()
}

/// The file, where it is a product's contract. What else is wrong with either is told by whoever reads it as such.
fn contract(path: &Path) -> Option<Source> {
    let text = std::fs::read_to_string(path).ok()?;
    compile::is_contract(&text).then(|| Source::new(path.display().to_string(), text))
}

fn judge(path: &Path, source: &Source) -> anyhow::Result<ExitCode> {
    let contract = match compile::load(source) {
        Ok(contract) => contract,
        Err(errors) => return Ok(tell(path, &errors)),
    };
    say!(
        "{} is a good contract: {}, {} operations, {} roles, {} plans",
        path.display(),
        contract.name,
        contract.operations.len(),
        contract.roles.len(),
        contract.plans.len(),
    );
    say!("  it counts where a configuration names it, which is checked apart: [[site]] contract = \"{}\"", named(path));
    Ok(ExitCode::SUCCESS)
}

/// The path as a configuration writes it: a bare name would be that of a contract that is built in.
fn named(path: &Path) -> String {
    let bare = path.components().count() == 1;
    format!("{}{}", if bare { "./" } else { "" }, path.display())
}

/// Prints why a configuration cannot be used.
pub fn complain(path: &Path, errors: &[Located]) -> ExitCode {
    if contract(path).is_none() {
        return tell(path, errors);
    }
    eprintln!("{} is a product's contract and no configuration", path.display());
    eprintln!(
        "    help: name it in one: [[site]] contract = \"{}\" (`tollgate check` checks it by itself)",
        named(path)
    );
    ExitCode::from(super::EX_CONFIG)
}

/// Prints every error with its place and remedy.
fn tell(path: &Path, errors: &[impl Display]) -> ExitCode {
    for error in errors {
        eprintln!("{error}");
    }
    let count = errors.len();
    let errors = if count == 1 { "error" } else { "errors" };
    eprintln!("{} cannot be used: {count} {errors}", path.display());
    ExitCode::from(super::EX_CONFIG)
}
