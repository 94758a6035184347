//! A request that the operator imagines, as the gateway would be handed it.

use std::net::IpAddr;

use http::header::{CONNECTION, TE, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};

/// A request as it would stand on the wire.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Imagined {
    method: String,
    /// The request target: `/path?query`, or the absolute form, in which HTTP/2 says its host.
    target: String,
    /// Names and values in their order, `host` among them.
    #[serde(default)]
    headers: Vec<(String, String)>,
    /// The peer; loopback where none is named.
    pub client: Option<IpAddr>,
    /// It comes by TLS.
    #[serde(default = "yes")]
    pub tls: bool,
    /// Its version.
    #[serde(default)]
    http: Spoken,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
enum Spoken {
    #[serde(rename = "1.0")]
    Http10,
    #[default]
    #[serde(rename = "1.1")]
    Http11,
    #[serde(rename = "2")]
    Http2,
}

const fn yes() -> bool {
    true
}

impl Imagined {
    /// Whether ALPN has chosen HTTP/2.
    pub fn is_http2(&self) -> bool {
        self.http == Spoken::Http2
    }

    /// The head as hyper would hand it over.
    pub fn head(&self) -> Result<Parts, String> {
        let Self { method, target, headers, .. } = self;
        if self.is_http2() && !self.tls {
            return Err("HTTP/2 is served by TLS alone".to_owned());
        }
        let mut request = Request::new(());
        *request.method_mut() =
            Method::from_bytes(method.as_bytes()).map_err(|_| format!("`{method}` is no method"))?;
        *request.uri_mut() = target.parse::<Uri>().map_err(|error| format!("the request target: {error}"))?;
        *request.version_mut() = match self.http {
            Spoken::Http10 => Version::HTTP_10,
            Spoken::Http11 => Version::HTTP_11,
            Spoken::Http2 => Version::HTTP_2,
        };
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("`{name}` is no header name"))?;
            let value = HeaderValue::from_bytes(value.as_bytes())
                .map_err(|_| format!("`{name}` has no value that a header can have"))?;
            request.headers_mut().append(name, value);
        }
        if self.http == Spoken::Http11 {
            // What hyper leaves with every request that may ask for an upgrade; this one leads nowhere.
            let upgrade = hyper::upgrade::on(&mut request);
            request.extensions_mut().insert(upgrade);
        }
        Ok(request.into_parts().0)
    }
}

/// A field that no HTTP/2 request has: its stream is reset before the gateway is asked (RFC 9113 section 8.2.2).
pub(super) fn of_a_connection(headers: &HeaderMap) -> Option<&HeaderName> {
    const OTHERS: [&str; 2] = ["keep-alive", "proxy-connection"];
    headers.iter().find_map(|(name, value)| {
        let is = [CONNECTION, TRANSFER_ENCODING, UPGRADE].contains(name) || OTHERS.contains(&name.as_str());
        (is || (*name == TE && value != "trailers")).then_some(name)
    })
}
