//! Refusals for gRPC clients: they read no status and no body, but `grpc-status` in an answer of trailers only.
//!
//! What a refused call is told follows the protocol's own table for proxies where that fits, and says more where more
//! is known: <https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>.

use std::fmt::Write as _;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use crate::model::problem::ProblemKind;
use crate::upstream::body::Body;

static STATUS: HeaderName = HeaderName::from_static("grpc-status");
static MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
static TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Whether a request is a gRPC call: `application/grpc` alone, with a subtype (`+proto`) or parameters. gRPC-Web is not:
/// its clients are browsers, and read what they get.
pub fn is_call(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(CONTENT_TYPE) else { return false };
    let (start, rest) = kind.as_bytes().split_at(kind.len().min(b"application/grpc".len()));
    start.eq_ignore_ascii_case(b"application/grpc") && matches!(rest.first(), None | Some(b'+' | b';'))
}

/// How long the client will wait for a call (`grpc-timeout`: up to eight digits and a unit).
pub fn deadline(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(&TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = digits.parse().ok().filter(|_| digits.len() <= 8 && !digits.starts_with('+'))?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// The refusal of a call: 200, and everything else in the head that is its trailers too.
pub fn refusal(kind: ProblemKind, message: &str) -> Response<Body> {
    let mut answer = Response::new(Body::Empty);
    *answer.status_mut() = StatusCode::OK;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    tell(answer.headers_mut(), kind, message);
    answer
}

/// The trailers of a call that has begun and may not go on.
pub fn end(kind: ProblemKind) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    tell(&mut trailers, kind, kind.default_message());
    trailers
}

fn tell(fields: &mut HeaderMap, kind: ProblemKind, message: &str) {
    fields.insert(&STATUS, HeaderValue::from(status(kind)));
    if let Ok(message) = HeaderValue::try_from(escaped(message)) {
        fields.insert(&MESSAGE, message);
    }
}

/// The status code of gRPC for a problem.
const fn status(kind: ProblemKind) -> u16 {
    match kind {
        ProblemKind::InvalidRequest
        | ProblemKind::AmbiguousPath
        | ProblemKind::MalformedRequest
        | ProblemKind::UnsupportedMediaType => 3, // INVALID_ARGUMENT
        ProblemKind::RequestTimeout | ProblemKind::RequestTooSlow | ProblemKind::GatewayTimeout => 4, // DEADLINE_EXCEEDED
        ProblemKind::EmailTaken | ProblemKind::UsernameTaken => 6,                                    // ALREADY_EXISTS
        ProblemKind::InsufficientPermissions | ProblemKind::PlanRequired => 7, // PERMISSION_DENIED
        ProblemKind::RateLimited | ProblemKind::PayloadTooLarge => 8,          // RESOURCE_EXHAUSTED
        ProblemKind::NotFound | ProblemKind::MethodNotAllowed | ProblemKind::MisdirectedRequest => 12, // UNIMPLEMENTED
        ProblemKind::Internal => 13,                                           // INTERNAL
        ProblemKind::BadGateway | ProblemKind::Unavailable => 14,              // UNAVAILABLE
        ProblemKind::NotAuthenticated
        | ProblemKind::InvalidToken
        | ProblemKind::TokenExpired
        | ProblemKind::InvalidCredentials => 16, // UNAUTHENTICATED
    }
}

/// Percent-encoded as `grpc-message` is: everything but printable ASCII, and `%` itself.
fn escaped(message: &str) -> String {
    let mut out = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => {
                let _infallible = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &'static str, value: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_static(value));
        headers
    }

    #[test]
    fn a_call_is_told_from_what_only_looks_like_one() {
        for call in ["application/grpc", "application/grpc+proto", "Application/gRPC", "application/grpc;x=y"] {
            assert!(is_call(&with("content-type", call)), "{call}");
        }
        for other in ["application/grpc-web", "application/grpc-web+proto", "application/grpcx", "application/grp", ""]
        {
            assert!(!is_call(&with("content-type", other)), "{other}");
        }
        assert!(!is_call(&HeaderMap::new()));
    }

    #[test]
    fn a_deadline_is_read_as_it_is_written_or_not_at_all() {
        let read = |value| deadline(&with("grpc-timeout", value));
        assert_eq!(read("2S"), Some(Duration::from_secs(2)));
        assert_eq!(read("99999999m"), Some(Duration::from_millis(99_999_999)));
        assert_eq!(read("1H"), Some(Duration::from_hours(1)));
        for bad in ["", "S", "1", "1s", "-1S", "+1S", "123456789S", "1 S", "1.5S"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_message_is_plain_text_whatever_it_says() {
        assert_eq!(escaped("needs 50% more\r\nplan: caf\u{e9}"), "needs 50%25 more%0D%0Aplan: caf%C3%A9");
    }
}
