//! Real handshakes over loopback, and real files.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, SignatureAlgorithm};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::model::time::{Clock, SystemClock};
use std::time::Duration;

const BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
const DAY: Duration = Duration::from_hours(24);

/// The verifier of a test's client looks at the machine's clock, so certificates are made by it as well.
fn now() -> Timestamp {
    SystemClock::new().now().wall
}

/// A self-signed pair for `names`, on disk.
fn pair(directory: &Path, file: &str, names: &[&str]) -> CertificateFiles {
    pair_with(directory, file, names, &PKCS_ECDSA_P256_SHA256, now().minus(DAY), now().plus(DAY))
}

fn pair_with(
    directory: &Path,
    file: &str,
    names: &[&str],
    algorithm: &'static SignatureAlgorithm,
    begins: Timestamp,
    ends: Timestamp,
) -> CertificateFiles {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    let time = |at: Timestamp| std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(at.secs().cast_unsigned());
    params.not_before = time(begins).into();
    params.not_after = time(ends).into();
    let key = KeyPair::generate_for(algorithm).unwrap();
    let files = CertificateFiles {
        certificate: directory.join(format!("{file}.pem")),
        key: directory.join(format!("{file}-key.pem")),
    };
    std::fs::write(&files.certificate, params.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(&files.key, key.serialize_pem()).unwrap();
    files
}

fn der(file: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(file).unwrap()
}

/// A client that trusts exactly `roots`.
fn client(roots: &[&Path], versions: &[&'static SupportedProtocolVersion], alpn: &[&str]) -> Arc<ClientConfig> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(der(root)).unwrap();
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(store)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

#[derive(Debug)]
struct Seen {
    leaf: CertificateDer<'static>,
    version: ProtocolVersion,
    alpn: Option<Vec<u8>>,
    kind: HandshakeKind,
    sni: Option<String>,
}

/// One connection over loopback, on which the server says `ok`.
async fn connect(server: &Arc<ServerConfig>, client: &Arc<ClientConfig>, name: &str) -> std::io::Result<Seen> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(server.clone());
    let serving = tokio::spawn(async move {
        let (socket, _) = listener.accept().await?;
        let mut stream = acceptor.accept(socket).await?;
        stream.write_all(b"ok").await?;
        stream.shutdown().await?;
        std::io::Result::Ok(stream.get_ref().1.server_name().map(str::to_owned))
    });
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let socket = TcpStream::connect(address).await?;
    let mut stream = TlsConnector::from(client.clone()).connect(name, socket).await?;
    let mut said = String::new();
    stream.read_to_string(&mut said).await?;
    assert_eq!(said, "ok");
    let session = stream.get_ref().1;
    let seen = Seen {
        leaf: session.peer_certificates().unwrap()[0].clone().into_owned(),
        version: session.protocol_version().unwrap(),
        alpn: session.alpn_protocol().map(<[u8]>::to_vec),
        kind: session.handshake_kind().unwrap(),
        sni: serving.await.unwrap()?,
    };
    Ok(seen)
}

fn served(settings: &Settings) -> (Arc<ServerConfig>, Arc<Certificates>) {
    let (config, certificates) = server_config(settings, now()).unwrap();
    (Arc::new(config), certificates)
}

fn development(directory: &Path, names: &[&str]) -> Settings {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    Settings::Development { directory: directory.to_owned(), names }
}

fn ca(directory: &Path) -> std::path::PathBuf {
    development::authority(directory)
}

#[tokio::test]
async fn sni_chooses_exact_before_wildcard_before_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let first = pair(folder.path(), "first", &["first.test"]);
    let wildcard = pair(folder.path(), "wildcard", &["*.example.test"]);
    let exact = pair(folder.path(), "exact", &["API.example.test"]);
    let (server, certificates) = served(&Settings::Files(vec![first.clone(), wildcard.clone(), exact.clone()]));
    let roots = [first.certificate.as_path(), &wildcard.certificate, &exact.certificate];
    let client = client(&roots, BOTH, &[]);
    for (name, expected) in [
        ("first.test", &first),
        ("api.example.test", &exact),
        ("Api.Example.Test", &exact),
        ("api.example.test.", &exact),
        ("www.example.test", &wildcard),
        ("WWW.EXAMPLE.TEST", &wildcard),
    ] {
        let seen = connect(&server, &client, name).await.unwrap();
        assert_eq!(seen.leaf, der(&expected.certificate), "{name}");
    }
    // A wildcard is for one label, and neither for its parent nor for two: those get the first, which clients refuse.
    for name in ["example.test", "a.b.example.test", "other.test"] {
        assert!(connect(&server, &client, name).await.is_err(), "{name}");
        let chosen = certificates.current.load().choose(Some(name), ALL_SCHEMES).unwrap();
        assert_eq!(chosen.cert[0], der(&first.certificate), "{name}");
    }
}

const ALL_SCHEMES: &[rustls::SignatureScheme] =
    &[rustls::SignatureScheme::ECDSA_NISTP256_SHA256, rustls::SignatureScheme::RSA_PSS_SHA256];

#[test]
fn spelling_does_not_change_the_choice() {
    let folder = tempfile::tempdir().unwrap();
    let first = pair(folder.path(), "first", &["first.test"]);
    let exact = pair(folder.path(), "exact", &["api.example.test"]);
    let (_, certificates) = served(&Settings::Files(vec![first.clone(), exact.clone()]));
    let chosen = |name| certificates.current.load().choose(name, ALL_SCHEMES).unwrap().cert[0].clone();
    for name in ["api.example.test", "API.EXAMPLE.TEST", "api.example.test.", "Api.Example.Test."] {
        assert_eq!(chosen(Some(name)), der(&exact.certificate), "{name}");
    }
    for name in
        [None, Some(""), Some("."), Some("api.example.test.."), Some(".example.test"), Some("xapi.example.test")]
    {
        assert_eq!(chosen(name), der(&first.certificate), "{name:?}");
    }
}

#[test]
fn of_two_certificates_for_a_name_the_client_gets_the_one_it_can_verify() {
    let folder = tempfile::tempdir().unwrap();
    let ecdsa = pair(folder.path(), "ecdsa", &["api.test"]);
    let rsa = pair_with(folder.path(), "rsa", &["api.test"], &PKCS_RSA_SHA256, now().minus(DAY), now().plus(DAY));
    let (_, certificates) = served(&Settings::Files(vec![ecdsa.clone(), rsa.clone()]));
    let chosen = |schemes: &[_]| certificates.current.load().choose(Some("api.test"), schemes).unwrap().cert[0].clone();
    assert_eq!(chosen(ALL_SCHEMES), der(&ecdsa.certificate));
    assert_eq!(chosen(&ALL_SCHEMES[1..]), der(&rsa.certificate));
}

#[tokio::test]
async fn both_versions_negotiate_and_h2_is_preferred_where_the_client_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let (server, _) = served(&development(folder.path(), &["api.example.test"]));
    let ca = ca(folder.path());
    for (versions, version) in [(&[&TLS13][..], ProtocolVersion::TLSv1_3), (&[&TLS12][..], ProtocolVersion::TLSv1_2)] {
        let chosen = async |alpn: &[&str]| {
            let seen = connect(&server, &client(&[&ca], versions, alpn), "api.example.test").await.unwrap();
            assert_eq!(seen.version, version);
            assert_eq!(seen.sni.as_deref(), Some("api.example.test"));
            seen.alpn
        };
        assert_eq!(chosen(&["http/1.1", "h2"]).await.unwrap(), b"h2");
        assert_eq!(chosen(&["http/1.1"]).await.unwrap(), b"http/1.1");
        assert_eq!(chosen(&[]).await, None);
    }
    assert!(connect(&server, &client(&[&ca], BOTH, &["smtp"]), "api.example.test").await.is_err());
}

