//! What an access token's claims must be, decided on the raw JSON.
//!
//! Pure: no signature is checked here (`credential::jwt` has done that before it asks), nothing is
//! fetched. The claims are read into exact types first, so that a claim of the wrong type is refused
//! and never mistaken for an absent one (the fault of CVE-2026-25537): a time is a whole, non-negative
//! number of seconds, a text is a string, and `null` is neither.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use crate::model::time::Timestamp;

/// 9999-12-31T23:59:59Z: a later time is a mistake or an attack on arithmetic.
const LAST_SECOND: u64 = 253_402_300_799;

/// What a token must say to be meant for us (RFC 8725 sections 3.8, 3.9, 3.12).
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// `iss`, exactly.
    pub issuer: &'a str,
    /// Stands in `aud`.
    pub audience: &'a str,
    /// `token_use`, exactly: keeps one kind of token from passing as another.
    pub token_use: &'a str,
    /// Clock skew tolerated on every time.
    pub leeway: Duration,
}

/// The claims of a token that said what was expected and is in its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// Whom it is about.
    pub subject: String,
    /// Their organization.
    pub org: String,
    /// The session it belongs to.
    pub session: String,
    /// When it counts.
    pub lifetime: Lifetime,
}

/// When a token counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// When it was issued.
    pub issued_at: Timestamp,
    /// When it begins to count.
    pub not_before: Option<Timestamp>,
    /// When it stops.
    pub expires_at: Timestamp,
}

/// Why claims are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimsError {
    /// Not the JSON object of typed claims that an access token has; where and why.
    #[error("the claims cannot be read: {0}")]
    Malformed(String),
    /// Issued by another.
    #[error("the token was issued by another issuer")]
    WrongIssuer,
    /// Meant for another.
    #[error("the token is meant for another audience")]
    WrongAudience,
    /// Another kind of token.
    #[error("the token is of another kind")]
    WrongUse,
    /// Not yet valid, or issued in the future.
    #[error("the token is not valid yet")]
    NotYet,
    /// Past its time.
    #[error("the token has expired")]
    Expired,
}

impl Lifetime {
    /// Whether a token counts at `now`. `exp` itself is too late (RFC 7519 section 4.1.4). Called at every
    /// use of a token, also when its signature is remembered.
    pub fn check(&self, leeway: Duration, now: Timestamp) -> Result<(), ClaimsError> {
        if now >= self.expires_at.plus(leeway) {
            return Err(ClaimsError::Expired);
        }
        let early = now.plus(leeway);
        if early < self.issued_at || self.not_before.is_some_and(|from| early < from) {
            return Err(ClaimsError::NotYet);
        }
        Ok(())
    }
}

/// Reads and checks the decoded payload of a rightly signed token.
///
/// Unknown claims are ignored (RFC 7519 section 4), a known claim that stands twice is refused. Time is
/// looked at last, so that "expired" is said only of a token that was ours to begin with.
pub fn check(payload: &[u8], expected: &Expected<'_>, now: Timestamp) -> Result<Claims, ClaimsError> {
    let raw: Raw = serde_json::from_slice(payload).map_err(|error| ClaimsError::Malformed(error.to_string()))?;
    if raw.token_use != expected.token_use {
        return Err(ClaimsError::WrongUse);
    }
    if raw.iss != expected.issuer {
        return Err(ClaimsError::WrongIssuer);
    }
    if !raw.aud.holds(expected.audience) {
        return Err(ClaimsError::WrongAudience);
    }
    let lifetime = Lifetime { issued_at: raw.iat.0, not_before: raw.nbf.map(|date| date.0), expires_at: raw.exp.0 };
    lifetime.check(expected.leeway, now)?;
    Ok(Claims { subject: raw.sub, org: raw.org, session: raw.sid, lifetime })
}

#[derive(Deserialize)]
struct Raw {
    iss: String,
    sub: String,
    aud: Audience,
    org: String,
    sid: String,
    token_use: String,
    iat: NumericDate,
    exp: NumericDate,
    #[serde(default, deserialize_with = "present")]
    nbf: Option<NumericDate>,
    #[serde(default, rename = "jti", deserialize_with = "present")]
    _jti: Option<String>,
}

/// One string or several (RFC 7519 section 4.1.3).
#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Audience {
    fn holds(&self, wanted: &str) -> bool {
        match self {
            Self::One(name) => name == wanted,
            Self::Several(names) => names.iter().any(|name| name == wanted),
        }
    }
}

struct NumericDate(Timestamp);

impl<'de> Deserialize<'de> for NumericDate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Deserializing as u64 refuses strings, fractions, exponents, negative numbers and null.
        let seconds = u64::deserialize(deserializer)?;
        match i64::try_from(seconds) {
            Ok(whole) if seconds <= LAST_SECOND => Ok(Self(Timestamp::from_secs(whole))),
            _ => Err(de::Error::custom("a time beyond the year 9999")),
        }
    }
}

