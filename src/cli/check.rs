//! `tollgate check`: is this configuration usable?

use std::path::Path;
use std::process::ExitCode;

use super::say;
use crate::contract::source::Located;

/// Checks the file and says so; exit status 78 (`EX_CONFIG`) when it cannot be used.
pub fn run(path: &Path) -> anyhow::Result<ExitCode> {
    let loaded = match super::Reading::to_look().load(path) {
        Ok(loaded) => loaded,
        Err(errors) => return Ok(complain(path, &errors)),
    };
    for warning in &loaded.warnings {
        eprintln!("warning: {warning}");
    }
    say!("{} is good", path.display());
    for site in &loaded.snapshot.sites {
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

/// Prints every error with its place and remedy.
pub fn complain(path: &Path, errors: &[Located]) -> ExitCode {
    for error in errors {
        eprintln!("{error}");
    }
    let count = errors.len();
    let errors = if count == 1 { "error" } else { "errors" };
    eprintln!("{} cannot be used: {count} {errors}", path.display());
    ExitCode::from(super::EX_CONFIG)
}
