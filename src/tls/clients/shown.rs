//! What a client's certificate says of its holder, as headers can carry it.
//!
//! A certificate's texts are its issuer's choice and may hold anything: line breaks, other scripts, commas that look
//! like the end of an attribute. Here they become visible ASCII from which the exact text can be read back, and in which
//! no value can look like more than a value: a name is RFC 4514 with every byte that is not plain escaped as `\XX`,
//! alternative names are percent-encoded.

use aws_lc_rs::digest::{SHA256, digest};
use http::HeaderValue;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use x509_parser::asn1_rs::{Any, Tag, ToDer};
use x509_parser::extensions::GeneralName;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use crate::model::time::Timestamp;
use crate::tls::load::address;

/// The longest header that is made of a certificate, in bytes.
const MOST: usize = 4096;

/// A certificate that was verified, as backends are told of it.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Its subject (RFC 4514); `None` where it has none.
    pub subject: Option<HeaderValue>,
    /// Its alternative names: `dns:`, `email:`, `uri:` and `ip:` with a percent-encoded name behind, comma-separated.
    pub names: Option<HeaderValue>,
    /// SHA-256 of the certificate in DER, in lower-case hexadecimal.
    pub fingerprint: HeaderValue,
    /// When it stops being valid.
    pub ends: Timestamp,
}

/// A certificate that was verified and cannot be told of: what stands in it is not readable, or too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what it says of its holder cannot be read, or has more than {MOST} bytes")]
pub struct Unreadable;

impl Shown {
    /// Reads a certificate from its DER.
    pub fn read(der: &[u8]) -> Result<Self, Unreadable> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).map_err(|_| Unreadable)?;
        let names = certificate.subject_alternative_name().map_err(|_| Unreadable)?;
        let names = names.map_or_else(String::new, |names| alternative_names(&names.value.general_names));
        Ok(Self {
            subject: header(distinguished_name(certificate.subject()))?,
            names: header(names)?,
            fingerprint: header(hex(digest(&SHA256, der).as_ref()))?.ok_or(Unreadable)?,
            ends: Timestamp::from_secs(certificate.validity().not_after.timestamp()),
        })
    }

    /// Stands for whatever certificate a client might have, where a request is only imagined.
    pub fn imagined() -> Self {
        let what = HeaderValue::from_static("(of the certificate)");
        let ends = Timestamp::from_millis(i64::MAX);
        Self { subject: Some(what.clone()), names: Some(what.clone()), fingerprint: what, ends }
    }

    /// Whether its time is over. It was valid when the connection began; connections may last longer than certificates.
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.ends < now
    }
}

fn header(text: String) -> Result<Option<HeaderValue>, Unreadable> {
    if text.is_empty() {
        return Ok(None);
    }
    if text.len() > MOST {
        return Err(Unreadable);
    }
    HeaderValue::try_from(text).map(Some).map_err(|_| Unreadable)
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A name as RFC 4514 writes it: the last part first.
pub(super) fn distinguished_name(name: &X509Name<'_>) -> String {
    let parts: Vec<_> = name.iter_rdn().collect();
    let part = |attributes: Vec<String>| attributes.join("+");
    let parts: Vec<String> =
        parts.into_iter().rev().map(|attributes| part(attributes.iter().map(attribute).collect())).collect();
    parts.join(",")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let kind = attribute.attr_type().to_id_string();
    match (short(&kind), text(attribute.attr_value())) {
        (Some(short), Some(text)) => format!("{short}={}", escaped(&text)),
        // RFC 4514 section 2.4: also the value of a kind that has no name stands as it was encoded.
        (short, _) => {
            let der = attribute.attr_value().to_der_vec().unwrap_or_default();
            format!("{}=#{}", short.unwrap_or(&kind), hex(&der))
        }
    }
}

/// The names of RFC 4514 section 3, and of a few more kinds that clients' certificates have (RFC 4519, RFC 2985).
fn short(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "2.5.4.3" => "CN",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "2.5.4.6" => "C",
        "2.5.4.9" => "STREET",
        "0.9.2342.19200300.100.1.25" => "DC",
        "0.9.2342.19200300.100.1.1" => "UID",
        "2.5.4.4" => "sn",
        "2.5.4.5" => "serialNumber",
        "2.5.4.12" => "title",
        "2.5.4.42" => "givenName",
        "1.2.840.113549.1.9.1" => "emailAddress",
        _ => return None,
    })
}

/// The text of a value whose encoding says which one it is.
fn text(value: &Any<'_>) -> Option<String> {
    match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::NumericString | Tag::Ia5String => {
            std::str::from_utf8(value.data).ok().map(str::to_owned)
        }
        Tag::BmpString if value.data.len().is_multiple_of(2) => {
            let units = value.data.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
            char::decode_utf16(units).collect::<Result<_, _>>().ok()
        }
        _ => None,
    }
}

/// With every byte that is not plain as `\XX`, and so a space at either end. A value so written holds no comma, plus,
/// equals sign or quote: whoever cuts the name at its commas, right or wrong, cuts it where an attribute ends.
fn escaped(text: &str) -> String {
    use std::fmt::Write;
    let bytes = text.as_bytes();
    let mut escaped = String::with_capacity(bytes.len());
    for (at, byte) in bytes.iter().enumerate() {
        let inside = 0 < at && at + 1 < bytes.len();
        let plain = byte.is_ascii_alphanumeric() || b"-._:/@*()'".contains(byte) || (*byte == b' ' && inside);
        if plain {
            escaped.push(char::from(*byte));
        } else {
            let _ = write!(escaped, "\\{byte:02X}");
        }
    }
    escaped
}

/// What stands for itself in an alternative name.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b':')
    .remove(b'/')
    .remove(b'@')
    .remove(b'*');

