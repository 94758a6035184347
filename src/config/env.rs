//! The environment inside a file: `${VAR}` in strings, and values set from outside.
//!
//! Pure: the environment is a map that `load` was given. A value that came from outside has no place in
//! the file; its errors are told under the name of what set it ([`Outside`]).

use std::borrow::Cow;
use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use crate::contract::source::{Located, Outside, Source};

/// The environment as the process was given it.
pub type Env = BTreeMap<String, String>;

/// Variables that begin so set keys: `TOLLGATE__LISTEN__HTTPS`, `TOLLGATE__SITE__0__REALM`.
const PREFIX: &str = "TOLLGATE__";
/// A value set from outside of the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// What set it, for messages: the variable or the flag.
    pub from: String,
    /// The key's path: `["site", "0", "realm"]`.
    pub path: Vec<String>,
    /// The value: text, or TOML where it is a list, a table or a boolean.
    pub value: String,
}

impl Override {
    /// What the environment sets.
    pub fn from_env(env: &Env) -> Vec<Self> {
        let names = env.iter().filter_map(|(name, value)| Some((name, name.strip_prefix(PREFIX)?, value)));
        names
            .map(|(name, key, value)| Self {
                from: name.clone(),
                path: key.split("__").map(str::to_ascii_lowercase).collect(),
                value: value.clone(),
            })
            .collect()
    }

    /// What the command line sets: `listen.https`, `site.0.realm`.
    pub fn from_flag(flag: &str, key: &str, value: &str) -> Self {
        Self { from: flag.into(), path: key.split('.').map(str::to_owned).collect(), value: value.into() }
    }

    /// How errors name it.
    pub(super) fn outside(&self) -> Outside {
        Outside { from: self.from.clone(), key: self.dotted() }
    }

    /// Sets the value in `table`; it stands at `at` in the source's list of what came from outside.
    pub(super) fn apply(&self, table: &mut DeTable<'_>, at: usize) -> Result<(), Located> {
        let place = Outside::span(at);
        let value = Spanned::new(place.clone(), value_of(&self.value, &place));
        set(table, &self.path, value).map_err(|message| Located {
            file: self.from.clone(),
            line: 0,
            column: 0,
            key: self.dotted(),
            message: message.into(),
            remedy: "the name is a path of keys, and a list's elements count from 0: TOLLGATE__SITE__0__REALM".into(),
        })
    }

    /// The path as errors spell it: `site[0].realm`.
    fn dotted(&self) -> String {
        let mut dotted = String::new();
        for key in &self.path {
            if key.parse::<usize>().is_ok() {
                dotted.extend(["[", key, "]"]);
            } else {
                dotted.push_str(if dotted.is_empty() { "" } else { "." });
                dotted.push_str(key);
            }
        }
        dotted
    }
}

/// Replaces `${VAR}` and `${VAR:-default}` in every string below `table`; `$${` stands for `${`.
pub(super) fn interpolate(source: &Source, table: &mut DeTable<'_>, env: &Env, errors: &mut Vec<Located>) {
    for (_, value) in table.iter_mut() {
        interpolate_value(source, value, env, errors);
    }
}

fn interpolate_value(source: &Source, value: &mut Spanned<DeValue<'_>>, env: &Env, errors: &mut Vec<Located>) {
    let span = value.span();
    match value.get_mut() {
        DeValue::String(text) => match expand(text, env) {
            Ok(None) => {}
            Ok(Some(expanded)) => *text = Cow::Owned(expanded),
            Err((message, remedy)) => errors.push(source.error(&span, message, remedy)),
        },
        DeValue::Array(items) => {
            items.iter_mut().for_each(|item| interpolate_value(source, item, env, errors));
        }
        DeValue::Table(table) => interpolate(source, table, env, errors),
        _ => {}
    }
}

