//! Certificates of clients: who is let in by one, who is not, and what backends are told.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rcgen::{ExtendedKeyUsagePurpose, KeyPair, SanType};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tollgate::model::time::Clock;

use super::backend::Seen;
use super::certificates::{
    Asked, BOTH, CLIENT, DAY, HOUR, Line, NOTHING, PATH, SUBJECT, World, alert, ca, ca_for, identity, loaded, params,
    told_to, toml,
};
use super::client::Client;
use super::harness::trusting;
use super::process::{Process, told, tollgate};
use super::sockets::within;

#[tokio::test]
async fn a_client_with_a_certificate_is_let_in_and_told_of_and_one_without_is_refused() {
    let world = World::start().await;
    let mut about = params("worker, one", DAY);
    about.subject_alt_names = vec![SanType::URI("spiffe://example/one".try_into().expect("a URI"))];
    let client = world.one.issue(about, &[CLIENT]);
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &client.chain[0]);
    let hex: Vec<String> = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let hex = hex.concat();
    for http2 in [false, true] {
        let mut line = world.line(Some(&client), "strict.test", http2).await;
        for _ in 0..2 {
            assert_eq!(line.get("strict.test").await.expect("an answer").status, 200);
            let told = [r"CN=worker\2C one", hex.as_str(), "uri:spiffe://example/one"];
            assert_eq!(told_to(&world), told.map(|value| vec![value.to_owned()]));
        }
        // It stands in for nothing else that a route asks.
        assert_eq!(line.ask("strict.test", "/api/v1/posts", &[]).await.expect("an answer").status, 401);
    }
    let lines = world.log.lines(PATH, 4).await;
    assert!(lines.iter().all(|line| line["certificate"] == hex.as_str()), "{lines:?}");
    for name in ["strict.test", "any.strict.test", "other.test"] {
        assert_eq!(world.refused(None, name).await, "received fatal alert: CertificateRequired", "{name}");
    }
    world.count_to("certificate_missing", 6).await;
    // Nobody is asked for one where the site wants none.
    assert_eq!(world.status(None, "open.test").await, 200);
    assert_eq!(told_to(&world), NOTHING);
    assert_eq!(world.status(Some(&client), "open.test").await, 200);
    assert_eq!(told_to(&world), NOTHING);
    assert_eq!(world.backend.count(), 6);
}

#[tokio::test]
async fn a_certificate_that_is_not_good_is_refused_also_where_none_is_needed() {
    let world = World::start().await;
    let mut early = params("early", 2 * DAY);
    early.not_before = early.not_after - DAY;
    let mut late = params("late", DAY);
    late.not_after = late.not_before + HOUR / 2;
    let impostor = ca("One Clients");
    let key = KeyPair::generate().expect("a key");
    let selfmade = identity(&params("worker", DAY).self_signed(&key).expect("a certificate"), &key);
    // What another has been given, without the key that goes with it.
    let mut stolen = world.one.client("worker");
    stolen.key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    for (identity, told, outcome) in [
        (&world.other.client("worker"), "UnknownCA", "certificate_unknown"),
        (&selfmade, "UnknownCA", "certificate_unknown"),
        (&world.one.issue(late, &[CLIENT]), "CertificateExpired", "certificate_expired"),
        (&world.one.issue(early, &[CLIENT]), "CertificateExpired", "certificate_expired"),
        (
            &world.one.issue(params("server", DAY), &[ExtendedKeyUsagePurpose::ServerAuth]),
            "UnsupportedCertificate",
            "certificate_refused",
        ),
    ] {
        for name in ["strict.test", "maybe.test"] {
            let before = world.handshakes(outcome).await;
            assert_eq!(world.refused(Some(identity), name).await, format!("received fatal alert: {told}"), "{name}");
            world.count_to(outcome, before + 2).await;
        }
    }
    let forged = world.refused(Some(&impostor.client("worker")), "strict.test").await;
    assert!(forged.contains("UnknownCA") || forged.contains("DecryptError"), "{forged}");
    assert_eq!(world.backend.count(), 0);
    let honest = world.one.issue(params("worker", DAY), &[]);
    assert_eq!(world.status(Some(&honest), "strict.test").await, 200, "without purposes it is for any");
    let both = world.one.issue(params("worker", DAY), &[ExtendedKeyUsagePurpose::ServerAuth, CLIENT]);
    assert_eq!(world.status(Some(&both), "strict.test").await, 200);
    // rustls's own client looks at the key; whoever does not is refused by the gateway.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    assert!(rustls::sign::CertifiedKey::from_der(stolen.chain.clone(), stolen.key.clone_key(), &provider).is_err());
    let key = provider.key_provider.load_private_key(stolen.key.clone_key()).expect("a key");
    let stolen = Arc::new(rustls::sign::CertifiedKey::new(stolen.chain, key));
    let mut config = world.config(None, BOTH);
    config.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(stolen));
    assert_eq!(world.turned_away(config, "strict.test").await, "received fatal alert: DecryptError");
}

