//! The headers that tell backends who calls: their names, where a site has its own.

use std::collections::BTreeMap;

use http::HeaderName;
use toml::Spanned;

use super::snapshot::IdentityNames;
use crate::contract::source::{Report, suggest};

/// Headers that mean something to HTTP, to the credential or to the gateway: no identity header can be one.
const TAKEN: &[&str] = &[
    "host",
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "content-length",
    "content-type",
    "content-encoding",
    "authorization",
    "cookie",
    "set-cookie",
    "forwarded",
    "x-request-id",
    "x-real-ip",
    "traceparent",
    "tracestate",
    "via",
    "expect",
    "date",
    "accept",
    "accept-encoding",
    "user-agent",
    "origin",
    "referer",
    "range",
    "cache-control",
];

/// The names as the site has them.
pub(super) fn names(raw: &BTreeMap<Spanned<String>, Spanned<String>>, report: &mut Report<'_>) -> IdentityNames {
    let mut names = IdentityNames::default();
    let mut chosen = Vec::new();
    for (key, text) in raw {
        let Some(slot) = names.named(key.get_ref()) else {
            let known = IdentityNames::default();
            let remedy = suggest(key.get_ref(), known.all().map(|(name, _)| name));
            report.tell(&key.span(), format!("there is no identity header `{}`", key.get_ref()), remedy);
            continue;
        };
        match HeaderName::try_from(text.get_ref().as_str()) {
            Ok(name) if TAKEN.contains(&name.as_str()) || name.as_str().starts_with("x-forwarded-") => {
                let message = format!("`{}` means something else already", text.get_ref());
                report.tell(&text.span(), message, "choose a name of your own, such as `X-User-Id`");
            }
            Ok(name) => {
                *slot = name;
                chosen.push((key.get_ref().as_str(), text));
            }
            Err(_) => {
                let message = format!("`{}` is not a header name", text.get_ref());
                report.tell(&text.span(), message, "write letters, digits and `-`: `X-User-Id`");
            }
        }
    }
    for (at, (key, text)) in chosen.iter().enumerate() {
        let all = names.all();
        // Of two that were chosen alike one is told of.
        let told = |other: &str| chosen[..at].iter().any(|(before, _)| *before == other);
        let own = all.iter().find(|(name, _)| name == key);
        let clash = own.and_then(|(name, own)| all.iter().find(|(other, each)| other != name && same(each, own)));
        if let Some((other, _)) = clash.filter(|(other, _)| !told(other)) {
            let message = format!("`{}` is the header of `{other}` too", text.get_ref());
            report.tell(&text.span(), message, "give each its own header; many backends read `-` and `_` alike");
        }
    }
    names
}

/// Compared as backends see them.
fn same(one: &HeaderName, other: &HeaderName) -> bool {
    one.as_str().replace('_', "-") == other.as_str().replace('_', "-")
}

impl IdentityNames {
    fn named(&mut self, key: &str) -> Option<&mut HeaderName> {
        Some(match key {
            "user_id" => &mut self.user_id,
            "user_email" => &mut self.user_email,
            "org_id" => &mut self.org_id,
            "user_role" => &mut self.user_role,
            "plan" => &mut self.plan,
            "permissions" => &mut self.permissions,
            "auth_method" => &mut self.auth_method,
            "key_id" => &mut self.key_id,
            "session_id" => &mut self.session_id,
            "server_id" => &mut self.server_id,
            "assertion" => &mut self.assertion,
            "certificate_subject" => &mut self.certificate_subject,
            "certificate_fingerprint" => &mut self.certificate_fingerprint,
            "certificate_names" => &mut self.certificate_names,
            _ => return None,
        })
    }
}
