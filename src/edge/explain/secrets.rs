//! What must not be told of a request, wherever it would stand.

use http::{HeaderMap, HeaderName, Uri};
use serde_json::Value;

use super::text;

/// In place of a secret.
pub(super) const STARS: &str = "***";
/// The shortest text that is taken for a secret wherever it turns up, in bytes.
const SECRET: usize = 8;

/// Whether a header's name says that what it holds is one.
pub(super) fn is_secret(name: &HeaderName) -> bool {
    // `Sec-WebSocket-Key` is no key.
    !name.as_str().starts_with("sec-websocket-") && is_named_so(name.as_str())
}

fn is_named_so(name: &str) -> bool {
    const PARTS: [&str; 9] =
        ["auth", "cookie", "token", "secret", "key", "password", "credential", "signature", "assertion"];
    let name = name.to_ascii_lowercase();
    PARTS.iter().any(|part| name.contains(part))
}

/// The secrets of a request: what stands in headers that are named for it or behind such a name in a query, and
/// whatever has the form of a credential. `prefixes`: how the sites' API keys begin.
pub(super) fn secrets<'a>(headers: &HeaderMap, target: &Uri, prefixes: impl Iterator<Item = &'a str>) -> Vec<String> {
    let prefixes: Vec<&str> = prefixes.collect();
    let mut words: Vec<String> = Vec::new();
    for (name, value) in headers {
        let value = text(value);
        if is_secret(name) {
            words.extend(value.split([' ', ';', ',', '=']).map(str::to_owned));
        }
        words.extend(telltales(&value, &prefixes));
    }
    words.extend(telltales(&target.to_string(), &prefixes));
    words.retain(|word| word.len() >= SECRET);
    words.sort_by_key(|word| std::cmp::Reverse(word.len()));
    words.dedup();
    words
}

fn telltales(text: &str, prefixes: &[&str]) -> Vec<String> {
    let is_credential = |word: &str| word.starts_with("eyJ") || prefixes.iter().any(|prefix| word.starts_with(prefix));
    let pieces = text.split([' ', ';', ',', '/', '?', '&', '#', '"', '\'']);
    let found = pieces.filter_map(|piece| {
        let (name, value) = piece.split_once('=').unwrap_or(("", piece));
        (is_credential(value) || is_named_so(name)).then(|| value.to_owned())
    });
    found.collect()
}

/// Stars them out.
pub(super) fn star_out(told: &mut Value, secrets: &[String]) {
    match told {
        Value::String(text) => {
            for secret in secrets.iter().filter(|secret| text.contains(secret.as_str())).collect::<Vec<_>>() {
                *text = text.replace(secret.as_str(), STARS);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| star_out(value, secrets)),
        Value::Object(fields) => fields.values_mut().for_each(|value| star_out(value, secrets)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use serde_json::json;

    #[test]
    fn what_has_a_secrets_name_or_a_credentials_form_is_starred_out_wherever_it_stands() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Basic dXNlcjpwYXNzd29yZA"),
            ("referer", "https://a.example/reset?lang=en&token=s3cr3t-in-a-query#x"),
            ("x-note", "eyJhbGciOi.J9.c2ln and vantage_abcdefgh"),
            ("x-color", "ultramarine"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let target = Uri::from_static("/reset/eyJpbi5hLnBhdGg?api_key=0123456789");
        let secrets = secrets(&headers, &target, ["vantage_"].into_iter());
        let mut told = json!({
            "path": "/reset/eyJpbi5hLnBhdGg",
            "headers": [["x", "0123456789"], ["referer", text(&headers["referer"])], ["x-note", text(&headers["x-note"])]],
            "others": ["dXNlcjpwYXNzd29yZA", "ultramarine", "dGhlIHNhbXBsZSBub25jZQ=="],
        });
        star_out(&mut told, &secrets);
        let stars = json!({
            "path": "/reset/***",
            "headers": [["x", "***"], ["referer", "https://a.example/reset?lang=en&token=***#x"], ["x-note", "*** and ***"]],
            "others": ["***", "ultramarine", "dGhlIHNhbXBsZSBub25jZQ=="],
        });
        assert_eq!(told, stars);
    }
}
