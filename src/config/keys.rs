//! A site's secrets: the keys that its tokens are signed with, and the pepper of its API keys.

use std::ops::Range;

use toml::Spanned;

use super::given::Given;
use super::raw::{RawApiKeys, RawKey, RawTokens};
use super::snapshot::PepperFrom;
use super::values::{RawSecret, Told};
use crate::contract::Contract;
use crate::contract::source::{Report, suggest};
use crate::credential::KeySettings;
use crate::credential::generate::KeyKind;
use crate::credential::keys::{KeyError, KeyFault, KeySet};
use crate::model::secret::Secret;
use crate::rules::secret::{LEAST_BYTES, hmac_bytes};

/// The algorithms that a token key can have (RFC 7518 section 3.1, RFC 8037).
const ALGORITHMS: &[&str] = &["HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA"];

/// What a missing key file of `algorithm` is made with.
pub(super) fn kind(algorithm: &str) -> Option<KeyKind> {
    match algorithm {
        "HS256" | "HS384" | "HS512" => Some(KeyKind::Hmac),
        "RS256" | "RS384" | "RS512" | "PS256" => Some(KeyKind::Rsa2048),
        "ES256" => Some(KeyKind::Es256),
        "EdDSA" => Some(KeyKind::Ed25519),
        _ => None,
    }
}

/// The token keys: at least one, each name once, exactly one that signs, each tried out.
pub(super) fn keys(
    raw: Option<&Spanned<RawTokens>>,
    around: &Range<usize>,
    given: &Given,
    report: &mut Report<'_>,
) -> Vec<KeySettings> {
    let list = raw.map_or(&[][..], |raw| &raw.get_ref().keys);
    if list.is_empty() {
        let remedy = "add [site.tokens] with keys = [{ kid = \"1\", algorithm = \"HS256\", secret_file = \"data/secrets/tokens\", generate = true }]";
        let around = raw.map_or_else(|| around.clone(), Spanned::span);
        report.tell(&around, "the site has no key to sign tokens with", remedy);
        return Vec::new();
    }
    let signer = signer(list, report);
    let mut keys: Vec<KeySettings> = Vec::new();
    for (at, raw) in list.iter().enumerate() {
        let Ok(key) = key(raw, signer == Some(at), given, report) else { continue };
        if let Some(kid) = raw.get_ref().kid.as_ref().filter(|_| keys.iter().any(|other| other.kid == key.kid)) {
            let remedy = "give each key a name of its own: tokens name the key that signed them";
            report.tell(&kid.span(), format!("two keys are called `{}`", key.kid), remedy);
        }
        keys.push(key);
    }
    keys
}

/// One key signs: the one that says so, else the first that does not say otherwise; so a new key is put in
/// front and the one before it goes on verifying.
fn signer(list: &[Spanned<RawKey>], report: &mut Report<'_>) -> Option<usize> {
    let says = |raw: &Spanned<RawKey>| raw.get_ref().signs.as_ref().map(|signs| *signs.get_ref());
    let mut loud = list.iter().filter(|raw| says(raw) == Some(true));
    if let (Some(_), Some(second)) = (loud.next(), loud.next()) {
        report.tell(&second.span(), "two keys sign", "let one sign; the others go on verifying what they signed");
    }
    let at = |wanted: Option<bool>| list.iter().position(|raw| says(raw) == wanted);
    let signer = at(Some(true)).or_else(|| at(None));
    if let (None, Some(first)) = (signer, list.first()) {
        report.tell(&first.span(), "no key signs", "leave signs = false out on one of the keys");
    }
    signer
}