/// The text with its variables filled in; `None` when it has none.
fn expand(text: &str, env: &Env) -> Result<Option<String>, (String, String)> {
    if !text.contains("${") {
        return Ok(None);
    }
    let mut expanded = String::with_capacity(text.len() + 64);
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if let Some(before) = rest[..at].strip_suffix('$') {
            expanded.push_str(before);
            expanded.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        expanded.push_str(&rest[..at]);
        let (inside, after) = rest[at + 2..].split_once('}').ok_or_else(|| {
            ("`${` without its `}`".to_owned(), "write `${NAME}`, or `$${` for a plain `${`".to_owned())
        })?;
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !is_name {
            let remedy = "write `${NAME}` or `${NAME:-default}`, or `$${` for a plain `${`";
            return Err((format!("`${{{name}}}` does not name an environment variable"), remedy.into()));
        }
        // As in a shell: `:-` also stands in for a variable that is set to nothing.
        let value = match (env.get(name), default) {
            (Some(value), None) => value,
            (Some(value), Some(_)) if !value.is_empty() => value,
            (_, Some(default)) => default,
            (None, None) => {
                let remedy = format!("set it before the start or in .env, or give a default: ${{{name}:-…}}");
                return Err((format!("the environment variable `{name}` is not set"), remedy));
            }
        };
        expanded.push_str(value);
        rest = after;
    }
    expanded.push_str(rest);
    Ok(Some(expanded))
}

type Place = std::ops::Range<usize>;

/// TOML where the text is a list, a table, a quoted string or a boolean; else the text as it is.
fn value_of(text: &str, place: &Place) -> DeValue<'static> {
    let toml = text.starts_with(['[', '{', '"']) || text == "true" || text == "false";
    let parsed = toml.then(|| DeValue::parse(text).ok()).flatten();
    parsed.map_or_else(|| DeValue::String(Cow::Owned(text.to_owned())), |value| moved(value.into_inner(), place))
}

/// The value with everything below it at `place`: the places it was read with are those of another text.
fn moved(value: DeValue<'_>, place: &Place) -> DeValue<'static> {
    let text = |text: String| DeValue::String(Cow::Owned(text));
    let value_at = |value: Spanned<DeValue<'_>>| Spanned::new(place.clone(), moved(value.into_inner(), place));
    match value {
        DeValue::String(value) => text(value.into_owned()),
        DeValue::Boolean(value) => DeValue::Boolean(value),
        DeValue::Array(items) => DeValue::Array(items.into_iter().map(value_at).collect()),
        DeValue::Table(table) => {
            let key_at =
                |key: Spanned<Cow<'_, str>>| Spanned::new(place.clone(), Cow::Owned(key.into_inner().into_owned()));
            DeValue::Table(table.into_iter().map(|(key, value)| (key_at(key), value_at(value))).collect())
        }
        // Numbers are read from text as well, and no key takes a float or a date.
        DeValue::Integer(value) => text(value.to_string()),
        DeValue::Float(value) => text(value.to_string()),
        DeValue::Datetime(value) => DeValue::Datetime(value),
    }
}

/// Puts `value` at `path`, making the tables on the way.
fn set(table: &mut DeTable<'_>, path: &[String], value: Spanned<DeValue<'static>>) -> Result<(), &'static str> {
    let Some((key, below)) = path.split_first().filter(|(key, _)| !key.is_empty()) else {
        return Err("this names no key");
    };
    let known = table.iter().map(|(own, _)| own.get_ref()).find(|own| own.eq_ignore_ascii_case(key));
    // An environment variable cannot keep the case of `[site.upstream.App]`.
    let key = known.map_or_else(|| key.clone(), |own| own.clone().into_owned());
    let place = value.span();
    let key = Spanned::new(place.clone(), Cow::Owned(key));
    if below.is_empty() {
        table.insert(key, value);
        return Ok(());
    }
    let is_list = below[0].parse::<usize>().is_ok();
    let slot = table.entry(key).or_insert_with(|| {
        Spanned::new(place, if is_list { DeValue::Array(DeArray::new()) } else { DeValue::Table(DeTable::new()) })
    });
    set_below(slot, below, value)
}

