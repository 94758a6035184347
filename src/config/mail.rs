//! Mail: how the process sends it, and how each site's looks.

use std::path::PathBuf;

use toml::Spanned;

use super::given::Given;
use super::raw::{RawMail, RawSite, RawSiteMail, RawTransport, Text};
use super::values::{RawSecret, count, duration, secs};
use crate::contract::Contract;
use crate::contract::source::{Located, Report, Source};
use crate::mail::brand::{self, Brand};
use crate::mail::{MailError, Mailer, Settings, SmtpSettings, Tls, Transport};

/// Where mails of `transport = "outbox"` are kept unless the file says.
const OUTBOX: &str = "data/outbox";

/// How mails leave; off where nothing is said.
pub(super) fn process(raw: Option<&Spanned<RawMail>>, given: &Given, report: &mut Report<'_>) -> Settings {
    let around = raw.map_or(0..0, Spanned::span);
    let silent = RawMail::default();
    let raw = raw.map_or(&silent, Spanned::get_ref);
    let path = |text: &Text| text.as_ref().map(|text| PathBuf::from(text.get_ref()));
    let smtp = smtp(raw, given, report);
    let transport = match raw.transport.as_ref().map(Spanned::get_ref) {
        Some(RawTransport::Smtp) => {
            if let (None, Some(transport)) = (&raw.host, &raw.transport) {
                report.tell(
                    &transport.span(),
                    "there is no `host`",
                    "name the mail server: host = \"smtp.example.com\"",
                );
            }
            Transport::Smtp(smtp)
        }
        Some(RawTransport::Outbox) => Transport::Outbox(path(&raw.outbox).unwrap_or_else(|| OUTBOX.into())),
        None if raw.host.is_some() || raw.outbox.is_some() => {
            let meant = if raw.host.is_some() { "smtp" } else { "outbox" };
            report.tell(&around, "there is no `transport`", format!("add transport = \"{meant}\""));
            Transport::Smtp(smtp)
        }
        Some(RawTransport::Off) | None => Transport::Off,
    };
    Settings { transport, templates: path(&raw.templates), at_once: count(&raw.at_once, 4, 1..=100, report) }
}

/// The server as written, also where another transport is chosen for now.
fn smtp(raw: &RawMail, given: &Given, report: &mut Report<'_>) -> SmtpSettings {
    let secret = RawSecret {
        name: "password",
        inline: &raw.password,
        file: &raw.password_file,
        generate: None,
        least: None,
        by_hand: false,
    };
    let password = secret.read(given, report);
    match (&raw.username, &password) {
        (Some(username), Ok(None)) => report.tell(&username.span(), "there is no `password`", secret.remedy()),
        (None, Ok(Some((_, span)))) => report.tell(span, "there is no `username`", "add username = \"…\""),
        _ => {}
    }
    if let Some((file, why)) =
        raw.authorities.as_ref().and_then(|file| Some((file, given.unreadable.get(file.get_ref())?)))
    {
        let message = format!("cannot read `{}`: {why}", file.get_ref());
        report.tell(&file.span(), message, "name a PEM file that this user can read");
    }
    let text = |text: &Text| text.as_ref().map(|text| text.get_ref().clone());
    let tls = raw.tls.as_ref().map_or(Tls::Implicit, |tls| *tls.get_ref());
    SmtpSettings {
        host: text(&raw.host).unwrap_or_default(),
        port: count(&raw.port, tls.port(), 1..=65_535, report),
        tls,
        username: text(&raw.username),
        password: password.ok().flatten().map(|(password, _)| password),
        authorities: raw.authorities.as_ref().map(|file| PathBuf::from(file.get_ref())),
        hello: text(&raw.hello),
        timeout: duration(&raw.timeout, secs(30), secs(1)..=secs(300), report),
    }
}

/// How a site's mails look; needed where its product sends any, and then they must also be able to leave.
pub(super) fn brand(
    raw: &RawSite,
    name: &str,
    contract: Option<&Contract>,
    leaves: bool,
    report: &mut Report<'_>,
) -> Option<Brand> {
    let sends = contract.is_some_and(|contract| contract.mail.is_some());
    if let Some(place) = raw.contract.as_ref().filter(|_| sends) {
        if raw.mail.is_none() {
            let remedy = "add [site.mail] with from = \"Example <no-reply@example.com>\"";
            report.tell(&place.span(), "the contract sends mails, and the site does not say who they are from", remedy);
        }
        if !leaves {
            let remedy = "add [mail] with transport = \"smtp\" and host = \"…\", or transport = \"outbox\" to try it: files in a folder";
            report.tell(&place.span(), "the contract sends mails, and there is no way for them to leave", remedy);
        }
    }
    let around = raw.mail.as_ref()?;
    let mail = around.get_ref();
    let text = |text: &Text| text.as_ref().map(|text| text.get_ref().clone());
    if mail.from.is_none() {
        report.tell(&around.span(), "there is no `from`", "add from = \"Example <no-reply@example.com>\"");
    }
    let settings = brand::Settings {
        product: text(&mail.product).unwrap_or_else(|| name.to_owned()),
        from: text(&mail.from).unwrap_or_default(),
        reply_to: text(&mail.reply_to),
        verify_link: text(&mail.verify_link),
        reset_link: text(&mail.reset_link),
    };
    let complaints = match Brand::new(&settings) {
        Ok(brand) => return Some(brand),
        Err(complaints) => complaints,
    };
    for brand::BadBrand { key, problem, remedy } in complaints {
        if let Some(place) = mail.named(key) {
            report.tell(&place.span(), problem, remedy);
        }
    }
    None
}