fn key(raw: &Spanned<RawKey>, signs: bool, given: &Given, report: &mut Report<'_>) -> Result<KeySettings, Told> {
    let around = raw.span();
    let raw = raw.get_ref();
    if raw.kid.is_none() {
        report.tell(&around, "`kid` is missing", "name the key: kid = \"2026-11\"");
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
        Some(name) => name.get_ref().clone(),
    };
    let secret = RawSecret {
        name: "secret",
        inline: &raw.secret,
        file: &raw.secret_file,
        generate: raw.generate.as_ref(),
        // A PEM text is weighed as the key that it holds.
        least: hmac_bytes(&algorithm),
        // Of all that can be configured, ES384 alone.
        by_hand: kind(&algorithm).is_none(),
    };
    let Some((material, span)) = secret.read(given, report)? else {
        report.tell(&around, format!("the {algorithm} key has no secret"), secret.remedy());
        return Err(Told);
    };
    let kid = raw.kid.as_ref().ok_or(Told)?;
    let settings = KeySettings { kid: kid.get_ref().clone(), algorithm, material, signs };
    let fault = match KeySet::new(std::slice::from_ref(&settings)) {
        Ok(_) | Err(KeyError::NoSigner) => return Ok(settings),
        Err(KeyError::Key { fault, .. }) => fault,
        Err(error) => {
            report.tell(&span, error.to_string(), secret.remedy());
            return Err(Told);
        }
    };
    let shared = hmac_bytes(&settings.algorithm).is_some();
    let (span, message, remedy) = match &fault {
        KeyFault::BadName => (kid.span(), fault.to_string(), "name the key: kid = \"2026-11\"".into()),
        KeyFault::PublicSigns => {
            let remedy = "give the private key, or say signs = false to verify with it alone";
            (span, "a public key cannot sign".into(), remedy.into())
        }
        KeyFault::Weak(why) => (span, format!("the key is too weak: {why}"), secret.remedy()),
        // Whoever holds the public half could sign: the classic confusion of RS256 and HS256.
        KeyFault::NotAKey(why) if shared => {
            (span, why.clone(), "choose the key's own algorithm, such as \"RS256\" or \"ES256\"".into())
        }
        KeyFault::NotAKey(why) => {
            let algorithm = &settings.algorithm;
            let remedy =
                format!("give the private key in PEM that {algorithm} takes, or a public one to verify with alone");
            (span, format!("this cannot be read as a key for {algorithm}: {why}"), remedy)
        }
        _ => (span, fault.to_string(), secret.remedy()),
    };
    report.tell(&span, message, remedy);
    Err(Told)
}

/// Under which API keys are hashed; refresh tokens and the tokens in mails are made and kept under keys of it. A product
/// with none of them needs none.
pub(super) fn pepper(
    raw: Option<&Spanned<RawApiKeys>>,
    contract: Option<&Contract>,
    realm: &str,
    around: &Range<usize>,
    given: &Given,
    report: &mut Report<'_>,
) -> Option<(Secret, PepperFrom)> {
    let empty = RawApiKeys::default();
    let keys = raw.map_or(&empty, Spanned::get_ref);
    let secret = RawSecret {
        name: "pepper",
        inline: &keys.pepper,
        file: &keys.pepper_file,
        generate: keys.generate.as_ref(),
        least: Some(LEAST_BYTES),
        by_hand: false,
    };
    match secret.read(given, report) {
        Ok(Some((pepper, _))) => {
            let file = keys.pepper_file.as_ref().map(|file| PepperFrom::File(file.get_ref().into()));
            Some((pepper, file.unwrap_or(PepperFrom::Configuration)))
        }
        Ok(None) if contract.and_then(under_pepper).is_none() => {
            // Each site its own, so that nothing is shared even here.
            Some((Secret::new(format!("{realm}-{}", given.spare.expose())), PepperFrom::Nowhere))
        }
        Ok(None) => {
            let around = raw.map_or_else(|| around.clone(), Spanned::span);
            let remedy = "add [site.api_keys] with pepper_file = \"data/secrets/pepper\", generate = true";
            let what = contract.and_then(under_pepper).unwrap_or("API keys");
            report.tell(&around, format!("the contract has {what}, and there is no pepper to hash them under"), remedy);
            None
        }
        Err(Told) => None,
    }
}

/// The first of what a contract has that a pepper drawn anew at each start would make worthless.
fn under_pepper(contract: &Contract) -> Option<&'static str> {
    let of = [
        (contract.keys.is_some(), "API keys"),
        (contract.tokens.refresh.is_some(), "refresh tokens"),
        (contract.mail.is_some(), "tokens in mails"),
    ];
    of.into_iter().find_map(|(has, what)| has.then_some(what))
}
