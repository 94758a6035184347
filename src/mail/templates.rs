//! What mails say: templates built in, each replaceable by a file of the same name.
//!
//! `<kind>.subject`, `<kind>.txt` and `<kind>.html` for each [`Kind`], in the Jinja language. HTML is escaped. What
//! they can show is fixed ([`Facts`]); all of them are tried out when they are loaded, so that a mistake in a file
//! stops the start and not somebody's mail. An operator's text without an operator's HTML is a mail without HTML:
//! its two parts never say different things.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use minijinja::{Environment, UndefinedBehavior, context};

use super::{Kind, MailError};

const BUILT_IN: [(&str, &str); 9] = [
    ("verify.subject", include_str!("templates/verify.subject")),
    ("verify.txt", include_str!("templates/verify.txt")),
    ("verify.html", include_str!("templates/verify.html")),
    ("reset.subject", include_str!("templates/reset.subject")),
    ("reset.txt", include_str!("templates/reset.txt")),
    ("reset.html", include_str!("templates/reset.html")),
    ("password_changed.subject", include_str!("templates/password_changed.subject")),
    ("password_changed.txt", include_str!("templates/password_changed.txt")),
    ("password_changed.html", include_str!("templates/password_changed.html")),
];
/// A template is some text, not a book.
const LARGEST: u64 = 256 * 1024;

/// The templates in use.
#[derive(Debug)]
pub(super) struct Templates {
    environment: Environment<'static>,
    without_html: Vec<Kind>,
}

/// What a template can show. Nothing that whoever asked for the mail could choose stands in it, but the address: a
/// gateway that sent a stranger's words under its own name would be a spammer's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts<'a> {
    /// The product's name.
    pub product: &'a str,
    /// Where the mail goes.
    pub address: &'a str,
    /// The page to open, with the token in it, where one is configured.
    pub link: Option<&'a str>,
    /// The bare token; empty in a mail that has none.
    pub token: &'a str,
    /// How long the token works, in words: `24 hours`; empty where there is none.
    pub valid_for: &'a str,
    /// The same in minutes, for other languages.
    pub valid_minutes: u64,
    /// When it happened: `2026-11-20 09:40 UTC`.
    pub at: &'a str,
}

/// A mail's words.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Words {
    pub subject: String,
    pub text: String,
    pub html: Option<String>,
}

impl Templates {
    /// The built-in templates, with those of `folder` in place of theirs.
    pub fn load(folder: Option<&Path>) -> Result<Self, MailError> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        for (name, source) in BUILT_IN {
            environment.add_template(name, source).expect("the built-in templates are tried by the tests");
        }
        let mut templates = Self { environment, without_html: Vec::new() };
        let Some(folder) = folder else { return Ok(templates) };
        let own = files(folder)?;
        for (name, file) in &own {
            let source = read(file)?;
            let bad = |source| MailError::Template { file: file.clone(), source };
            templates.environment.add_template_owned(*name, source).map_err(bad)?;
        }
        let has = |kind: Kind, part: &str| own.iter().any(|(name, _)| *name == format!("{}.{part}", kind.name()));
        templates.without_html =
            Kind::ALL.into_iter().filter(|kind| has(*kind, "txt") && !has(*kind, "html")).collect();
        templates.try_out(folder)?;
        Ok(templates)
    }

    /// The words of a mail.
    pub fn render(&self, kind: Kind, facts: &Facts<'_>) -> Result<Words, minijinja::Error> {
        let html = if self.without_html.contains(&kind) { None } else { Some(self.part(kind, "html", facts)?) };
        Ok(Words { subject: one_line(&self.part(kind, "subject", facts)?), text: self.part(kind, "txt", facts)?, html })
    }

    fn part(&self, kind: Kind, part: &str, facts: &Facts<'_>) -> Result<String, minijinja::Error> {
        let template = self.environment.get_template(&format!("{}.{part}", kind.name()))?;
        template.render(context! {
            product => facts.product,
            address => facts.address,
            link => facts.link,
            token => facts.token,
            valid_for => facts.valid_for,
            valid_minutes => facts.valid_minutes,
            at => facts.at,
        })
    }

    /// Renders every template with and without a link.
    fn try_out(&self, folder: &Path) -> Result<(), MailError> {
        const SAMPLE: &str = "s4mpl3-t0k3n";
        let mut facts = Facts {
            product: "Product",
            address: "a@example.com",
            link: None,
            token: SAMPLE,
            valid_for: "1 hour",
            valid_minutes: 60,
            at: "2026-11-20 09:40 UTC",
        };
        for link in [None, Some("https://example.com/s4mpl3-t0k3n")] {
            facts.link = link;
            for (kind, part) in
                Kind::ALL.into_iter().flat_map(|kind| ["subject", "txt", "html"].map(|part| (kind, part)))
            {
                let file = || folder.join(format!("{}.{part}", kind.name()));
                let said = self.part(kind, part, &facts);
                let said = said.map_err(|source| MailError::Template { file: file(), source })?;
                if said.trim().is_empty() {
                    return Err(MailError::EmptyTemplate { file: file() });
                }
                if part != "subject" && kind.has_token() && !said.contains(SAMPLE) {
                    return Err(MailError::TemplateWithoutToken { file: file() });
                }
            }
        }
        Ok(())
    }
}

