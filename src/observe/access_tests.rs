//! The access line against the same line as `serde_json` writes it.

use std::borrow::Cow;

use proptest::prelude::*;
use serde_json::Value;

use super::*;

/// The line's fields, for `serde_json`.
#[derive(serde::Serialize)]
struct Reference<'a> {
    time: String,
    kind: &'static str,
    request_id: Cow<'a, str>,
    trace_id: Option<String>,
    site: Option<&'a str>,
    client: String,
    method: Cow<'a, str>,
    path: Cow<'a, str>,
    route: Option<&'a str>,
    status: u16,
    problem: Option<&'a str>,
    shadow: Option<&'a [Shadow]>,
    user: Option<String>,
    org: Option<String>,
    key: Option<String>,
    session: Option<String>,
    auth: Option<&'a str>,
    duration_ms: f64,
    received_bytes: u64,
    sent_bytes: u64,
    upstream: Option<&'a str>,
    server: Option<&'a str>,
    tunnel: Option<&'a str>,
    cut: Option<&'a str>,
    tls: Option<&'a str>,
    alpn: Option<Cow<'a, str>>,
    certificate: Option<&'a str>,
    fault: Option<String>,
}

impl<'a> Reference<'a> {
    fn of(line: &AccessLine<'a>) -> Self {
        Self {
            time: line.time.to_rfc3339(),
            kind: "access",
            request_id: mask::cut(line.request_id, 128),
            trace_id: line.trace.map(|trace| trace.to_string()),
            site: line.site,
            client: line.client.to_string(),
            method: mask::cut(line.method, 32),
            path: mask::path(line.path),
            route: line.route,
            status: line.status,
            problem: line.problem.map(ProblemKind::name),
            shadow: Some(line.shadow).filter(|shadow| !shadow.is_empty()),
            user: line.user.map(UserId::to_text),
            org: line.org.map(OrgId::to_text),
            key: line.key.map(KeyId::to_text),
            session: line.session.map(SessionId::to_text),
            auth: line.auth,
            duration_ms: millis(line.took),
            received_bytes: line.received,
            sent_bytes: line.sent,
            upstream: line.upstream,
            server: line.server,
            tunnel: line.tunnel.map(TunnelEnd::name),
            cut: line.cut.map(Cut::name),
            tls: line.tls.map(TlsVersion::name),
            alpn: line.alpn.map(|alpn| mask::cut(alpn, 32)),
            certificate: line.certificate,
            fault: line.fault.map(|fault| told(fault)),
        }
    }
}

/// Plain text, and text that is full of what must not stand in a line as it is.
fn text() -> impl Strategy<Value = String> {
    let odd = prop::sample::select(vec![
        '"', '\\', '\n', '\0', '\u{1f}', ' ', '~', '\u{7f}', '\u{80}', '\u{9b}', '\u{202e}', '?',
    ]);
    let some = prop::collection::vec(prop_oneof![odd, prop::char::range(' ', '~'), any::<char>()], 0..40);
    prop_oneof!["[ -~]{0,40}", some.prop_map(String::from_iter), "[a-z0-9/._-]{0,160}"]
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u16; 8]>().prop_map(IpAddr::from)]
}

proptest! {
    #[test]
    fn a_line_is_what_serde_json_would_have_written(
        texts in prop::array::uniform10(text()),
        [ids, others] in any::<[[u128; 3]; 2]>(),
        client in address(),
        // The years that the calendar has.
        millis in prop_oneof![-62_167_219_200_000_i64..253_402_200_000_000, 1_705_312_800_000_i64..1_705_312_803_000],
        (micros, received, sent, status) in (any::<u32>(), any::<u64>(), any::<u64>(), 100_u16..600),
        // Which of the fields that need not be there are.
        there in any::<[bool; 17]>(),
    ) {
        let [request_id, site, method, path, route, auth, upstream, server, alpn, certificate] = &texts;
        let shadow = [Shadow { rule: route.clone(), window: Some("5/1m shadow".parse().unwrap()), problem: ProblemKind::PlanRequired }];
        let fault = Fault::new(std::io::Error::other(path.clone()));
        let id = |bits: u128| Uuid::from_u128(bits);
        let line = AccessLine {
            time: Timestamp::from_millis(millis),
            request_id,
            trace: TraceId::new(ids[0].to_be_bytes()).filter(|_| there[0]),
            site: there[1].then_some(site),
            client,
            method,
            path,
            route: there[2].then_some(route),
            status,
            problem: there[3].then_some(ProblemKind::PlanRequired),
            shadow: if there[4] { &shadow } else { &[] },
            user: there[5].then(|| id(ids[1]).into()),
            org: there[6].then(|| id(ids[2]).into()),
            key: there[7].then(|| id(others[0]).into()),
            session: there[8].then(|| id(others[1]).into()),
            auth: there[9].then_some(auth),
            took: Duration::from_micros(micros.into()),
            received,
            sent,
            upstream: there[10].then_some(upstream),
            server: there[16].then_some(server),
            tunnel: there[11].then_some(TunnelEnd::Idle),
            cut: there[12].then_some(Cut::Revoked),
            tls: there[13].then_some(TlsVersion::V13),
            alpn: there[14].then_some(alpn),
            certificate: there[15].then_some(certificate),
            fault: there[15].then_some(&fault),
        };
        let (mut written, mut masked) = (Vec::new(), Vec::new());
        line.json(&mut written);
        let reference = serde_json::to_string(&Reference::of(&line)).unwrap();
        prop_assert_eq!(String::from_utf8(written.clone()).unwrap(), reference.clone());
        // And what leaves the process is the same to a reader, on one line, and moves no terminal.
        mask::append_json(&written, &mut masked);
        let masked = String::from_utf8(masked).unwrap();
        prop_assert!(!masked.chars().any(char::is_control), "{}", masked);
        let read = |line: &str| serde_json::from_str::<Value>(line).unwrap();
        prop_assert_eq!(read(&masked), read(&reference));
    }
}
