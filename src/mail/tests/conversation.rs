//! What is said when all goes well.

use super::*;

/// A header's line, unfolded.
fn header<'a>(mail: &'a str, name: &str) -> &'a str {
    let head = mail.split("\r\n\r\n").next().unwrap();
    let mut found = head.split("\r\n").filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let value = found.next().unwrap_or_else(|| panic!("no {name} in {head}"));
    assert!(found.next().is_none(), "{name} twice");
    value
}

#[tokio::test]
async fn a_mail_arrives_as_it_was_made() {
    let server = Server::start(Plan::default()).await;
    let mailer = mailer(smtp(&server));
    let message = reset(&mailer, "Jose@Example.com");
    mailer.deliver(&message).await.unwrap();
    let mails = server.mails();
    let mail = &mails[0];
    assert_eq!((mails.len(), mail.encrypted, mail.signed_in), (1, false, false));
    assert_eq!(
        (mail.from.as_str(), mail.to.as_str()),
        ("MAIL FROM:<no-reply@vantage.example>", "RCPT TO:<Jose@example.com>")
    );
    let text = &mail.text;
    assert_eq!(header(text, "From"), "Vantage <no-reply@vantage.example>");
    assert_eq!(header(text, "To"), "Jose@example.com");
    assert_eq!(header(text, "Subject"), "Reset your Vantage password");
    assert_eq!(header(text, "Date"), "Fri, 20 Nov 2026 09:40:00 +0000");
    assert_eq!(header(text, "Message-ID"), format!("<{}@vantage.example>", message.id()));
    assert_eq!(header(text, "Auto-Submitted"), "auto-generated");
    assert!(header(text, "Content-Type").starts_with("multipart/alternative;"));
    let link = format!("https://app.vantage.example/reset?token={TOKEN}");
    assert!(text.contains(&format!("\r\n\r\n{link}\r\n\r\n")), "{text}");
    let escaped = link.replace('/', "&#x2f;");
    assert!(text.contains(&format!("<a href=\"{escaped}\" ")), "{text}");
    assert!(text.contains("text/plain; charset=utf-8") && text.contains("text/html; charset=utf-8"));
    mailer.hang_up().await;
    let said = server.commands();
    let verbs: Vec<&str> = said.iter().map(|line| line.split([' ', ':']).next().unwrap()).collect();
    assert_eq!(verbs, ["EHLO", "MAIL", "RCPT", "DATA", "QUIT"]);
    assert_eq!(said[0], "EHLO [127.0.0.1]");
}

#[tokio::test]
async fn a_burst_goes_over_few_connections_and_they_are_let_go_of() {
    let server = Server::start(Plan::default()).await;
    let mailer = mailer(SmtpSettings { hello: Some("gateway.example".into()), ..smtp(&server) });
    for n in 0..60 {
        send(&mailer, &format!("user{n}@example.com")).await.unwrap();
    }
    assert_eq!((server.mails().len(), server.connections()), (60, 2), "fifty to a connection");
    mailer.hang_up().await;
    assert_eq!(server.commands().iter().filter(|line| *line == "QUIT").count(), 1);
    assert!(server.commands().iter().any(|line| line == "EHLO gateway.example"));
    send(&mailer, "late@example.com").await.unwrap();
    assert_eq!(server.connections(), 3);
}

#[tokio::test]
async fn no_more_than_so_many_are_under_way_at_once() {
    let plan = Plan::twisted(At::Data, Twist::Late(Duration::from_millis(20)), usize::MAX);
    let server = Server::start(plan).await;
    let settings = Settings { transport: Transport::Smtp(smtp(&server)), templates: None, at_once: 3 };
    let mailer = Mailer::new(&settings).unwrap();
    let names: Vec<String> = (0..20).map(|n| format!("user{n}@example.com")).collect();
    let sent = futures_util::future::join_all(names.iter().map(|to| send(&mailer, to))).await;
    assert!(sent.iter().all(Result::is_ok), "{sent:?}");
    assert_eq!(server.mails().len(), 20);
    assert!((2..=3).contains(&server.most_open()), "{}", server.most_open());
}

#[tokio::test]
async fn a_line_with_a_dot_is_no_end() {
    let folder = tempfile::tempdir().unwrap();
    let text = "{{ token }}\r\n.\r\nQUIT\n.\nQUIT\r.\rQUIT\n..two\n\u{e9}\n.";
    std::fs::write(folder.path().join("reset.txt"), text).unwrap();
    let server = Server::start(Plan::default()).await;
    let templates = Some(folder.path().to_owned());
    let mailer = Mailer::new(&Settings { transport: Transport::Smtp(smtp(&server)), templates, at_once: 1 }).unwrap();
    send(&mailer, "a@example.com").await.unwrap();
    let mails = server.mails();
    let (_, body) = mails[0].text.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, format!("{TOKEN}\r\n.\r\nQUIT\r\n.\r\nQUIT\r\n.\r\nQUIT\r\n..two\r\n=C3=A9\r\n.\r\n\r\n"));
    assert!(!server.commands().iter().any(|line| line == "QUIT"));
}

#[tokio::test]
async fn an_address_beyond_ascii_needs_a_server_that_speaks_of_it() {
    let modern = Plan { features: vec!["SMTPUTF8", "8BITMIME"], ..Plan::default() };
    for (plan, to, command) in [
        (modern.clone(), "jos\u{e9}@b\u{fc}cher.example", "RCPT TO:<jos\u{e9}@xn--bcher-kva.example>"),
        (modern, "jose@b\u{fc}cher.example", "RCPT TO:<jose@xn--bcher-kva.example>"),
        (
            Plan { features: vec!["HELP"], ..Plan::default() },
            "jose@b\u{fc}cher.example",
            "RCPT TO:<jose@xn--bcher-kva.example>",
        ),
    ] {
        let server = Server::start(plan).await;
        send(&mailer(smtp(&server)), to).await.unwrap();
        let mail = &server.mails()[0];
        assert_eq!(mail.to, command);
        let utf8 = "MAIL FROM:<no-reply@vantage.example> SMTPUTF8 BODY=8BITMIME";
        assert_eq!(mail.from == utf8, !command.is_ascii(), "{}", mail.from);
        assert_eq!(mail.text.is_ascii(), command.is_ascii());
    }
    for features in [vec!["8BITMIME"], vec!["SMTPUTF8"]] {
        let server = Server::start(Plan { features, ..Plan::default() }).await;
        let error = send(&mailer(smtp(&server)), "jos\u{e9}@example.com").await.unwrap_err();
        assert!(error.is_permanent() && error.to_string().contains("SMTPUTF8"), "{error}");
        assert!(server.mails().is_empty() && !server.commands().iter().any(|line| line.starts_with("MAIL")));
    }
}