#[tokio::test]
async fn a_site_may_do_without_and_then_nothing_is_told() {
    let world = World::start().await;
    assert_eq!(world.status(None, "maybe.test").await, 200);
    assert_eq!(told_to(&world), NOTHING);
    assert_eq!(world.status(Some(&world.one.client("worker")), "maybe.test").await, 200);
    assert_eq!(told_to(&world)[0], ["CN=worker"]);
}

#[tokio::test]
async fn what_a_client_says_of_certificates_changes_nothing() {
    let world = World::start().await;
    let client = world.one.client("worker");
    let lies = [
        ("X-Client-Cert-Subject", "CN=root"),
        ("x-client-cert-subject", "CN=root"),
        ("X-CLIENT-CERT-FINGERPRINT", "00"),
        ("X-Client-Cert-Names", "dns:root"),
        ("X-Forwarded-Client-Cert", "Subject=\"CN=root\""),
        ("Client-Cert", ":AAAA:"),
        ("X-SSL-Client-S-DN", "CN=root"),
        ("Ssl-Client-Verify", "SUCCESS"),
    ];
    let connection = ("connection", "x-client-cert-subject, x-client-cert-fingerprint");
    for (identity, host) in [(Some(&client), "strict.test"), (None, "maybe.test"), (None, "open.test")] {
        for http2 in [false, true] {
            let mut line = world.line(identity, host, http2).await;
            assert_eq!(line.get(host).await.expect("an answer").status, 200);
            let honest = world.backend.last();
            let mut headers = lies.to_vec();
            headers.extend((!http2).then_some(connection));
            assert_eq!(line.ask(host, PATH, &headers).await.expect("an answer").status, 200);
            let mut seen = world.backend.last();
            let own = |seen: &Seen| seen.one("x-request-id").expect("one").to_owned();
            assert_ne!(own(&seen), own(&honest));
            seen.headers.retain(|(name, _)| name != "x-request-id");
            let mut honest = honest.headers;
            honest.retain(|(name, _)| name != "x-request-id");
            assert_eq!(seen.headers, honest, "{host} {http2}");
            for odd in ["x_client_cert_subject", "x-client_cert-subject", "x.client.cert.subject"] {
                let answer = line.ask(host, PATH, &[(odd, "CN=root")]).await.expect("an answer");
                assert_eq!(answer.status, 400, "{odd}");
            }
        }
    }
}

#[tokio::test]
async fn a_name_of_any_kind_stays_one_header() {
    let world = World::start().await;
    for (name, told) in [
        ("a\r\nx-user-id: root\r\n\r\nGET /", r"CN=a\0D\0Ax-user-id: root\0D\0A\0D\0AGET /"),
        ("a,CN=root", r"CN=a\2CCN\3Droot"),
        ("Zo\u{eb}\0", r"CN=Zo\C3\AB\00"),
    ] {
        for http2 in [false, true] {
            let client = world.one.client(name);
            let mut line = world.line(Some(&client), "strict.test", http2).await;
            assert_eq!(line.get("strict.test").await.expect("an answer").status, 200);
            assert_eq!(told_to(&world)[0], [told]);
            assert_eq!(world.backend.last().all("x-user-id"), Vec::<&str>::new());
        }
    }
    let long = world.one.client(&"n".repeat(5000));
    let told = world.turned_away(world.config(Some(&long), BOTH), "strict.test").await;
    assert_ne!(told, "let in");
    world.count_to("certificate_refused", 1).await;
}

#[tokio::test]
async fn without_tls_a_site_that_requires_a_certificate_is_closed() {
    let world = World::start().await;
    for headers in [
        &[][..],
        &[("x-forwarded-client-cert", "Subject=\"CN=worker\"")],
        &[("x-client-cert-subject", "CN=worker")],
        // From a trusted proxy, and believed for what it is: the client's way to that proxy.
        &[("x-forwarded-proto", "https"), ("x-forwarded-for", "192.0.2.7")],
    ] {
        for (host, status) in [("strict.test", 421), ("other.test", 421), ("maybe.test", 200), ("open.test", 200)] {
            let client = Client { address: world.plain, host: host.into(), tls: None };
            let mut ask = client.get(PATH);
            for (name, value) in headers {
                ask = ask.header(name, *value);
            }
            let answer = ask.send().await;
            assert_eq!(answer.status, status, "{host} {headers:?}");
            if status == 200 {
                assert_eq!(told_to(&world), NOTHING, "{host}");
            }
        }
    }
    // Whatever is asked there: sign-in, the public keys, another method.
    let client = Client { address: world.plain, host: "strict.test".into(), tls: None };
    for (method, path) in [("POST", "/api/v1/auth/login"), ("GET", "/.well-known/jwks.json"), ("OPTIONS", PATH)] {
        assert_eq!(client.ask(method, path).send().await.status, 421, "{method} {path}");
    }
}

