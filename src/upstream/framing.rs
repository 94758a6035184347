//! Where a message begins and ends: one reading, or none.
//!
//! [`check`] refuses what two parsers could read differently, before the edge decides anything;
//! `reframe` writes the framing of what is forwarded anew, from the body that is really sent, so that
//! no length a client wrote reaches a backend by itself.

use http::header::{CONTENT_LENGTH, HOST, HeaderValue, TRANSFER_ENCODING};
use http::uri::PathAndQuery;
use http::{Method, Request, Uri, Version, request};
use http_body::Body as _;

use super::body::Body;
use crate::model::problem::Problem;

/// Refuses a request whose framing or authority two parsers could read differently: what hyper's own
/// checks (bad lengths, HTTP/1.0 with `Transfer-Encoding`) leave over.
pub fn check(request: &request::Parts) -> Result<(), Problem> {
    let refuse = |why| Err(Problem::MalformedRequest(why));
    let headers = &request.headers;
    if request.method == Method::CONNECT || request.method == Method::TRACE {
        // TRACE would show a client the headers that only the backend is meant to see (RFC 9110 section 9.3.8).
        return refuse("CONNECT and TRACE are not served");
    }
    // Methods are case-sensitive (RFC 9110 section 9.1) and some backends fold them: `post` would be no POST to a
    // guard and one to the backend.
    if request.method.as_str().bytes().any(|byte| byte.is_ascii_lowercase()) {
        return refuse("methods are in upper case");
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        // "gzip, chunked" would be taken apart by hyper and forwarded still compressed.
        if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return refuse("the only transfer coding served is `chunked`, once");
        }
        if headers.contains_key(CONTENT_LENGTH) || request.version != Version::HTTP_11 {
            return refuse("Transfer-Encoding beside a Content-Length or outside of HTTP/1.1");
        }
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    if lengths.next().is_some_and(|length| !length.as_bytes().iter().all(u8::is_ascii_digit))
        || lengths.next().is_some()
    {
        return refuse("Content-Length is one number");
    }
    let mut hosts = headers.get_all(HOST).iter();
    let (host, second) = (hosts.next(), hosts.next());
    match (host, request.uri.authority()) {
        _ if second.is_some() => refuse("more than one Host"),
        // Also where a site serves every name: its backend is told this one (RFC 9110 section 7.2).
        (Some(host), _) if !is_host(host.as_bytes()) => refuse("the Host header is no host"),
        (None, None) if request.version != Version::HTTP_10 => refuse("no Host"),
        (_, Some(authority)) if authority.as_str().contains('@') => refuse("user information in the request target"),
        (Some(host), Some(authority)) if !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) => {
            refuse("Host and the request target disagree")
        }
        _ => Ok(()),
    }
}

/// A name or an address, and a port or none: nothing that could end a host in somebody's URL.
fn is_host(host: &[u8]) -> bool {
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(byte);
    !host.is_empty() && host.iter().all(fits)
}

/// Makes a request one whole HTTP/1.1 message in origin form.
pub(super) fn reframe(request: &mut Request<Body>) {
    *request.version_mut() = Version::HTTP_11;
    if request.uri().scheme().is_some() || request.uri().authority().is_some() {
        let target = std::mem::take(request.uri_mut()).into_parts().path_and_query;
        *request.uri_mut() = Uri::from(target.unwrap_or_else(|| PathAndQuery::from_static("/")));
    }
    // hyper believes these over the body, and would send a length with no body behind it: the next
    // request on the connection would then be read as the missing bytes.
    request.headers_mut().remove(TRANSFER_ENCODING);
    request.headers_mut().remove(CONTENT_LENGTH);
    match request.body().size_hint().exact() {
        Some(0) if !matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH) => {}
        Some(length) => {
            request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        // Said here since hyper otherwise drops the body of a GET (RFC 9110 section 9.3.1 lets it have one).
        None => {
            request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName};

    use super::*;

    fn head(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    fn checked(version: Version, uri: &'static str, lines: &[(&'static str, &'static str)]) -> bool {
        let (mut parts, ()) = Request::builder().version(version).uri(uri).body(()).unwrap().into_parts();
        parts.headers = head(lines);
        check(&parts).is_ok()
    }

    #[test]
    fn framing_and_host_have_one_reading_or_none() {
        let host = ("host", "a.example");
        for honest in [
            &[host][..],
            &[host, ("content-length", "10")],
            &[host, ("transfer-encoding", "chunked")],
            &[host, ("transfer-encoding", "Chunked")],
        ] {
            assert!(checked(Version::HTTP_11, "/", honest), "{honest:?}");
        }
        for bad in [
            &[][..],
            &[host, host],
            &[host, ("content-length", "10"), ("transfer-encoding", "chunked")],
            &[host, ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
            &[host, ("transfer-encoding", "gzip, chunked")],
            &[host, ("transfer-encoding", "identity")],
            &[host, ("content-length", "10"), ("content-length", "10")],
            &[host, ("content-length", "+1")],
        ] {
            assert!(!checked(Version::HTTP_11, "/", bad), "{bad:?}");
        }
        for host in ["a.example:8443", "127.0.0.1", "[::1]:80", "a_b.example."] {
            assert!(checked(Version::HTTP_11, "/", &[("host", host)]), "{host}");
        }
        for host in ["", "a b", "a/../b", "a@b", "a,b", "a?x", "a#x", "a\\b", "http://a", "<a>", "a%2eb"] {
            assert!(!checked(Version::HTTP_11, "/", &[("host", host)]), "{host}");
            assert!(!checked(Version::HTTP_10, "/", &[("host", host)]), "{host}");
        }
        assert!(checked(Version::HTTP_10, "/", &[]));
        assert!(!checked(Version::HTTP_10, "/", &[("transfer-encoding", "chunked")]));
        assert!(checked(Version::HTTP_2, "https://a.example/", &[]));
        assert!(checked(Version::HTTP_11, "http://a.example/", &[("host", "A.example")]));
        assert!(!checked(Version::HTTP_11, "http://a.example/", &[("host", "b.example")]));
        assert!(!checked(Version::HTTP_11, "http://u@a.example/", &[]));
    }

    #[test]
    fn the_framing_sent_is_that_of_the_body_and_not_what_the_client_wrote() {
        let framed = |method, body: Body| {
            let mut request = Request::builder().method(method).uri("http://evil/a?b").version(Version::HTTP_2);
            request = request.header("content-length", "5").header("transfer-encoding", "chunked");
            let mut request = request.body(body).unwrap();
            reframe(&mut request);
            assert_eq!((request.uri(), request.version()), (&Uri::from_static("/a?b"), Version::HTTP_11));
            request.into_parts().0.headers
        };
        assert_eq!(framed(Method::GET, Body::Empty), head(&[]));
        assert_eq!(framed(Method::POST, Body::Empty), head(&[("content-length", "0")]));
        assert_eq!(framed(Method::GET, Body::from("abc")), head(&[("content-length", "3")]));
    }
}