fn set_below(
    slot: &mut Spanned<DeValue<'_>>,
    path: &[String],
    value: Spanned<DeValue<'static>>,
) -> Result<(), &'static str> {
    match slot.get_mut() {
        DeValue::Table(table) => set(table, path, value),
        DeValue::Array(items) => {
            let at = path[0].parse::<usize>().map_err(|_| "a list's elements are counted, not named")?;
            if at == items.len() && path.len() > 1 {
                items.push(Spanned::new(value.span(), DeValue::Table(DeTable::new())));
            }
            let item = items.get_mut(at).ok_or("the list has no such element")?;
            if path.len() == 1 {
                *item = value;
                return Ok(());
            }
            set_below(item, &path[1..], value)
        }
        _ => Err("there is nothing below this key"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Env {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn expanded(text: &str) -> Result<String, String> {
        let env = env(&[("HOME", "/h"), ("EMPTY", ""), ("_A1", "a")]);
        expand(text, &env).map(|new| new.unwrap_or_else(|| text.into())).map_err(|(message, _)| message)
    }

    #[test]
    fn variables_are_filled_in_as_a_shell_would() {
        for (text, wanted) in [
            ("plain $x {y}", "plain $x {y}"),
            ("${HOME}/x${_A1}", "/h/xa"),
            ("${NONE:-d e}f", "d ef"),
            ("${HOME:-d}", "/h"),
            ("${EMPTY:-d}|${EMPTY}|${NONE:-}", "d||"),
            ("$${HOME} $$${HOME}", "${HOME} $${HOME}"),
        ] {
            assert_eq!(expanded(text).as_deref(), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn a_missing_variable_is_an_error_and_never_an_empty_secret() {
        assert_eq!(expanded("${NONE}"), Err("the environment variable `NONE` is not set".into()));
        assert_eq!(expanded("a${HOME"), Err("`${` without its `}`".into()));
        assert!(expanded("${}").is_err() && expanded("${A-B}").is_err());
    }

    #[test]
    fn a_value_is_not_expanded_twice() {
        let env = env(&[("A", "${B}"), ("B", "b")]);
        assert_eq!(expand("${A}", &env), Ok(Some("${B}".into())));
    }

    fn after(text: &str, name: &str, value: &str) -> Result<String, Located> {
        let (root, _) = DeTable::parse_recoverable(text);
        let mut root = root.into_inner();
        Override::from_env(&env(&[(name, value)]))[0].apply(&mut root, 0)?;
        let table: toml::Table =
            serde::Deserialize::deserialize(toml::de::Deserializer::from(Spanned::new(0..0, root))).unwrap();
        Ok(toml::to_string(&table).unwrap())
    }

    #[test]
    fn the_environment_sets_keys_at_any_depth() {
        let file = "[listen]\nhttps = 'a'\n[[site]]\nname = 'x'\n[site.upstream.App]\nservers = ['y']\n";
        for (name, value, wanted) in [
            ("TOLLGATE__LISTEN__HTTPS", "0.0.0.0:443", "https = \"0.0.0.0:443\""),
            ("TOLLGATE__LISTEN__HTTPS", "['b', 'c']", "https = [\"b\", \"c\"]"),
            ("TOLLGATE__SITE__0__NAME", "123", "name = \"123\""),
            ("TOLLGATE__SITE__0__UPSTREAM__APP__SERVERS", "z", "[site.upstream.App]\nservers = \"z\""),
            ("TOLLGATE__SITE__1__NAME", "y", "[[site]]\nname = \"y\""),
            ("TOLLGATE__LOG__ACCESS", "false", "[log]\naccess = false"),
        ] {
            let text = after(file, name, value).unwrap();
            assert!(text.contains(wanted), "{name}: {text}");
        }
        assert!(after(file, "TOLLGATE__SITE__2__NAME", "x").is_err());
        assert!(after(file, "TOLLGATE__SITE__NAME", "x").is_err());
        assert!(after(file, "TOLLGATE__LISTEN__HTTPS__X", "x").is_err());
        assert!(after(file, "TOLLGATE__", "x").is_err());
        assert_eq!(Override::from_env(&env(&[("TOLLGATE_CONFIG", "x"), ("PATH", "y")])), []);
    }
}