impl RawSiteMail {
    fn named(&self, key: &str) -> Option<&Spanned<String>> {
        match key {
            "product" => self.product.as_ref(),
            "from" => self.from.as_ref(),
            "reply_to" => self.reply_to.as_ref(),
            "verify_link" => self.verify_link.as_ref(),
            "reset_link" => self.reset_link.as_ref(),
            _ => None,
        }
    }
}

/// Makes a mailer and lets it go: what only its templates, its authorities and TLS can say. Reads files.
pub(super) fn try_out(settings: &Settings, source: &Source, raw: Option<&Spanned<RawMail>>) -> Result<(), Located> {
    Mailer::new(settings).map(drop).map_err(|error| {
        let key = |raw: &RawMail| {
            let tls = raw.tls.as_ref().map(Spanned::span);
            let place = |text: &Text| text.as_ref().map(Spanned::span);
            match &error {
                MailError::BadHost { .. } => place(&raw.host),
                MailError::BadHello { .. } => place(&raw.hello),
                MailError::HalfACredential => place(&raw.username),
                MailError::PasswordInTheClear { .. } | MailError::NoAuthorities { .. } | MailError::Tls { .. } => tls,
                MailError::BadAuthorities { .. } => place(&raw.authorities),
                _ => place(&raw.templates),
            }
        };
        let place = raw.map(|raw| key(raw.get_ref()).unwrap_or_else(|| raw.span()));
        let told = error.to_string();
        // Its remedy, where it has one, is what it ends with.
        let (message, remedy) = match &error {
            MailError::HalfACredential | MailError::Tls { .. } => (told.as_str(), ""),
            _ => told.rsplit_once(": ").unwrap_or((&told, "")),
        };
        source.error(&place.unwrap_or(0..0), message, remedy)
    })
}

/// What works and may not be meant.
pub(super) fn warnings(raw: &RawMail, settings: &Settings, source: &Source) -> Vec<Located> {
    let mut warnings = Vec::new();
    let Transport::Smtp(smtp) = &settings.transport else { return warnings };
    let usual = [Tls::Implicit, Tls::StartTls].into_iter().find(|tls| tls.port() == smtp.port);
    if let (Some(port), Some(usual)) = (&raw.port, usual.filter(|usual| *usual != smtp.tls)) {
        let spelt = if usual == Tls::Implicit { "implicit" } else { "starttls" };
        let message = format!("port {} is the one of tls = \"{spelt}\"", smtp.port);
        warnings.push(source.error(&port.span(), message, format!("write tls = \"{spelt}\", or another port")));
    }
    if let Some(tls) = raw.tls.as_ref().filter(|tls| *tls.get_ref() == Tls::None && !is_here(&smtp.host)) {
        let message = "mails, and the tokens in them, cross the network in the clear";
        warnings.push(source.error(
            &tls.span(),
            message,
            "use \"implicit\" or \"starttls\", or a server on this machine",
        ));
    }
    warnings
}

/// Whether the server is on this machine: nothing crosses a network.
fn is_here(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check_text, env, file, good, messages};
    use super::*;

    #[test]
    fn mails_that_work_and_may_not_be_meant_are_worth_a_word() {
        let smtp = |more: &str| file(&format!("[mail]\ntransport = 'smtp'\nhost = 'smtp.example.com'\n{more}"));
        for (more, wanted) in [
            ("port = 587", Some("mail.port: port 587 is the one of tls = \"starttls\"")),
            ("port = 465\ntls = 'starttls'", Some("mail.port: port 465 is the one of tls = \"implicit\"")),
            ("tls = 'none'", Some("mail.tls: mails, and the tokens in them, cross the network in the clear")),
            ("port = 2525\ntls = 'starttls'", None),
            ("port = 587\ntls = 'starttls'\nusername = 'u'\npassword = 'p'", None),
            ("", None),
        ] {
            let warnings = messages(&good(&smtp(more)).warnings);
            assert_eq!(wanted.is_some_and(|wanted| warnings.contains(wanted)), wanted.is_some(), "{more}: {warnings}");
            assert_eq!(warnings.is_empty(), wanted.is_none(), "{more}: {warnings}");
        }
        assert_eq!(good(&smtp("tls = 'none'").replace("smtp.example.com", "localhost")).warnings, []);
        let warnings = messages(&good(&file("[site.mail]\nfrom = 'a@b.example'\n")).warnings);
        assert!(warnings.contains("site[0].mail: the contract sends no mails"), "{warnings}");
    }

    #[test]
    fn a_mail_server_is_read_whole() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("password");
        std::fs::write(&secret, "swordfish\n").unwrap();
        let text = file(&format!(
            "[mail]\ntransport = 'smtp'\nhost = 'smtp.example.com'\ntls = 'starttls'\nusername = 'u'\n\
             password_file = '{}'\nhello = 'gate.example.com'\ntimeout = '5s'\nat_once = 2\n",
            secret.display()
        ));
        let mail = good(&text).boot.mail;
        let wanted = SmtpSettings {
            host: "smtp.example.com".into(),
            port: 587,
            tls: Tls::StartTls,
            username: Some("u".into()),
            password: Some("swordfish".to_owned().into()),
            authorities: None,
            hello: Some("gate.example.com".into()),
            timeout: std::time::Duration::from_secs(5),
        };
        assert_eq!((&mail.transport, mail.at_once, &mail.templates), (&Transport::Smtp(wanted), 2, &None));
        assert!(!format!("{mail:?}").contains("swordfish"));
        assert_eq!(good(&file("")).boot.mail.transport, Transport::Off);
        // What is written for another transport stays, so that one variable switches.
        let env = env(&[("TOLLGATE__MAIL__TRANSPORT", "outbox")]);
        let switched = check_text(&text, &env).unwrap().boot.mail.transport;
        assert_eq!(switched, Transport::Outbox("data/outbox".into()));
    }
}
