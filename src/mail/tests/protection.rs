//! TLS and signing in: what passes, and what never gets a mail or a password.

use super::*;

struct Guarded {
    server: Server,
    settings: SmtpSettings,
    _folder: tempfile::TempDir,
}

/// A server with TLS and a password, and settings that fit it.
async fn guarded(tls: Tls, twists: Vec<(At, Twist, usize)>) -> Guarded {
    let identity = Identity::of("localhost");
    let folder = tempfile::tempdir().unwrap();
    let authorities = folder.path().join("ca.pem");
    std::fs::write(&authorities, &identity.authority).unwrap();
    let login = Some(("mailer", "s3cret"));
    let server = Server::start(Plan { tls, certificate: Some(identity), login, twists, ..Plan::default() }).await;
    let settings = SmtpSettings {
        host: "localhost".into(),
        tls,
        username: Some("mailer".into()),
        password: Some(Secret::new("s3cret".into())),
        authorities: Some(authorities),
        ..smtp(&server)
    };
    Guarded { server, settings, _folder: folder }
}

#[tokio::test]
async fn a_mail_goes_encrypted_and_signed_in() {
    for tls in [Tls::Implicit, Tls::StartTls] {
        let at = guarded(tls, Vec::new()).await;
        let mailer = mailer(at.settings);
        for _ in 0..3 {
            send(&mailer, "a@example.com").await.unwrap();
        }
        let mails = at.server.mails();
        assert!(mails.len() == 3 && mails.iter().all(|mail| mail.encrypted && mail.signed_in), "{tls:?}");
        assert_eq!(at.server.connections(), 1);
    }
}

#[tokio::test]
async fn on_this_machine_a_password_may_go_in_the_clear() {
    let server = Server::start(Plan { login: Some(("mailer", "s3cret")), ..Plan::default() }).await;
    let (username, password) = (Some("mailer".to_owned()), Some(Secret::new("s3cret".into())));
    send(&mailer(SmtpSettings { username, password, ..smtp(&server) }), "a@example.com").await.unwrap();
    assert!(server.mails()[0].signed_in && !server.mails()[0].encrypted);
}

#[tokio::test]
async fn a_server_that_cannot_prove_its_name_gets_neither_mail_nor_password() {
    for tls in [Tls::Implicit, Tls::StartTls] {
        let (known, stranger) = (guarded(tls, Vec::new()).await, guarded(tls, Vec::new()).await);
        let wrong_authority = SmtpSettings { port: stranger.server.port, ..known.settings.clone() };
        let wrong_name = SmtpSettings { host: "127.0.0.1".into(), ..known.settings.clone() };
        let system_only = SmtpSettings { authorities: None, ..known.settings.clone() };
        for settings in [wrong_authority, wrong_name, system_only] {
            let error = send(&mailer(settings), "a@example.com").await.unwrap_err();
            assert!(!error.is_permanent() && error.to_string().contains("certificate"), "{error}");
        }
        for server in [&known.server, &stranger.server] {
            let said = server.commands();
            assert!(
                said.iter().all(|line| line.starts_with("EHLO") || line == "STARTTLS" || line == "QUIT"),
                "{said:?}"
            );
        }
        send(&mailer(known.settings), "a@example.com").await.unwrap();
    }
}

#[tokio::test]
async fn where_starttls_is_taken_away_nothing_is_sent() {
    for twist in [
        (At::Ehlo, Twist::Say("250-mail.test\r\n250 AUTH PLAIN"), 1),
        (At::StartTls, Twist::Say("454 4.7.0 not now"), 1),
        (At::StartTls, Twist::Say("502 5.5.1 not known"), 1),
    ] {
        let at = guarded(Tls::StartTls, vec![twist]).await;
        let mailer = mailer(at.settings);
        let error = send(&mailer, "a@example.com").await.unwrap_err();
        assert!(!error.is_permanent() && error.stage() == crate::mail::Stage::Connect, "{error}");
        let said = at.server.commands();
        assert!(!said.iter().any(|line| line.starts_with("AUTH") || line.starts_with("MAIL")), "{said:?}");
        send(&mailer, "a@example.com").await.unwrap();
    }
}

/// RFC 3207 section 6: what was said in the clear is forgotten with the handshake. Here it ends the connection.
#[tokio::test]
async fn an_answer_slipped_in_before_the_handshake_is_not_believed_after_it() {
    for slipped in [
        "220 go ahead\r\n250-mail.test\r\n250 AUTH LOGIN",
        "220 go ahead\r\n250 mail.test\r\n235 ok\r\n250 ok\r\n250 ok\r\n354 go on\r\n250 taken",
    ] {
        let at = guarded(Tls::StartTls, vec![(At::StartTls, Twist::Say(slipped), 1)]).await;
        let mailer = mailer(at.settings);
        let error = send(&mailer, "a@example.com").await.unwrap_err();
        assert!(error.to_string().contains("before it was asked"), "{error}");
        assert!(at.server.mails().is_empty());
        send(&mailer, "a@example.com").await.unwrap();
        assert_eq!(at.server.mails().len(), 1);
    }
}

#[tokio::test]
async fn a_wrong_password_is_the_operators_to_mend_and_no_mail_is_lost_by_it() {
    let at = guarded(Tls::Implicit, Vec::new()).await;
    let password = Some(Secret::new("wrong".into()));
    let error = send(&mailer(SmtpSettings { password, ..at.settings.clone() }), "a@example.com").await.unwrap_err();
    assert_eq!(error.to_string(), "not delivered (sign_in): 535 5.7.8", "and what the server repeats is not repeated");
    let unasked = Server::start(Plan::default()).await;
    let settings = SmtpSettings { host: "127.0.0.1".into(), tls: Tls::None, port: unasked.port, ..at.settings.clone() };
    let error = send(&mailer(settings), "a@example.com").await.unwrap_err();
    let said = "not delivered (sign_in): No compatible authentication mechanism was found";
    assert!(error.to_string() == said && unasked.mails().is_empty(), "{error}");
    let none = SmtpSettings { username: None, password: None, ..at.settings.clone() };
    let error = send(&mailer(none), "a@example.com").await.unwrap_err();
    assert_eq!(error.to_string(), "not delivered (sender): 530 5.7.0 sign in first");
    assert!(at.server.mails().is_empty());
    send(&mailer(at.settings), "a@example.com").await.unwrap();
}