/// An optional claim that is there must have its type: `null` is not "absent".
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: i64 = 1_700_000_000;

    fn expected() -> Expected<'static> {
        Expected { issuer: "us", audience: "api", token_use: "access", leeway: Duration::from_secs(30) }
    }

    fn good() -> Value {
        json!({
            "iss": "us", "sub": "user_1", "aud": "api", "org": "org_1", "sid": "s1", "jti": "j1",
            "iat": NOW, "nbf": NOW, "exp": NOW + 3600, "token_use": "access", "favourite": {"colour": null}
        })
    }

    fn verdict(claims: &Value) -> Result<Claims, ClaimsError> {
        check(claims.to_string().as_bytes(), &expected(), Timestamp::from_secs(NOW))
    }

    fn with(name: &str, value: Value) -> Value {
        let mut claims = good();
        claims[name] = value;
        claims
    }

    fn without(name: &str) -> Value {
        let mut claims = good();
        claims.as_object_mut().unwrap().remove(name);
        claims
    }

    #[test]
    fn good_claims_pass_and_unknown_ones_are_ignored() {
        let claims = verdict(&good()).unwrap();
        assert_eq!((claims.subject.as_str(), claims.session.as_str()), ("user_1", "s1"));
        assert_eq!(claims.lifetime.expires_at, Timestamp::from_secs(NOW + 3600));
        verdict(&without("nbf")).unwrap();
        verdict(&without("jti")).unwrap();
        verdict(&with("aud", json!(["other", "api"]))).unwrap();
    }

    #[test]
    fn a_time_of_any_other_type_is_refused_and_never_taken_for_absent() {
        let wrong = [
            json!(null),
            json!((NOW + 3600).to_string()),
            json!(1.5),
            json!(-1),
            json!([NOW]),
            json!({}),
            json!(true),
            json!(LAST_SECOND + 1),
            json!(u64::MAX),
        ];
        for name in ["exp", "nbf", "iat"] {
            for value in &wrong {
                let verdict = verdict(&with(name, value.clone()));
                assert!(matches!(verdict, Err(ClaimsError::Malformed(_))), "{name}: {value} gave {verdict:?}");
            }
            // Spellings that a JSON value type would normalize away.
            for number in ["1e300", "1E10", "1700003600.0", "-0", "99999999999999999999999", "1e99999", "NaN"] {
                let text = with(name, json!("@")).to_string().replace("\"@\"", number);
                let verdict = check(text.as_bytes(), &expected(), Timestamp::from_secs(NOW));
                assert!(matches!(verdict, Err(ClaimsError::Malformed(_))), "{name}: {number} gave {verdict:?}");
            }
        }
    }

    #[test]
    fn every_required_claim_is_required_once_and_with_its_type() {
        for name in ["iss", "sub", "aud", "org", "sid", "token_use", "iat", "exp"] {
            assert!(matches!(verdict(&without(name)), Err(ClaimsError::Malformed(_))), "without {name}");
            assert!(matches!(verdict(&with(name, Value::Null)), Err(ClaimsError::Malformed(_))), "{name} null");
            assert!(matches!(verdict(&with(name, json!({"a": 1}))), Err(ClaimsError::Malformed(_))), "{name} object");
        }
        let twice = good().to_string().replacen('{', &format!("{{\"exp\":{},", NOW + 9_999_999), 1);
        let verdict = check(twice.as_bytes(), &expected(), Timestamp::from_secs(NOW));
        assert!(matches!(verdict, Err(ClaimsError::Malformed(_))));
        for text in ["", "[]", "null", "{", "\"x\""] {
            let verdict = check(text.as_bytes(), &expected(), Timestamp::from_secs(NOW));
            assert!(matches!(verdict, Err(ClaimsError::Malformed(_))), "{text}");
        }
    }

    #[test]
    fn a_token_for_another_issuer_audience_or_use_is_refused() {
        assert_eq!(verdict(&with("iss", json!("us "))), Err(ClaimsError::WrongIssuer));
        assert_eq!(verdict(&with("aud", json!("api2"))), Err(ClaimsError::WrongAudience));
        assert_eq!(verdict(&with("aud", json!([]))), Err(ClaimsError::WrongAudience));
        assert_eq!(verdict(&with("token_use", json!("refresh"))), Err(ClaimsError::WrongUse));
        assert_eq!(verdict(&with("token_use", json!("ACCESS"))), Err(ClaimsError::WrongUse));
    }

    #[test]
    fn a_token_counts_from_its_beginning_to_just_before_its_end() {
        let lifetime = Lifetime {
            issued_at: Timestamp::from_secs(100),
            not_before: Some(Timestamp::from_secs(110)),
            expires_at: Timestamp::from_secs(200),
        };
        let at = |millis| lifetime.check(Duration::ZERO, Timestamp::from_millis(millis));
        assert_eq!(at(109_999), Err(ClaimsError::NotYet));
        assert_eq!(at(110_000), Ok(()));
        assert_eq!(at(199_999), Ok(()));
        assert_eq!(at(200_000), Err(ClaimsError::Expired));
        let leeway = Duration::from_secs(30);
        assert_eq!(lifetime.check(leeway, Timestamp::from_millis(79_999)), Err(ClaimsError::NotYet));
        assert_eq!(lifetime.check(leeway, Timestamp::from_millis(80_000)), Ok(()));
        assert_eq!(lifetime.check(leeway, Timestamp::from_millis(229_999)), Ok(()));
        assert_eq!(lifetime.check(leeway, Timestamp::from_millis(230_000)), Err(ClaimsError::Expired));
        let future = Lifetime { issued_at: Timestamp::from_secs(150), not_before: None, ..lifetime };
        assert_eq!(future.check(leeway, Timestamp::from_secs(119)), Err(ClaimsError::NotYet));
    }
}