/// The templates in a folder, by the name of what each replaces. A name that replaces nothing is a slip of the pen,
/// and is told; files of other kinds (editors', readmes) are left alone.
fn files(folder: &Path) -> Result<Vec<(&'static str, PathBuf)>, MailError> {
    let bad = |source| MailError::Read { file: folder.to_owned(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(bad)? {
        let file = entry.map_err(bad)?.path();
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        if let Some((known, _)) = BUILT_IN.iter().find(|(known, _)| *known == name) {
            found.push((*known, file));
        } else if !name.starts_with('.') && [".subject", ".txt", ".html"].iter().any(|end| name.ends_with(end)) {
            return Err(MailError::UnknownTemplate { file });
        }
    }
    Ok(found)
}

fn read(file: &Path) -> Result<String, MailError> {
    let bad = |source| MailError::Read { file: file.to_owned(), source };
    if fs::metadata(file).map_err(bad)?.len() > LARGEST {
        return Err(bad(io::Error::new(io::ErrorKind::FileTooLarge, "more than 256 KiB")));
    }
    fs::read_to_string(file).map_err(bad)
}

/// A subject is one line, whatever its template's layout.
fn one_line(text: &str) -> String {
    let visible = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(visible).collect::<String>().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts<'static> {
        Facts {
            product: "Tom & Jerry's <b>",
            address: "a@example.com",
            link: Some("https://example.com/v?token=T&x=\"1"),
            token: "T0K",
            valid_for: "24 hours",
            valid_minutes: 1440,
            at: "2026-11-20 09:40 UTC",
        }
    }

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    fn refused(files: &[(&str, &str)]) -> String {
        let folder = folder(files);
        let error = Templates::load(Some(folder.path())).unwrap_err().to_string();
        error.replace(&folder.path().display().to_string(), "FOLDER")
    }

    #[test]
    fn the_built_in_templates_say_what_is_to_be_said() {
        let templates = Templates::load(None).unwrap();
        templates.try_out(Path::new("built-in")).unwrap();
        for kind in Kind::ALL {
            let with = templates.render(kind, &facts()).unwrap();
            let without = templates.render(kind, &Facts { link: None, ..facts() }).unwrap();
            for words in [&with, &without] {
                let html = words.html.as_ref().unwrap();
                assert!(words.subject.contains("Tom & Jerry's <b>") && words.text.contains("Tom & Jerry's <b>"));
                assert!(html.contains("Tom &amp; Jerry&#x27;s &lt;b&gt;") && !html.contains("<b>"), "{html}");
                for part in [&words.text, html] {
                    assert_eq!(part.contains("24 hours"), kind.has_token(), "{part}");
                    assert_eq!(part.contains("2026-11-20 09:40 UTC"), kind == Kind::PasswordChanged, "{part}");
                    assert!(!part.contains("{{") && !part.contains("{%") && !part.contains("\n\n\n"), "{part}");
                }
            }
            assert_eq!(with.text.contains(facts().link.unwrap()), kind.has_token());
            assert_eq!(with.html.unwrap().contains("token=T&amp;x=&quot;1"), kind.has_token());
            assert_eq!(without.text.contains("\nT0K\n"), kind.has_token());
            assert!(!without.text.contains("https:") && !with.text.contains("T0K"));
        }
    }

    #[test]
    fn a_file_replaces_its_template_and_no_other() {
        let folder = folder(&[
            ("verify.subject", "Bonjour\r\n {{ product }}\t!\n"),
            ("verify.html", "<p>{{ product }} {{ link or token }} {{ valid_minutes }}</p>"),
            ("README.md", "{{ not a template"),
            (".verify.txt.swp.txt", "{{"),
        ]);
        let templates = Templates::load(Some(folder.path())).unwrap();
        let words = templates.render(Kind::Verify, &Facts { link: None, ..facts() }).unwrap();
        assert_eq!(words.subject, "Bonjour Tom & Jerry's <b> !");
        assert_eq!(words.html.unwrap(), "<p>Tom &amp; Jerry&#x27;s &lt;b&gt; T0K 1440</p>");
        let built_in = Templates::load(None).unwrap();
        assert_eq!(words.text, built_in.render(Kind::Verify, &Facts { link: None, ..facts() }).unwrap().text);
        for kind in [Kind::Reset, Kind::PasswordChanged] {
            assert_eq!(templates.render(kind, &facts()).unwrap(), built_in.render(kind, &facts()).unwrap());
        }
    }

    #[test]
    fn an_own_text_without_own_html_makes_a_mail_without_html() {
        let folder = folder(&[("reset.txt", "{{ link or token }}")]);
        let templates = Templates::load(Some(folder.path())).unwrap();
        assert_eq!(templates.render(Kind::Reset, &facts()).unwrap().html, None);
        assert!(templates.render(Kind::Verify, &facts()).unwrap().html.is_some());
    }

    #[test]
    fn what_would_fail_when_a_mail_is_due_fails_when_it_is_loaded() {
        for (files, says) in [
            (&[("verify.txt", "{{ tokn }} {{ token }}")][..], "FOLDER/verify.txt: undefined value"),
            (&[("verify.txt", "{% if %}")], "FOLDER/verify.txt: syntax error"),
            (&[("verify.txt", "Hello")], "FOLDER/verify.txt: shows neither"),
            (&[("reset.subject", " \n")], "FOLDER/reset.subject: says nothing"),
            (&[("verfy.txt", "{{ token }}")], "FOLDER/verfy.txt: replaces no template"),
            (&[("reset.html", "{% include 'verify.html' %}")], "FOLDER/reset.html: syntax error"),
        ] {
            let said = refused(files);
            assert!(said.starts_with(says), "{said}");
        }
        assert!(matches!(Templates::load(Some(Path::new("no/such/folder"))), Err(MailError::Read { .. })));
        let large = "{{ token }}".repeat(30_000);
        assert!(refused(&[("verify.txt", &large)]).contains("more than 256 KiB"));
    }
}
