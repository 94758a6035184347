//! TOML with places: every error with its file, line, column, key and remedy.
//!
//! [`read`] parses a file, lets its caller edit the tree (environment, overrides), and gives the typed
//! value together with *every* shape error, not only the first: serde stops at one, so what it stumbles
//! over is noted and taken out (`repair`), and it is asked again. What it cannot see (names that
//! refer to nothing, values out of range) is found later, by whoever compiles the value, and told with
//! [`Source::error`]. Used for contracts here and for the gateway's own files by `config`.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::repair;

/// More errors than this in one file are read by nobody.
pub(super) const MOST_ERRORS: usize = 50;

/// A file's text and the name it is shown by.
#[derive(Clone, Debug)]
pub struct Source {
    /// The name in messages: a path, or `vantage (built in)`.
    pub name: String,
    /// The text.
    pub text: Arc<str>,
    /// Values that were put into the tree and stand nowhere in the text.
    pub outside: Arc<[Outside]>,
}

/// A value that came from outside of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outside {
    /// What set it, named in messages in place of the file: an environment variable, a flag.
    pub from: String,
    /// The dotted path of the key that it set.
    pub key: String,
}

impl Outside {
    /// The first place beyond every text.
    const FIRST: usize = usize::MAX / 2;

    /// The place of the value that stands at `at` in `Source::outside`.
    pub const fn span(at: usize) -> Range<usize> {
        Self::FIRST + at..Self::FIRST + at
    }
}

/// What is wrong, where, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// The file.
    pub file: String,
    /// The line, from 1; 0 when the value does not stand in the file (an environment override).
    pub line: usize,
    /// The column in characters, from 1; 0 with `line` 0.
    pub column: usize,
    /// The dotted path of the key: `site[0].route[2].match`; empty for the file as a whole.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Located {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.message)?;
        if !self.remedy.is_empty() {
            write!(f, "\n    help: {}", self.remedy)?;
        }
        Ok(())
    }
}

impl Source {
    /// A source named `name`.
    pub fn new(name: impl Into<String>, text: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), text: text.into(), outside: Arc::default() }
    }

    fn outside(&self, span: &Range<usize>) -> Option<&Outside> {
        self.outside.get(span.start.checked_sub(Outside::FIRST)?)
    }

    /// A complaint about the value or key at `span`, its key's path found by the span.
    pub fn error(&self, span: &Range<usize>, message: impl Into<String>, remedy: impl Into<String>) -> Located {
        self.error_at(span, self.key_at(span), message, remedy)
    }

    /// A complaint about the value or key at `span`, its key's path given.
    pub fn error_at(
        &self,
        span: &Range<usize>,
        key: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Located {
        let (line, column) = locate(self, span);
        let (key, message, remedy) = (key.into(), message.into(), remedy.into());
        let file = self.outside(span).map_or(&self.name, |outside| &outside.from).clone();
        Located { file, line, column, key, message, remedy }
    }

    /// The dotted path of the innermost key or value whose span is `span`; empty when there is none.
    pub fn key_at(&self, span: &Range<usize>) -> String {
        if let Some(outside) = self.outside(span) {
            return outside.key.clone();
        }
        let (root, _) = DeTable::parse_recoverable(&self.text);
        let mut found = String::new();
        visit_table(root.get_ref(), "", &mut |key, path, value| {
            if key.is_some_and(|key| key.span() == *span) || value.span() == *span {
                path.clone_into(&mut found);
            }
        });
        found
    }
}

/// The errors of one compilation, told as they are found.
#[derive(Debug)]
pub struct Report<'s> {
    /// The file they are found in.
    pub source: &'s Source,
    /// What was told.
    pub errors: Vec<Located>,
}

impl<'s> Report<'s> {
    /// Nothing told yet.
    pub const fn new(source: &'s Source) -> Self {
        Self { source, errors: Vec::new() }
    }

    /// Tells of the value or key at `span`.
    pub fn tell(&mut self, span: &Range<usize>, message: impl Into<String>, remedy: impl Into<String>) {
        // Finding a key's path reads the file again: a generated file of errors must not take minutes.
        if self.errors.len() < MOST_ERRORS {
            self.errors.push(self.source.error(span, message, remedy));
        }
    }

    /// Tells of what stands `at` bytes into the text `text` that the string at `span` holds.
    pub fn tell_within(
        &mut self,
        span: &Range<usize>,
        text: &str,
        at: usize,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        if self.errors.len() >= MOST_ERRORS {
            return;
        }
        self.tell(span, message, remedy);
        // Only in a string that is written without escapes is the place known to the column.
        let inner = span.start + 1..span.end.saturating_sub(1);
        let plain = self.source.text.get(inner.clone()) == Some(text);
        if let (true, Some(error)) = (plain, self.errors.last_mut()) {
            (error.line, error.column) = locate(self.source, &(inner.start + at..inner.end));
        }
    }
}

