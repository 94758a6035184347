//! Backends behind TLS.

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::model::time::Timestamp;
use crate::observe::metrics::Metrics;
use crate::upstream::{Ask, Check, SendError, Verdict, tls};

struct Authority {
    certificate: CertificateDer<'static>,
    acceptor: TlsAcceptor,
}

/// A server certificate for `name`, and the authority that vouches for it: itself.
fn authority(name: &str) -> Authority {
    let signed = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let certificate = signed.cert.der().clone();
    let key = PrivateKeyDer::try_from(signed.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    Authority { certificate, acceptor: TlsAcceptor::from(Arc::new(config)) }
}

/// Answers each request on a connection with `answer`; says goodbye at the end, or not.
async fn backend(authority: &Authority, answer: &'static str, goodbye: bool) -> Peer {
    let acceptor = authority.acceptor.clone();
    Peer::play(move |_, wire| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(wire.0).await else { return };
            let mut scratch = [0; 4096];
            while stream.read(&mut scratch).await.is_ok_and(|read| read > 0) {
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.flush().await.unwrap();
                if !answer.contains("content-length") {
                    break;
                }
            }
            if goodbye {
                stream.shutdown().await.ok();
            }
        }
    })
    .await
}

fn pools(trusted: &Authority) -> Pools {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.certificate.clone()).unwrap();
    Pools::new(Some(tls::with_roots(roots).unwrap()))
}

fn https(peer: &Peer, host: &str) -> Settings {
    let server = format!("https://{host}:{}", peer.address.port()).parse().unwrap();
    Settings { servers: vec![Server::new(Address::Url(server))], ..peer.settings() }
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn a_backend_that_proves_its_name_is_spoken_to_and_kept() {
    for name in ["localhost", "127.0.0.1"] {
        let known = authority(name);
        let peer = backend(&known, OK, true).await;
        let pools = pools(&known);
        for _ in 0..3 {
            assert_eq!(ask(&pools, &https(&peer, name), get("/")).await, "ok");
        }
        assert_eq!(peer.accepted(), 1);
        within(pools.close()).await;
    }
}

#[tokio::test]
async fn a_backend_that_does_not_is_not() {
    let (known, stranger) = (authority("localhost"), authority("localhost"));
    let peer = backend(&stranger, OK, true).await;
    let error = within(pools(&known).send(&https(&peer, "localhost"), get("/"), None)).await.unwrap_err();
    assert!(matches!(error, SendError::Tls { .. }), "{error:?}");
    let error = within(pools(&stranger).send(&https(&peer, "127.0.0.1"), get("/"), None)).await.unwrap_err();
    assert!(matches!(error, SendError::Tls { .. }), "{error:?}");
    assert_eq!(ask(&pools(&stranger), &https(&peer, "localhost"), get("/")).await, "ok");
}

#[tokio::test]
async fn a_backend_that_takes_the_connection_and_says_nothing_is_given_up_in_time() {
    let peer = Peer::play(|_, mut wire| async move { wire.closed().await }).await;
    let to = Settings { tls_timeout: SHORT, ..https(&peer, "localhost") };
    let pools = pools(&authority("localhost"));
    let error = within(pools.send(&to, get("/"), None)).await.unwrap_err();
    assert!(matches!(error, SendError::TlsTimeout { .. }), "{error:?}");
    assert_eq!((error.problem(), pools.gauges()[0].open), (Problem::GatewayTimeout, 0));
}

#[tokio::test]
async fn an_answer_that_ends_with_the_connection_needs_a_goodbye() {
    let known = authority("localhost");
    for (goodbye, whole) in [(true, true), (false, false)] {
        let peer = backend(&known, "HTTP/1.1 200 OK\r\n\r\nhello", goodbye).await;
        let pools = pools(&known);
        let response = within(pools.send(&https(&peer, "localhost"), get("/"), None)).await.unwrap();
        assert_eq!(text(response).await.is_ok_and(|text| text == "hello"), whole, "cut off by whoever is on the wire");
    }
}

/// Files of one certificate that vouches for itself.
fn files(folder: &std::path::Path, name: &str) -> (std::path::PathBuf, std::path::PathBuf, CertificateDer<'static>) {
    let signed = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let (certificate, key) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
    std::fs::write(&certificate, signed.cert.pem()).unwrap();
    std::fs::write(&key, signed.signing_key.serialize_pem()).unwrap();
    (certificate, key, signed.cert.der().clone())
}

#[tokio::test]
async fn an_upstream_has_its_own_authorities_name_and_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let (authorities, key, server) = files(folder.path(), "app.internal");
    let (own, own_key, client) = files(folder.path(), "gateway");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(client).unwrap();
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider));
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(vec![server.clone()], rustls::pki_types::pem::PemObject::from_pem_file(&key).unwrap())
        .unwrap();
    let strict = Authority { certificate: server, acceptor: TlsAcceptor::from(Arc::new(config)) };
    let peer = backend(&strict, OK, true).await;
    let whole = tls::Files {
        authorities: Some(authorities.clone()),
        identity: Some((own, own_key)),
        name: Some("app.internal".try_into().unwrap()),
        only_v13: true,
    };
    let with = |files: tls::Files| Settings { tls: Some(files), ..https(&peer, "127.0.0.1") }.prepare();
    let pools = Pools::new(None);
    assert_eq!(ask(&pools, &with(whole.clone()).unwrap(), get("/")).await, "ok");
    for wrong in [
        tls::Files { identity: None, ..whole.clone() },
        tls::Files { name: None, ..whole.clone() },
        tls::Files { authorities: whole.identity.clone().map(|(own, _)| own), ..whole.clone() },
    ] {
        let answered = within(pools.send(&with(wrong).unwrap(), get("/"), None)).await;
        assert_eq!(answered.map(|_| ()).unwrap_err().problem(), Problem::BadGateway);
    }
    // Health checks are made with all of it, too.
    let check = Check { interval: Duration::from_mins(1), ..Check::default() };
    let ask =
        Ask::Http { method: http::Method::GET, path: "/".parse().unwrap(), host: None, statuses: vec![200..=200] };
    for (files, verdict) in [
        (whole.clone(), Verdict::Up),
        (tls::Files { identity: None, ..whole.clone() }, Verdict::Down),
        (tls::Files { name: None, ..whole.clone() }, Verdict::Down),
    ] {
        let to = Settings { health: Some(Check { ask: ask.clone(), ..check.clone() }), ..with(files).unwrap() };
        let (pools, metrics) = (Pools::new(None), Metrics::new(Timestamp::from_secs(0)));
        pools.watch(&[("site", &to)], &metrics);
        eventually(|| pools.stands(&to)[0].verdict == Some(verdict)).await;
    }
    // A pool is kept while the files say the same, and left when they say something else.
    let (before, again) = (with(whole.clone()).unwrap(), with(whole.clone()).unwrap());
    assert_eq!(before.servers, again.servers);
    std::fs::copy(folder.path().join("gateway.pem"), &authorities).unwrap();
    assert_ne!(before.servers, with(whole.clone()).unwrap().servers);
    std::fs::remove_file(&authorities).unwrap();
    let missing = with(whole).unwrap_err().to_string();
    assert!(missing.contains("app.internal.pem` cannot be read"), "{missing}");
}
