//! A site's secrets: the keys that its tokens are signed with, and the pepper of its API keys.

use std::ops::Range;

use toml::Spanned;

use super::given::Given;
use super::raw::{RawApiKeys, RawKey, RawTokens};
use super::secrets::{ALGORITHMS, LEAST_BYTES, hmac_bytes};
use super::values::{RawSecret, Told};
use crate::contract::Contract;
use crate::contract::source::{Report, suggest};
use crate::credential;
use crate::model::secret::Secret;

/// The token keys: at least one, each `kid` once, exactly one that signs.
pub(super) fn keys(
    raw: Option<&Spanned<RawTokens>>,
    around: &Range<usize>,
    given: &Given,
    report: &mut Report<'_>,
) -> Vec<credential::KeySettings> {
    let list = raw.map_or(&[][..], |raw| &raw.get_ref().keys);
    if list.is_empty() {
        let remedy = "add [site.tokens] with keys = [{ kid = \"1\", algorithm = \"HS256\", secret_file = \"data/secrets/tokens\", generate = true }]";
        report.tell(
            &raw.map_or_else(|| around.clone(), Spanned::span),
            "the site has no key to sign tokens with",
            remedy,
        );
    }
    let mut keys: Vec<credential::KeySettings> = Vec::new();
    for raw in list {
        let Ok(key) = key(raw, given, report) else { continue };
        if let Some(kid) = raw.get_ref().kid.as_ref().filter(|_| keys.iter().any(|other| other.kid == key.kid)) {
            let remedy = "give each key a name of its own: tokens name the key that signed them";
            report.tell(&kid.span(), format!("two keys are called `{}`", key.kid), remedy);
        }
        keys.push(key);
    }
    signer(list, &mut keys, report);
    keys
}

/// One key signs: the one that says so, else the first that does not say otherwise; so a new key is put in
/// front and the one before it goes on verifying.
fn signer(list: &[Spanned<RawKey>], keys: &mut [credential::KeySettings], report: &mut Report<'_>) {
    let says = |raw: &Spanned<RawKey>| raw.get_ref().signs.as_ref().map(|signs| *signs.get_ref());
    let mut loud = list.iter().filter(|raw| says(raw) == Some(true));
    if let (Some(_), Some(second)) = (loud.next(), loud.next()) {
        report.tell(&second.span(), "two keys sign", "let one sign; the others go on verifying what they signed");
    }
    let silent = list.iter().find(|raw| says(raw).is_none());
    match list.iter().find(|raw| says(raw) == Some(true)).or(silent) {
        Some(raw) => {
            let kid = raw.get_ref().kid.as_ref().map(Spanned::get_ref);
            keys.iter_mut().for_each(|key| key.signs = kid == Some(&key.kid));
        }
        None => {
            if let Some(first) = list.first() {
                report.tell(&first.span(), "no key signs", "leave signs = false out on one of the keys");
            }
        }
    }
}

fn key(raw: &Spanned<RawKey>, given: &Given, report: &mut Report<'_>) -> Result<credential::KeySettings, Told> {
    let around = raw.span();
    let raw = raw.get_ref();
    let mut told = false;
    let kid = raw.kid.as_ref().map(|kid| (kid.get_ref().as_str(), kid.span()));
    match &kid {
        None => {
            report.tell(&around, "`kid` is missing", "name the key: kid = \"2026-11\"");
            told = true;
        }
        Some((kid, span)) if !(1..=64).contains(&kid.len()) || !kid.bytes().all(|byte| byte.is_ascii_graphic()) => {
            report.tell(span, "a kid is 1 to 64 printable characters without spaces", "write kid = \"2026-11\"");
            told = true;
        }
        Some(_) => {}
    }
    let algorithm = match &raw.algorithm {
        None => {
            report.tell(&around, "`algorithm` is missing", "say what the key is used with: algorithm = \"HS256\"");
            return Err(Told);
        }
        Some(name) if !ALGORITHMS.contains(&name.get_ref().as_str()) => {
            let message = format!("`{}` is not a signing algorithm", name.get_ref());
            report.tell(&name.span(), message, suggest(name.get_ref(), ALGORITHMS.iter().copied()));
            return Err(Told);
        }
        Some(name) => name.get_ref(),
    };
    let secret = RawSecret {
        name: "secret",
        inline: &raw.secret,
        file: &raw.secret_file,
        generate: raw.generate.as_ref(),
        least: hmac_bytes(algorithm),
    };
    let Some((material, span)) = secret.read(given, report)? else {
        report.tell(&around, format!("the {algorithm} key has no secret"), secret.remedy());
        return Err(Told);
    };
    let is_pem = material.expose().trim_start().starts_with("-----BEGIN ");
    let is_hmac = hmac_bytes(algorithm).is_some();
    if is_pem && is_hmac {
        // Whoever holds the public half could sign: the classic confusion of RS256 and HS256.
        let message = format!("this is a PEM key, and {algorithm} takes a shared secret");
        report.tell(&span, message, "choose the key's own algorithm, such as `RS256` or `ES256`");
        return Err(Told);
    }
    if !is_pem && !is_hmac {
        report.tell(
            &span,
            format!("{algorithm} takes a private key in PEM"),
            "begin with `-----BEGIN PRIVATE KEY-----`",
        );
        return Err(Told);
    }
    match kid {
        Some((kid, _)) if !told => {
            Ok(credential::KeySettings { kid: kid.to_owned(), algorithm: algorithm.clone(), material, signs: false })
        }
        _ => Err(Told),
    }
}

/// Under which API keys are hashed. A product without keys hashes none, and needs none.
pub(super) fn pepper(
    raw: Option<&Spanned<RawApiKeys>>,
    contract: Option<&Contract>,
    around: &Range<usize>,
    given: &Given,
    report: &mut Report<'_>,
) -> Option<Secret> {
    let empty = RawApiKeys::default();
    let keys = raw.map_or(&empty, Spanned::get_ref);
    let secret = RawSecret {
        name: "pepper",
        inline: &keys.pepper,
        file: &keys.pepper_file,
        generate: keys.generate.as_ref(),
        least: Some(LEAST_BYTES),
    };
    match secret.read(given, report) {
        Ok(Some((pepper, _))) => Some(pepper),
        Ok(None) if contract.is_none_or(|contract| contract.keys.is_none()) => Some(Secret::new(String::new())),
        Ok(None) => {
            let around = raw.map_or_else(|| around.clone(), Spanned::span);
            let remedy = "add [site.api_keys] with pepper_file = \"data/secrets/pepper\", generate = true";
            report.tell(&around, "the contract has API keys, and there is no pepper to hash them under", remedy);
            None
        }
        Err(Told) => None,
    }
}