/// The line and column where `span` starts, from 1, in characters; (0, 0) when it is not in the text.
pub fn locate(source: &Source, span: &Range<usize>) -> (usize, usize) {
    let Some(before) = source.text.get(..span.start) else { return (0, 0) };
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let column = before[line_start..].chars().filter(|each| *each != '\u{feff}').count();
    (before.matches('\n').count() + 1, column + 1)
}

/// Reads a `T` out of `source`, after `edit` had its way with the tree.
///
/// Give `T` `deny_unknown_fields`, and no `untagged` or `flatten` (serde loses the places in both). A
/// custom serde error may hold its remedy after a line break. Errors come in the order of the file. The
/// value is there whenever it can be, also beside errors: so that what depends on it can be judged too.
pub fn read<T: DeserializeOwned>(
    source: &Source,
    edit: impl FnOnce(&mut DeTable<'_>, &mut Vec<Located>),
) -> (Option<T>, Vec<Located>) {
    let (root, broken) = DeTable::parse_recoverable(&source.text);
    if !broken.is_empty() {
        return (None, syntax(source, &broken));
    }
    let mut errors = Vec::new();
    let span = root.span();
    let mut root = root.into_inner();
    edit(&mut root, &mut errors);
    // The common case: nothing is wrong, and nothing is paid for places.
    let whole = toml::de::Deserializer::from(Spanned::new(span, root.clone()));
    if let Ok(value) = T::deserialize(whole) {
        return (Some(value), errors);
    }
    let value = repair::read(source, root, &mut errors);
    errors.sort_by_key(|error| (error.line, error.column));
    (value, errors)
}

/// One error a line: what follows on the same line is nearly always its echo.
fn syntax(source: &Source, broken: &[toml::de::Error]) -> Vec<Located> {
    let mut errors: Vec<Located> = Vec::new();
    for error in broken {
        let span = error.span().unwrap_or(0..0);
        let remedy = match error.message() {
            "duplicate key" => "a key and a [table] stand once; a list of tables is written [[name]]",
            _ => "correct the TOML here (https://toml.io/en/v1.0.0)",
        };
        let next = source.error_at(&span, source.key_at(&span), error.message(), remedy);
        if errors.iter().all(|other| other.line != next.line) {
            errors.push(next);
        }
    }
    errors.sort_by_key(|error| (error.line, error.column));
    errors
}

/// Visits every key and value below `table`, outermost first, with its dotted path.
fn visit_table<'t, 'i>(
    table: &'t DeTable<'i>,
    above: &str,
    each: &mut impl FnMut(Option<&'t Spanned<toml::de::DeString<'i>>>, &str, &'t Spanned<DeValue<'i>>),
) {
    for (key, value) in table {
        let path = join(above, key.get_ref());
        each(Some(key), &path, value);
        visit_value(value, &path, each);
    }
}

fn visit_value<'t, 'i>(
    value: &'t Spanned<DeValue<'i>>,
    path: &str,
    each: &mut impl FnMut(Option<&'t Spanned<toml::de::DeString<'i>>>, &str, &'t Spanned<DeValue<'i>>),
) {
    match value.get_ref() {
        DeValue::Table(table) => visit_table(table, path, each),
        DeValue::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                let path = format!("{path}[{at}]");
                each(None, &path, item);
                visit_value(item, &path, each);
            }
        }
        _ => {}
    }
}

/// `above.key`, quoted as TOML would where the key is not a bare one.
pub(super) fn join(above: &str, key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    let key = if bare { key.to_owned() } else { format!("{key:?}") };
    if above.is_empty() { key } else { format!("{above}.{key}") }
}

