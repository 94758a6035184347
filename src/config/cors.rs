//! Cross-origin requests: pages of which other sites may call a site from a browser, and what they may send and see.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, Uri};
use toml::Spanned;

use super::raw::{RawCors, Texts, each};
use super::values::{duration, secs};
use crate::contract::source::Report;

/// What browsers are told (Fetch standard, section 3.2), ready to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// The origins, as browsers write them; `None`: every one.
    origins: Option<Vec<String>>,
    /// The methods that pages may use.
    pub methods: HeaderValue,
    /// The headers that pages may send.
    pub headers: HeaderValue,
    /// The headers of answers that pages may read.
    pub exposed: Option<HeaderValue>,
    /// Whether browsers send cookies along, and client certificates.
    pub credentials: bool,
    /// How long a browser may keep the answer to a preflight, in seconds.
    pub max_age: HeaderValue,
}

impl Cors {
    /// Whether the answer is the same for every origin.
    pub const fn is_for_everyone(&self) -> bool {
        self.origins.is_none()
    }

    /// What a page of `origin` is told; `None`: nothing.
    pub fn allows(&self, origin: &HeaderValue) -> Option<HeaderValue> {
        match &self.origins {
            None => Some(HeaderValue::from_static("*")),
            Some(origins) => origins.iter().any(|own| own.as_bytes() == origin.as_bytes()).then(|| origin.clone()),
        }
    }
}

/// Reads `[site.cors]`; `None` when something is wrong, which was then told.
pub(super) fn compile(raw: &Spanned<RawCors>, report: &mut Report<'_>) -> Option<Cors> {
    let around = raw.span();
    let raw = raw.get_ref();
    let before = report.errors.len();
    let texts = each(&raw.origins);
    let everyone = texts.iter().find(|text| text.get_ref() == "*");
    if texts.is_empty() {
        report.tell(&around, "no origin is allowed anything", "add origins = [\"https://app.example.com\"]");
    }
    if let Some(everyone) = everyone {
        if texts.len() > 1 {
            report.tell(&everyone.span(), "`*` is every origin already", "name the origins, or `*` alone");
        }
        if raw.credentials.as_ref().is_some_and(|credentials| *credentials.get_ref()) {
            // Any page in the world could act as whoever looks at it.
            let remedy = "name the origins, or leave credentials out";
            report.tell(&everyone.span(), "`*` with credentials lets every page act for its visitors", remedy);
        }
    }
    for text in texts.iter().filter(|text| text.get_ref() != "*") {
        if let Err(remedy) = origin(text.get_ref()) {
            report.tell(&text.span(), format!("`{}` is not an origin", text.get_ref()), remedy);
        }
    }
    let method = |text: &str| {
        let upper = !text.bytes().any(|byte| byte.is_ascii_lowercase());
        upper && text != "*" && Method::from_bytes(text.as_bytes()).is_ok()
    };
    let header = |text: &str| text != "*" && HeaderName::from_bytes(text.as_bytes()).is_ok();
    let methods = list(&raw.methods, &["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"], ("method", method), report);
    let headers = list(&raw.headers, &["Authorization", "Content-Type"], ("header", header), report);
    let seen = ["X-Request-Id", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "Retry-After"];
    let exposed = list(&raw.exposed, &seen, ("header", header), report);
    let max_age: Duration = duration(&raw.max_age, secs(600), secs(0)..=secs(86_400), report);
    if report.errors.len() > before {
        return None;
    }
    Some(Cors {
        origins: everyone.is_none().then(|| texts.into_iter().map(Spanned::into_inner).collect()),
        methods: methods?,
        headers: headers?,
        exposed: exposed.filter(|exposed| !exposed.is_empty()),
        credentials: raw.credentials.as_ref().is_some_and(|credentials| *credentials.get_ref()),
        max_age: HeaderValue::from(max_age.as_secs()),
    })
}

/// Whether browsers write an origin like this: scheme, host and a port that is not the scheme's own, in lower case
/// (RFC 6454 section 6.2). Another spelling would never match.
fn origin(text: &str) -> Result<(), &'static str> {
    const REMEDY: &str = "write `https://app.example.com`, with a port where it is not the scheme's own";
    if text.contains('*') {
        return Err("name each origin: one is compared as it stands, and `*` within it stands for nothing");
    }
    let uri: Uri = text.parse().map_err(|_| REMEDY)?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else { return Err(REMEDY) };
    if !matches!(scheme, "http" | "https") || authority.as_str().contains('@') {
        return Err(REMEDY);
    }
    if text.len() != scheme.len() + "://".len() + authority.as_str().len() {
        return Err("leave out what stands behind the host and the port, the slash too");
    }
    let own = if scheme == "https" { 443 } else { 80 };
    if authority.port_u16() == Some(own) || text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err("write it in lower case and without the scheme's own port, as browsers do");
    }
    Ok(())
}

/// Names in one header value.
fn list(
    texts: &Texts,
    default: &[&str],
    (what, is_one): (&str, impl Fn(&str) -> bool),
    report: &mut Report<'_>,
) -> Option<HeaderValue> {
    if texts.is_none() {
        return HeaderValue::from_str(&default.join(", ")).ok();
    }
    let texts = each(texts);
    for text in texts.iter().filter(|text| !is_one(text.get_ref())) {
        let remedy = format!("name each {what}: `*` is not the same in every browser, and never covers Authorization");
        report.tell(&text.span(), format!("`{}` is not a {what}'s name", text.get_ref()), remedy);
    }
    let names: Vec<&str> = texts.iter().map(|text| text.get_ref().as_str()).collect();
    HeaderValue::from_str(&names.join(", ")).ok()
}