#[tokio::test]
async fn behind_a_proxy_of_connections_it_is_the_same() {
    let world = World::with("proxy_protocol = \"127.0.0.1:0\"").await;
    let client = world.one.client("worker");
    assert_eq!(world.status(Some(&client), "strict.test").await, 200);
    let seen = world.backend.last();
    assert_eq!((seen.one(SUBJECT), seen.one("x-forwarded-for")), (Some("CN=worker"), Some("192.0.2.7")));
    assert_eq!(world.refused(None, "strict.test").await, "received fatal alert: CertificateRequired");
    let mut line = Line::over(world.socket(world.plain).await, false).await;
    assert_eq!(line.get("strict.test").await.expect("an answer").status, 421);
    assert_eq!(line.get("open.test").await.expect("an answer").status, 200);
}

#[tokio::test]
async fn explain_says_what_the_site_asks() {
    let world = World::start().await;
    let told = world.explained("strict.test", true).await;
    assert_eq!((&told["client_certificate"], &told["passes"]), (&json!("required"), &json!(true)), "{told:#}");
    assert!(told["headers"].to_string().contains("[\"x-client-cert-subject\",\"(of the certificate)\"]"), "{told:#}");
    let told = world.explained("strict.test", false).await;
    assert_eq!((&told["problem"], &told["answer"]["status"]), (&json!("misdirected_request"), &json!(421)), "{told:#}");
    let told = world.explained("maybe.test", false).await;
    assert_eq!((&told["client_certificate"], &told["passes"]), (&json!("verified where shown"), &json!(true)));
    let told = world.explained("open.test", true).await;
    assert_eq!((told.get("client_certificate"), &told["passes"]), (None, &json!(true)));
}

#[tokio::test]
async fn a_missing_authority_is_a_reason_not_to_start_and_who_is_refused_stands_in_the_log() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("other.pem"), ca("Other").pem).expect("a file");
    let file = folder.path().join("gateway.toml");
    let unused = SocketAddr::new(IpAddr::from([127, 0, 0, 1]), 9);
    std::fs::write(&file, toml(folder.path(), "http://127.0.0.1:9", unused, "", &Asked::default())).expect("a file");
    for command in ["check", "serve"] {
        let err = told(folder.path(), &[command, "--config", "gateway.toml"]).await.bad(78);
        assert!(err.contains("site[1].client_certificates.authorities: cannot read"), "{err}");
        assert!(err.contains("help: name a PEM file that this user can read"), "{err}");
    }
    std::fs::write(folder.path().join("one.pem"), ca("One").pem).expect("a file");
    let out = told(folder.path(), &["check", "--config", "gateway.toml"]).await.good();
    assert!(out.contains("site strict:") && out.contains("client certificates required"), "{out}");
    assert!(out.contains("client certificates verified where shown"), "{out}");

    // And with it: who is turned away stands in the log.
    let mut command = tollgate(folder.path());
    command.args(["serve", "--config", "gateway.toml"]);
    let mut process = Process::start(command);
    let https = process.address("https").await;
    let socket = TcpStream::connect(https).await.expect("it listens");
    let config = trusting(&folder.path().join("certs/ca.pem"));
    let name = ServerName::try_from("strict.test").expect("a name");
    let stream = within(TlsConnector::from(config).connect(name, socket)).await.expect("TLS 1.3 learns it later");
    assert_eq!(alert(stream, "strict.test").await, "received fatal alert: CertificateRequired");
    let line = process
        .until("a line about it", |out| {
            out.lines().find(|line| line.contains("certificate was refused")).map(str::to_owned)
        })
        .await;
    let line: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(
        (&line["client"], &line["site"], &line["outcome"]),
        (&json!("127.0.0.1"), &json!("strict"), &json!("certificate_missing")),
        "{line:#}"
    );
    process.stop().await.good();
}