fn alternative_names(names: &[GeneralName<'_>]) -> String {
    let names = names.iter().filter_map(|name| {
        let (kind, name) = match name {
            GeneralName::DNSName(name) => ("dns", (*name).to_owned()),
            GeneralName::RFC822Name(name) => ("email", (*name).to_owned()),
            GeneralName::URI(name) => ("uri", (*name).to_owned()),
            GeneralName::IPAddress(bytes) => ("ip", address(bytes)?),
            _ => return None,
        };
        Some(format!("{kind}:{}", utf8_percent_encode(&name, PLAIN)))
    });
    names.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair, SanType};

    use super::*;

    fn certificate(subject: &[(DnType, DnValue)], names: Vec<SanType>) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in subject {
            params.distinguished_name.push(kind.clone(), value.clone());
        }
        params.subject_alt_names = names;
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    fn utf8(text: &str) -> DnValue {
        DnValue::Utf8String(text.to_owned())
    }

    fn subject(parts: &[(DnType, DnValue)]) -> String {
        let shown = Shown::read(&certificate(parts, Vec::new())).unwrap();
        shown.subject.map_or_else(String::new, |subject| subject.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_subject_reads_from_its_end_as_in_rfc_4514() {
        let parts = [
            (DnType::CountryName, utf8("DE")),
            (DnType::OrganizationName, utf8("Example GmbH")),
            (DnType::CommonName, utf8("worker-7.example")),
        ];
        assert_eq!(subject(&parts), "CN=worker-7.example,O=Example GmbH,C=DE");
        assert_eq!(subject(&[]), "");
    }

    #[test]
    fn no_value_looks_like_more_than_a_value() {
        for (value, written) in [
            ("a,CN=root", r"a\2CCN\3Droot"),
            ("a+CN=root", r"a\2BCN\3Droot"),
            ("a\r\nX-User-Id: root", r"a\0D\0AX-User-Id: root"),
            ("a\0b", r"a\00b"),
            ("\"a\" \\, <b>;", r"\22a\22 \5C\2C \3Cb\3E\3B"),
            (" a ", r"\20a\20"),
            ("#abcd", r"\23abcd"),
            ("Zo\u{eb} \u{4e2d}", r"Zo\C3\AB \E4\B8\AD"),
            ("\u{202e}txt", r"\E2\80\AEtxt"),
            ("100%", r"100\25"),
        ] {
            assert_eq!(subject(&[(DnType::CommonName, utf8(value))]), format!("CN={written}"));
        }
    }

    #[test]
    fn what_has_no_name_or_no_certain_text_stands_as_it_was_encoded() {
        let own = DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 99999, 1]);
        assert_eq!(subject(&[(own, utf8("a,b"))]), "1.3.6.1.4.1.99999.1=#0c03612c62");
        let teletex = DnValue::TeletexString("abc".try_into().unwrap());
        assert_eq!(subject(&[(DnType::CommonName, teletex)]), "CN=#1403616263");
        let bmp = DnValue::BmpString("Z\u{eb}".try_into().unwrap());
        assert_eq!(subject(&[(DnType::CommonName, bmp)]), r"CN=Z\C3\AB");
    }

    #[test]
    fn alternative_names_are_a_list_that_only_its_own_commas_divide() {
        let names = vec![
            SanType::DnsName("*.worker.example".try_into().unwrap()),
            SanType::URI("spiffe://example/a?b,dns:root%2C".try_into().unwrap()),
            SanType::Rfc822Name("a,b@example.com".try_into().unwrap()),
            SanType::IpAddress("192.0.2.7".parse().unwrap()),
            SanType::IpAddress("2001:db8::1".parse().unwrap()),
            SanType::OtherName((vec![1, 2, 3], "x".into())),
        ];
        let shown = Shown::read(&certificate(&[], names)).unwrap();
        assert_eq!(
            shown.names.unwrap(),
            "dns:*.worker.example,uri:spiffe://example/a%3Fb%2Cdns:root%252C,email:a%2Cb@example.com,ip:192.0.2.7,\
             ip:2001:db8::1"
        );
        assert_eq!(shown.subject, None);
    }

    #[test]
    fn the_fingerprint_is_that_of_the_whole_certificate() {
        let der = certificate(&[(DnType::CommonName, utf8("a"))], Vec::new());
        let shown = Shown::read(&der).unwrap();
        assert_eq!(shown.fingerprint, hex(digest(&SHA256, &der).as_ref()));
        assert_eq!(shown.fingerprint.len(), 64);
    }

    #[test]
    fn what_is_too_long_or_no_certificate_is_not_told_of() {
        let long = |length| certificate(&[(DnType::CommonName, utf8(&"a".repeat(length)))], Vec::new());
        assert!(Shown::read(&long(4000)).is_ok());
        assert_eq!(Shown::read(&long(5000)).unwrap_err(), Unreadable);
        assert_eq!(Shown::read(b"\x30\x03\x02\x01\x01").unwrap_err(), Unreadable);
    }

    proptest! {
        #[test]
        fn a_written_value_is_plain_and_reads_back_exactly(text in any::<String>()) {
            let written = escaped(&text);
            prop_assert!(written.bytes().all(|byte| (0x20..0x7f).contains(&byte) && !b",+=;\"<>#".contains(&byte)));
            let mut read = Vec::new();
            let mut bytes = written.bytes();
            while let Some(byte) = bytes.next() {
                if byte == b'\\' {
                    let pair = [bytes.next().unwrap(), bytes.next().unwrap()];
                    read.push(u8::from_str_radix(std::str::from_utf8(&pair).unwrap(), 16).unwrap());
                } else {
                    read.push(byte);
                }
            }
            prop_assert_eq!(String::from_utf8(read).unwrap(), text);
        }
    }
}