/// The remedy for a name that is not known: the nearest one, or all that are.
pub fn suggest<'a>(wanted: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    let plain = |text: &str| text.to_ascii_lowercase().replace(['-', '.'], "_");
    let wanted = plain(wanted);
    let nearest = known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(&wanted, &plain(name)), *name))
        .filter(|(distance, name)| *distance <= (name.len() / 3).clamp(1, 4))
        .min_by_key(|(distance, _)| *distance);
    match (nearest, known.as_slice()) {
        (Some((_, name)), _) => format!("did you mean `{name}`?"),
        (None, []) => "nothing can stand here".into(),
        (None, [only]) => format!("only `{only}` can stand here"),
        (None, all) => format!("one of: {}", all.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        listen: Spanned<String>,
        #[serde(default)]
        site: Vec<Site>,
        size: Option<u16>,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Site {
        name: Spanned<String>,
        kind: Kind,
        #[serde(default)]
        hosts: Vec<Spanned<String>>,
    }

    #[derive(Debug, PartialEq, serde::Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Kind {
        Open,
        Closed,
    }

    fn all(text: &str) -> (Option<File>, Vec<String>) {
        let (file, errors) = read(&Source::new("f.toml", text), |_, _| {});
        (file, errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_good_file_reads_with_its_places() {
        let text = "listen = 'a'\r\n\n[[site]]\nname = 'é'\nkind = 'open'\nhosts = ['x',  'y']\n";
        let source = Source::new("f.toml", text);
        let (file, errors) = read::<File>(&source, |_, _| {});
        let file = file.unwrap();
        assert_eq!(errors, []);
        let error = source.error(&file.site[0].hosts[1].span(), "no", "");
        assert_eq!(error.to_string(), "f.toml:6:16: site[0].hosts[1]: no");
        assert_eq!(locate(&source, &file.site[0].name.span()), (4, 8));
        assert_eq!(file.site[0].kind, Kind::Open);
    }

    #[test]
    fn every_shape_error_is_told_at_once() {
        let (file, errors) = all("size = 'x'\n[[site]]\nnaem = 'a'\nkind = 'opn'\nhosts = [1, 'b', true]\n[[site]]\n");
        assert!(file.is_none());
        assert_eq!(
            errors,
            [
                "f.toml:1:1: listen: missing\n    help: add `listen = …` here",
                "f.toml:1:8: size: expected u16, found a string\n    help: write a whole number without quotes",
                "f.toml:3:1: site[0].naem: unknown key `naem`\n    help: did you mean `name`?",
                "f.toml:4:8: site[0].kind: unknown value `opn`\n    help: did you mean `open`?",
                "f.toml:5:10: site[0].hosts[0]: expected a string, found an integer\n    help: write a string in quotes",
                "f.toml:5:18: site[0].hosts[2]: expected a string, found a boolean\n    help: write a string in quotes",
                "f.toml:6:1: site[1].name: missing\n    help: add `name = …` here",
                "f.toml:6:1: site[1].kind: missing\n    help: add `kind = …` here",
            ]
        );
    }

    #[test]
    fn a_value_comes_beside_errors_that_do_not_concern_it() {
        let (file, errors) = all("listen = 'a'\nsize = 70000\nextra = 1\n");
        let file = file.unwrap();
        assert_eq!((file.listen.get_ref().as_str(), file.size), ("a", None));
        assert_eq!(errors.len(), 2, "{errors:?}");
    }

    #[test]
    fn a_wrong_type_never_shows_the_value_because_it_may_be_a_secret() {
        let (_, errors) = all("listen = 'a'\nsite = 'hunter2hunter2'\n");
        assert_eq!(
            errors,
            ["f.toml:2:8: site: expected a sequence, found a string\n    help: write a list in [brackets]"]
        );
    }

    #[test]
    fn several_syntax_errors_come_together_and_nothing_else() {
        let (file, errors) = all("listen = \n[[site]]\nname = 'a\nkind = 'open'\nkind = 'open'\n");
        assert!(file.is_none());
        assert!(errors.len() >= 2, "{errors:?}");
        assert!(errors[0].starts_with("f.toml:1:"), "{errors:?}");
        assert!(errors.iter().any(|error| error.contains("f.toml:5:1: ") && error.contains("duplicate key")));
    }

    #[test]
    fn an_edit_is_read_and_what_is_not_in_the_file_has_no_line() {
        let mut source = Source::new("f.toml", "size = 1\n");
        source.outside = Arc::new([Outside { from: "$LISTEN".into(), key: "listen".into() }]);
        assert_eq!(source.error(&Outside::span(0), "no", "").to_string(), "$LISTEN: listen: no");
        assert_eq!(source.error(&Outside::span(1), "no", "").to_string(), "f.toml: no");
        let (file, errors) = read::<File>(&source, |root, _| {
            let outside = Outside::span(0);
            root.insert(Spanned::new(outside.clone(), "listen".into()), Spanned::new(outside, DeValue::Boolean(true)));
        });
        assert!(file.is_none());
        assert_eq!(
            errors[0].to_string(),
            "$LISTEN: listen: expected a string, found a boolean\n    help: write a string in quotes"
        );
    }

    #[test]
    fn a_byte_order_mark_does_not_shift_columns() {
        let (_, errors) = all("\u{feff}listen = 1\n");
        assert!(errors[0].starts_with("f.toml:1:10: listen: "), "{errors:?}");
    }
}
