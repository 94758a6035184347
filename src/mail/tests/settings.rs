//! What is refused before the first mail.

use std::path::PathBuf;

use super::*;
use crate::mail::MailError;

fn plain() -> SmtpSettings {
    SmtpSettings {
        host: "mail.example.com".into(),
        port: 25,
        tls: Tls::None,
        username: None,
        password: None,
        authorities: None,
        hello: None,
        timeout: Duration::from_secs(30),
    }
}

fn refused(smtp: SmtpSettings) -> Option<MailError> {
    Mailer::new(&Settings { transport: Transport::Smtp(smtp), templates: None, at_once: 1 }).err()
}

fn with(username: Option<&str>, password: Option<&str>) -> SmtpSettings {
    let password = password.map(|text| Secret::new(text.into()));
    SmtpSettings { username: username.map(str::to_owned), password, ..plain() }
}

#[test]
fn a_server_has_a_name_or_an_address() {
    for host in ["mail.example.com", "localhost", "127.0.0.1", "::1", "[::1]", "relay_1"] {
        assert!(refused(SmtpSettings { host: host.into(), ..plain() }).is_none(), "{host}");
    }
    for host in ["", "mail.example.com:25", "smtp://mail.example.com", "a b", "a\r\nb", "-"] {
        let error = refused(SmtpSettings { host: host.into(), ..plain() });
        assert!(matches!(error, Some(MailError::BadHost { .. })), "{host}: {error:?}");
    }
    for hello in ["", "a b", "a\r\nMAIL FROM:<>", "[127.0.0.1"] {
        let error = refused(SmtpSettings { hello: Some(hello.into()), ..plain() });
        assert!(matches!(error, Some(MailError::BadHello { .. })), "{hello}: {error:?}");
    }
}

#[test]
fn a_password_never_crosses_a_network_in_the_clear() {
    let secret = || with(Some("mailer"), Some("s3cret"));
    assert!(matches!(refused(secret()), Some(MailError::PasswordInTheClear { .. })));
    for host in ["localhost.example.com", "10.0.0.1", "127.0.0.1.example.com", "0.0.0.0"] {
        let error = refused(SmtpSettings { host: host.into(), ..secret() });
        assert!(matches!(error, Some(MailError::PasswordInTheClear { .. })), "{host}");
    }
    for host in ["localhost", "127.0.0.1", "127.1.2.3", "[::1]"] {
        assert!(refused(SmtpSettings { host: host.into(), ..secret() }).is_none(), "{host}");
    }
    for tls in [Tls::Implicit, Tls::StartTls] {
        assert!(refused(SmtpSettings { tls, ..secret() }).is_none());
    }
}

#[test]
fn a_credential_is_whole_and_can_be_sent() {
    let local = |smtp: SmtpSettings| SmtpSettings { host: "localhost".into(), ..smtp };
    assert!(refused(local(with(Some("mailer"), Some("p\u{e4}ss w\u{f6}rd")))).is_none());
    for (username, password) in [
        (Some("mailer"), None),
        (None, Some("s3cret")),
        (Some(""), Some("s3cret")),
        (Some("mailer"), Some("")),
        (Some("mai\0ler"), Some("s3cret")),
        (Some("mailer"), Some("s3\r\ncret")),
    ] {
        let error = refused(local(with(username, password)));
        assert!(matches!(error, Some(MailError::HalfACredential)), "{username:?}");
    }
}

#[test]
fn a_file_of_authorities_holds_authorities() {
    let folder = tempfile::tempdir().unwrap();
    let file = |text: &str| {
        let file = folder.path().join("ca.pem");
        std::fs::write(&file, text).unwrap();
        SmtpSettings { tls: Tls::Implicit, authorities: Some(file), ..plain() }
    };
    assert!(refused(file(&Identity::of("localhost").authority)).is_none());
    for bad in ["", "hello", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        assert!(matches!(refused(file(bad)), Some(MailError::BadAuthorities { .. })), "{bad}");
    }
    let missing = SmtpSettings { tls: Tls::StartTls, authorities: Some(PathBuf::from("no/such.pem")), ..plain() };
    assert!(matches!(refused(missing), Some(MailError::Read { .. })));
}

#[test]
fn a_protection_is_read_by_its_name() {
    for (name, tls, port) in
        [("implicit", Tls::Implicit, 465), ("starttls", Tls::StartTls, 587), ("none", Tls::None, 25)]
    {
        let read: Tls = serde_json::from_str(&format!("\"{name}\"")).unwrap();
        assert_eq!((read, read.port()), (tls, port));
    }
    assert!(serde_json::from_str::<Tls>("\"opportunistic\"").is_err());
}

#[test]
fn what_is_secret_in_the_settings_is_not_shown() {
    let shown = format!("{:?}", with(Some("mailer"), Some("s3cret")));
    assert!(!shown.contains("s3cret"));
}