#[tokio::test]
async fn a_returning_client_resumes_its_session_in_both_versions() {
    let folder = tempfile::tempdir().unwrap();
    let (server, _) = served(&development(folder.path(), &[]));
    for versions in [&[&TLS13][..], &[&TLS12][..]] {
        let client = client(&[&ca(folder.path())], versions, &[]);
        let first = connect(&server, &client, "localhost").await.unwrap();
        assert_ne!(first.kind, HandshakeKind::Resumed);
        assert_eq!(connect(&server, &client, "localhost").await.unwrap().kind, HandshakeKind::Resumed);
    }
}

#[tokio::test]
async fn a_reload_serves_new_handshakes_and_a_bad_one_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let old = pair(folder.path(), "old", &["api.test"]);
    let new = pair(folder.path(), "new", &["api.test"]);
    let (server, certificates) = served(&Settings::Files(vec![old.clone()]));
    let roots = [old.certificate.as_path(), &new.certificate];
    let leaf = async || connect(&server, &client(&roots, BOTH, &[]), "api.test").await.unwrap().leaf;
    assert_eq!(leaf().await, der(&old.certificate));
    let mixed = CertificateFiles { certificate: new.certificate.clone(), key: old.key.clone() };
    certificates.prepare(&Settings::Files(vec![new.clone(), mixed]), now()).unwrap_err();
    assert_eq!(leaf().await, der(&old.certificate));
    certificates.serve(certificates.prepare(&Settings::Files(vec![new.clone()]), now()).unwrap());
    assert_eq!(leaf().await, der(&new.certificate));
    assert_eq!(certificates.expiries()[0].name, "api.test");
}