#[tokio::test]
async fn who_vouches_for_clients_and_for_how_long_stands_in_the_metrics() {
    let world = World::start().await;
    let day = i64::try_from(DAY.as_secs()).expect("seconds");
    let left = async |site: &str, kind: &str, name: &str| {
        let series = "tollgate_client_certificates_expiry_timestamp_seconds";
        let ends = world.metric(&format!("{series}{{kind=\"{kind}\",name=\"{name}\",site=\"{site}\"}}")).await;
        i64::try_from(ends).expect("seconds") - world.clock.now().wall.secs()
    };
    let about = |left: i64, wanted: i64| assert!((wanted - 120..wanted + 5).contains(&left), "{left} of {wanted}");
    about(left("strict", "authority", "CN=One Clients").await, 30 * day);
    about(left("other", "authority", "CN=Other Clients").await, 30 * day);
    assert!(left("strict", "revocation_list", "CN=One Clients").await < 0, "there is none");
    std::fs::write(world.path("one.crl"), world.one.list(&[2])).expect("a file");
    world.reload(&Asked { lists: Some("one.crl"), ..Asked::default() }).expect("it is good");
    about(left("strict", "revocation_list", "CN=One Clients").await, day);
    about(left("strict", "authority", "CN=One Clients").await, 30 * day);
    world.reload(&Asked { strict: None, ..Asked::default() }).expect("it is good");
    for kind in ["authority", "revocation_list"] {
        assert!(left("strict", kind, "CN=One Clients").await < 0, "{kind}: nobody is asked any more");
    }
}

#[tokio::test]
async fn what_ends_soon_and_what_has_ended_stands_in_the_log() {
    let folder = tempfile::tempdir().expect("a folder");
    let (one, other) = (ca_for("Ends Soon", HOUR / 6), ca("Lasts"));
    let mut past = params("", DAY);
    past.not_after = past.not_before + HOUR / 2;
    for (file, text) in [("one.pem", &one.pem), ("other.pem", &other.pem), ("one.crl", &one.list_during(&[], &past))] {
        std::fs::write(folder.path().join(file), text).expect("a file");
    }
    let unused = SocketAddr::new(IpAddr::from([127, 0, 0, 1]), 9);
    let asked = Asked { lists: Some("one.crl"), ..Asked::default() };
    let text = toml(folder.path(), "http://127.0.0.1:9", unused, "", &asked);
    std::fs::write(folder.path().join("gateway.toml"), text).expect("a file");
    let mut command = tollgate(folder.path());
    command.args(["serve", "--config", "gateway.toml"]);
    let mut process = Process::start(command);
    process.address("https").await;
    let told = process.stop().await;
    let lines: Vec<Value> = told.out.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let mut said: Vec<[String; 4]> = lines
        .iter()
        .filter(|line| line["message"].as_str().is_some_and(|text| text.starts_with("what TLS stands on")))
        .map(|line| ["level", "site", "what", "name"].map(|field| line[field].as_str().unwrap_or_default().to_owned()))
        .collect();
    said.sort();
    let wanted = [
        ["error", "strict", "revocation_list", "CN=Ends Soon"],
        ["warn", "maybe", "authority", "CN=Ends Soon"],
        ["warn", "strict", "authority", "CN=Ends Soon"],
    ];
    assert_eq!(said, wanted, "once each, and nothing of what lasts: {}", told.out);
}

#[tokio::test]
async fn a_preflight_is_answered_where_a_certificate_may_be_missing_and_the_check_says_where_it_cannot_be() {
    let world = World::start().await;
    let text = toml(world.folder.path(), &world.backend.url(), world.sockets.address, "", &Asked::default());
    assert!(loaded(&text, 2).expect("it is good").warnings.is_empty());
    let cors = "[site.cors]\norigins = [\"https://app.test\"]\n[site.client_certificates]";
    let both = loaded(&text.replace("[site.client_certificates]", cors), 2).expect("it is good");
    let warnings: String = both.warnings.iter().map(ToString::to_string).collect();
    // Of `strict` and `other`, not of `maybe`.
    assert_eq!(warnings.matches("browsers show no certificate with a preflight").count(), 2, "{warnings}");
    world.running.as_ref().expect("it runs").take(Ok(both));
    let tls = Some(Arc::new(world.config(None, BOTH)));
    let maybe = Client { address: world.https, host: "maybe.test".into(), tls };
    let ask = maybe.ask("OPTIONS", "/api/v1/posts").header("origin", "https://app.test");
    let answer = ask.header("access-control-request-method", "GET").send().await;
    assert_eq!(answer.status, 204);
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.test"));
    assert_eq!(maybe.get("/api/v1/posts").send().await.status, 401, "what is no preflight is as before");
    assert_eq!(world.refused(None, "strict.test").await, "received fatal alert: CertificateRequired");
}
