//! What a site asks of its clients' certificates.
//!
//! All of it is read here, not only looked at: `tollgate check` says what is wrong with a file, and a reload that cannot
//! use one changes nothing. A site never falls back to asking for less.

use std::sync::Arc;

use toml::Spanned;

use super::given::Given;
use super::raw::{RawClientCertificates, Texts, each};
use crate::contract::source::Report;
use crate::tls::clients::{Policy, PolicyError, authorities, revocation_lists};

/// Every file that it names.
pub(super) fn files(raw: &RawClientCertificates) -> Vec<String> {
    [&raw.authorities, &raw.revocation_lists].into_iter().flat_map(each).map(Spanned::into_inner).collect()
}

/// The policy; `None` when something is wrong, which was then told.
pub(super) fn compile(
    around: &Spanned<RawClientCertificates>,
    given: &Given,
    report: &mut Report<'_>,
) -> Option<Arc<Policy>> {
    let raw = around.get_ref();
    let before = report.errors.len();
    if each(&raw.authorities).is_empty() {
        let remedy = "add authorities = \"….pem\": the certificates of whoever issues the clients' certificates";
        report.tell(&around.span(), "nobody is named who vouches for clients", remedy);
    }
    let vouching = read(&raw.authorities, given, report, authorities);
    let lists = read(&raw.revocation_lists, given, report, |pem| revocation_lists(pem, &vouching));
    if report.errors.len() > before {
        return None;
    }
    let required = raw.required.as_ref().is_none_or(|required| *required.get_ref());
    let policy = Policy::new(&vouching, &lists, required);
    policy.map(Arc::new).map_err(|error| report.tell(&around.span(), error.to_string(), error.remedy())).ok()
}

/// What stands in all of the files together.
fn read<T>(
    texts: &Texts,
    given: &Given,
    report: &mut Report<'_>,
    parse: impl Fn(&[u8]) -> Result<Vec<T>, PolicyError>,
) -> Vec<T> {
    let mut all = Vec::new();
    for text in each(texts) {
        let path = text.get_ref();
        match given.client_files.get(path).map(|bytes| bytes.as_deref().map(&parse)) {
            Some(Ok(Ok(found))) => all.extend(found),
            Some(Ok(Err(error))) => report.tell(&text.span(), format!("`{path}` {error}"), error.remedy()),
            Some(Err(reason)) => {
                let remedy = "name a PEM file that this user can read";
                report.tell(&text.span(), format!("cannot read `{path}`: {reason}"), remedy);
            }
            // `load` reads whatever is named here; were it ever not to, nothing may be taken for an empty file.
            None => report.tell(&text.span(), format!("`{path}` was not read"), "start the gateway anew"),
        }
    }
    all
}