#[test]
fn what_clients_would_refuse_is_refused_at_load_with_the_file_and_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let good = pair(path, "good", &["a.test"]);
    let expired = pair_with(path, "expired", &["a.test"], &PKCS_ECDSA_P256_SHA256, now().minus(DAY * 9), now());
    let early = pair_with(path, "early", &["a.test"], &PKCS_ECDSA_P256_SHA256, now().plus(DAY), now().plus(DAY * 9));
    let nameless = pair(path, "nameless", &[]);
    let empty = path.join("empty.pem");
    std::fs::write(&empty, "nothing here\n").unwrap();
    let garbled = path.join("garbled.pem");
    std::fs::write(&garbled, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    let with = |certificate: &Path, key: &Path| CertificateFiles { certificate: certificate.into(), key: key.into() };
    for (files, said) in [
        (with(&path.join("none.pem"), &good.key), "none.pem: cannot be read (No such file"),
        (with(&good.certificate, &path.join("none.pem")), "none.pem: cannot be read (No such file"),
        (with(&empty, &good.key), "empty.pem: holds no certificate: it must hold"),
        (with(&garbled, &good.key), "garbled.pem: is not an X.509 certificate: make the file again"),
        (with(&good.certificate, &empty), "empty.pem: holds no private key: it must hold"),
        (with(&good.certificate, &good.certificate), "good.pem: holds no private key"),
        (with(&good.certificate, &expired.key), "expired-key.pem: is not the key of "),
        (expired.clone(), "expired.pem: expired at "),
        (early.clone(), "early.pem: is not valid before "),
        (nameless.clone(), "nameless.pem: names no host: clients look only at subjectAltName"),
    ] {
        let error = server_config(&Settings::Files(vec![good.clone(), files]), now()).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
        assert!(error.starts_with(path.to_str().unwrap()), "{error}");
    }
    assert!(matches!(server_config(&Settings::Files(Vec::new()), now()), Err(TlsError::NoneConfigured)));
    server_config(&Settings::Files(vec![good]), now()).unwrap();
}

#[tokio::test]
async fn a_development_leaf_is_good_for_every_name_and_the_loopback_addresses() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("made/certs");
    let (server, certificates) = served(&development(&directory, &["API.example.test", "*.wild.test", "*", "[::1]"]));
    let client = client(&[&ca(&directory)], BOTH, &[]);
    for name in ["localhost", "127.0.0.1", "::1", "api.example.test", "any.wild.test"] {
        connect(&server, &client, name).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    for name in ["example.test", "other.test", "127.0.0.2", "wild.test"] {
        assert!(connect(&server, &client, name).await.is_err(), "{name}");
    }
    let mode = |file: &str| std::fs::metadata(directory.join(file)).unwrap().permissions().mode() & 0o777;
    assert_eq!([mode("ca-key.pem"), mode("development-key.pem")], [0o600, 0o600]);
    let left = certificates.expiries()[0].ends;
    assert!(now().plus(DAY * 89) < left && left < now().plus(DAY * 91));
}

#[test]
fn the_development_authority_is_narrow() {
    let folder = tempfile::tempdir().unwrap();
    served(&development(folder.path(), &["api.example.test"]));
    let der = der(&ca(folder.path()));
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
    let basic = certificate.basic_constraints().unwrap().unwrap();
    assert!(basic.critical && basic.value.ca && basic.value.path_len_constraint == Some(0));
    let names = certificate.name_constraints().unwrap().unwrap();
    assert!(names.critical && names.value.permitted_subtrees.as_ref().unwrap().len() == 4);
    let usage = certificate.key_usage().unwrap().unwrap();
    assert!(usage.value.key_cert_sign() && !usage.value.digital_signature());
    let years = (certificate.validity().not_after.timestamp() - now().secs()) / (365 * 86_400);
    assert!((9..=10).contains(&years));
}

#[test]
fn development_certificates_are_kept_until_due_and_renewed_then() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path();
    let settings = development(directory, &["api.example.test"]);
    let read = || (std::fs::read(ca(directory)).unwrap(), std::fs::read(directory.join("development.pem")).unwrap());
    let start = |at: Timestamp| {
        server_config(&settings, at).unwrap();
        read()
    };
    let made = start(now());
    assert_eq!(start(now()), made);
    assert_eq!(start(now().plus(DAY * 59)), made);
    let renewed = start(now().plus(DAY * 61));
    assert_eq!(renewed.0, made.0);
    assert_ne!(renewed.1, made.1);
    // After a summer on the shelf the leaf has expired: it is renewed, not complained of.
    let late = start(now().plus(DAY * 365));
    assert_eq!(late.0, made.0);
    assert_ne!(late.1, renewed.1);
    let years_later = start(now().plus(DAY * 3600));
    assert_ne!(years_later.0, made.0);
}

#[tokio::test]
async fn a_new_host_makes_a_new_leaf_and_a_new_authority_only_where_the_old_one_may_not_sign_it() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path();
    served(&development(directory, &["example.test"]));
    let first = std::fs::read(ca(directory)).unwrap();
    let (server, _) = served(&development(directory, &["www.example.test"]));
    assert_eq!(std::fs::read(ca(directory)).unwrap(), first);
    connect(&server, &client(&[&ca(directory)], BOTH, &[]), "www.example.test").await.unwrap();
    let old = client(&[&ca(directory)], BOTH, &[]);
    let (server, _) = served(&development(directory, &["www.example.test", "other.test"]));
    assert_ne!(std::fs::read(ca(directory)).unwrap(), first);
    connect(&server, &client(&[&ca(directory)], BOTH, &[]), "other.test").await.unwrap();
    assert!(connect(&server, &old, "other.test").await.is_err());
}

#[test]
fn an_interrupted_start_is_repaired_and_a_strangers_file_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path();
    let settings = development(directory, &[]);
    let start = || server_config(&settings, now()).map(drop);
    start().unwrap();
    std::fs::remove_file(directory.join("development-key.pem")).unwrap();
    start().unwrap();
    std::fs::remove_file(directory.join("ca-key.pem")).unwrap();
    start().unwrap();
    std::fs::set_permissions(directory.join("ca-key.pem"), std::fs::Permissions::from_mode(0o644)).unwrap();
    start().unwrap();
    assert_eq!(std::fs::metadata(directory.join("ca-key.pem")).unwrap().permissions().mode() & 0o777, 0o600);

    let theirs = pair(directory, "theirs", &["a.test"]);
    std::fs::copy(&theirs.certificate, ca(directory)).unwrap();
    let error = start().unwrap_err();
    assert!(matches!(&error, TlsError::Foreign { file } if *file == ca(directory)), "{error}");
    assert_eq!(std::fs::read(ca(directory)).unwrap(), std::fs::read(&theirs.certificate).unwrap());
    std::fs::remove_file(ca(directory)).unwrap();
    let key = std::fs::read(directory.join("ca-key.pem")).unwrap();
    let error = start().unwrap_err();
    assert!(matches!(&error, TlsError::Foreign { file } if file.ends_with("ca-key.pem")), "{error}");
    assert_eq!(std::fs::read(directory.join("ca-key.pem")).unwrap(), key);
}

#[test]
fn a_name_that_no_certificate_can_hold_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["b\u{fc}cher.test", "a b", "", "a..b", "*.*.test", "-", "a/b"] {
        let error = server_config(&development(folder.path(), &[name]), now()).unwrap_err();
        assert!(matches!(&error, TlsError::BadName { .. }), "{name:?}: {error}");
    }
}

#[test]
fn gateways_that_start_together_agree() {
    let folder = tempfile::tempdir().unwrap();
    let settings = development(folder.path(), &["api.example.test"]);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| server_config(&settings, now()).unwrap());
        }
    });
    let authority = std::fs::read(ca(folder.path())).unwrap();
    server_config(&settings, now()).unwrap();
    assert_eq!(std::fs::read(ca(folder.path())).unwrap(), authority);
}
