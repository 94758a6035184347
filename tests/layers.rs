//! Imports point down: this reads every path of every file under `src/` and keeps the layers in their order.
//!
//! A path counts wherever it stands: in a `use`, in nested groups, in the middle of an expression, inside
//! macros and `mod tests`; spelt `crate::…`, or `super::…` that climbs to the crate's root. Doc comments
//! do not count: a module may tell who calls it. `lib.rs` and `main.rs` are above the layers.
//!
//! To add a top-level module: give it its place in [`LAYERS`].

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// The top-level modules, highest layer first. A layer may use those after it.
const LAYERS: &[&[&str]] = &[
    &["cli"],
    &["app"],
    &["edge"],
    &["native"],
    &["gateway"],
    &["config"],
    &["credential", "limit", "revocation", "store", "upstream", "mail", "observe", "tls"],
    &["contract"],
    &["rules"],
    &["model"],
];

/// What a module may use beside it, in its own layer; and every one may use `observe`.
const SIDEWAYS: &[(&str, &str)] = &[("credential", "store"), ("credential", "revocation")];

/// Layers that hold facts and decisions only, and what they therefore never name.
const PURE: &[&str] = &["rules", "model"];
const IO_CRATES: &[&str] = &["tokio", "tokio_util", "tokio_rustls", "hyper", "hyper_util", "rustls", "sqlx", "redis"];

/// Above the layers: files directly under `src/` that may use everything.
const EXEMPT: &[&str] = &["lib.rs", "main.rs"];

#[test]
fn imports_point_down() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    let mut files = rust_files(&source);
    files.sort();
    assert!(files.len() > 10, "only {} files under {}: the walk is broken", files.len(), source.display());
    for path in files {
        let name = path.strip_prefix(&source).expect("found under it");
        let text = fs::read_to_string(&path).expect("a readable source file");
        wrong.extend(violations(name, &text));
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
}

#[test]
fn everything_directly_under_src_has_its_layer() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in fs::read_dir(source).expect("src is a folder") {
        let path = entry.expect("a readable entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name in UTF-8");
        let module = name.strip_suffix(".rs").unwrap_or(name);
        assert!(
            EXEMPT.contains(&name) || layer(module).is_some(),
            "src/{name} has no layer: put `{module}` where it belongs in LAYERS (tests/layers.rs)"
        );
    }
}

/// A path that points the wrong way.
struct Violation {
    file: PathBuf,
    line: usize,
    from: String,
    to: String,
    why: &'static str,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, from, to, why } = self;
        write!(f, "src/{}:{line}: `{from}` uses `{to}`: {why}", file.display())
    }
}

/// What is wrong in one file, named from `src/`.
fn violations(file: &Path, text: &str) -> Vec<Violation> {
    let parts: Vec<&str> = file.iter().filter_map(|part| part.to_str()).collect();
    if parts.len() == 1 && EXEMPT.contains(&parts[0]) {
        return Vec::new();
    }
    let from = parts[0].trim_end_matches(".rs").to_owned();
    // src/a.rs and src/a/mod.rs are one module below the root, src/a/b.rs is two.
    let depth = parts.len() - usize::from(parts.len() > 1 && parts.last() == Some(&"mod.rs"));
    let mentions = Mentions::of(text, depth);
    let wrong_way = mentions.modules.into_iter().filter_map(|(to, line)| Some((wrong_way(&from, &to)?, to, line)));
    let impure = mentions.crates.into_iter().filter(|_| PURE.contains(&from.as_str()));
    let impure = impure.map(|(to, line)| ("facts and decisions know no I/O", to, line));
    wrong_way
        .chain(impure)
        .map(|(why, to, line)| Violation { file: file.to_owned(), line, from: from.clone(), to, why })
        .collect()
}

/// Why the module `from` may not use `to`; `None` when it may.
fn wrong_way(from: &str, to: &str) -> Option<&'static str> {
    let (Some(own), Some(other)) = (layer(from), layer(to)) else {
        return Some("not in LAYERS (tests/layers.rs); name the module that an item lives in, not a re-export of it");
    };
    if own > other {
        Some("imports point down, and that is a higher layer")
    } else if own == other && from != to && to != "observe" && !SIDEWAYS.contains(&(from, to)) {
        Some("both are in one layer, which may not use each other")
    } else {
        None
    }
}

/// The place of a top-level module: 0 is the highest.
fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// The top-level modules and I/O crates that a file names, each with its line.
#[derive(Default)]
struct Mentions {
    modules: Vec<(String, usize)>,
    crates: Vec<(String, usize)>,
}

impl Mentions {
    /// Reads the words of a file that is `depth` modules below the crate's root.
    fn of(text: &str, depth: usize) -> Self {
        let tokens = lex(text);
        let word = |at: usize| tokens.get(at).map_or("", |token: &Token| token.text);
        let separator = |at: usize| word(at) == ":" && word(at + 1) == ":";
        let mut found = Self::default();
        // For each brace that is open: how deep the paths inside it start.
        let mut depths = vec![depth];
        let mut inside_next_brace = None;
        let mut at = 0;
        while at < tokens.len() {
            let here = *depths.last().unwrap_or(&depth);
            match word(at) {
                "{" => depths.push(inside_next_brace.take().unwrap_or(here)),
                "}" => drop(depths.pop()),
                "mod" if word(at + 2) == "{" => inside_next_brace = Some(here + 1),
                "crate" if word(at + 1) == "as" => found.below_root(&tokens[at + 1..]),
                "crate" if separator(at + 1) => found.below_root(&tokens[at + 3..]),
                "super" if separator(at + 1) => {
                    let mut climbed = 1;
                    while word(at + 3) == "super" && separator(at + 4) {
                        climbed += 1;
                        at += 3;
                    }
                    at += 2;
                    let start = here.saturating_sub(climbed);
                    if start == 0 {
                        found.below_root(&tokens[at + 1..]);
                    } else if word(at + 1) == "{" {
                        inside_next_brace = Some(start);
                    }
                }
                name if IO_CRATES.contains(&name) && separator(at + 1) && !(at > 1 && separator(at - 2)) => {
                    found.crates.push((name.to_owned(), tokens[at].line));
                }
                _ => {}
            }
            at += 1;
        }
        found
    }

    /// Reads what follows `crate::`: a module, a group of them, or the root itself under another name.
    fn below_root(&mut self, tokens: &[Token]) {
        let Some(first) = tokens.first() else { return };
        if first.text != "{" {
            self.modules.push((first.text.to_owned(), first.line));
            return;
        }
        let mut open = 0;
        for (at, token) in tokens.iter().enumerate() {
            match token.text {
                "}" if open == 1 => return,
                "}" => open -= 1,
                "{" => open += 1,
                _ => {}
            }
            let starts = open == 1 && matches!(token.text, "{" | ",");
            if starts && tokens.get(at + 1).is_some_and(|next| next.text != "}") {
                self.below_root(&tokens[at + 1..]);
            }
        }
    }
}

/// A word, or one mark of punctuation.
struct Token<'a> {
    text: &'a str,
    line: usize,
}

/// The words and marks of Rust source, without comments, strings, characters and lifetimes.
fn lex(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut line = 1;
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let (length, is_token) = if let Some(length) = comment(rest).or_else(|| literal(rest)) {
            (length, false)
        } else if word > 0 {
            (word, true)
        } else {
            (first.len_utf8(), !first.is_whitespace())
        };
        let (token, after) = rest.split_at(length);
        if is_token {
            tokens.push(Token { text: token, line });
        }
        line += token.matches('\n').count();
        rest = after;
    }
    tokens
}

/// The length of the comment that `text` starts with. Block comments nest.
fn comment(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    let mut open = 0;
    let mut at = 0;
    while text.starts_with("/*") && at < text.len() {
        let here = &text.as_bytes()[at..];
        match () {
            () if here.starts_with(b"/*") => (open, at) = (open + 1, at + 2),
            () if here.starts_with(b"*/") => (open, at) = (open - 1, at + 2),
            () => at += 1,
        }
        if open == 0 {
            return Some(at);
        }
    }
    None
}

/// The length of the string, character or lifetime that `text` starts with, its prefix included.
fn literal(text: &str) -> Option<usize> {
    let prefix = ["br", "cr", "b", "c", "r"].into_iter().find(|prefix| {
        let after = text.strip_prefix(prefix).unwrap_or_default();
        let hashes = if prefix.ends_with('r') { after.trim_start_matches('#') } else { after };
        hashes.starts_with('"') || (*prefix == "b" && after.starts_with('\''))
    });
    let prefix = prefix.unwrap_or_default();
    let body = &text[prefix.len()..];
    if prefix.ends_with('r') {
        let hashes = body.find('"')?;
        let end = format!("\"{}", &body[..hashes]);
        let inside = &body[hashes + 1..];
        return Some(prefix.len() + hashes + 1 + inside.find(&end)? + end.len());
    }
    let quote = body.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let inside = &body[1..];
    // 'a is a lifetime unless a quote follows its first character.
    let second = inside.chars().nth(1);
    if quote == '\'' && !inside.starts_with('\\') && second != Some('\'') {
        return Some(1 + inside.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(inside.len()));
    }
    let mut escaped = false;
    for (at, c) in inside.char_indices() {
        if c == quote && !escaped {
            return Some(prefix.len() + 1 + at + 1);
        }
        escaped = c == '\\' && !escaped;
    }
    None
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// What the checker says of a snippet: `line: target` each.
fn said(file: &str, text: &str) -> Vec<String> {
    violations(Path::new(file), text).iter().map(|found| format!("{}: {}", found.line, found.to)).collect()
}

#[test]
fn a_path_that_points_up_is_found_wherever_it_stands() {
    for (case, file, text, wrong) in [
        ("a plain use", "limit/memory.rs", "use crate::config::Site;", &["1: config"][..]),
        (
            "a nested group",
            "limit/mod.rs",
            "use crate::{\n    model::{id::UserId, window},\n    edge::{a, b::c},\n};",
            &["3: edge"],
        ),
        ("an expression", "model/id.rs", "fn f() -> u8 {\n    crate::rules::x(1)\n}", &["2: rules"]),
        ("the tests", "rules/path.rs", "#[cfg(test)]\nmod tests {\n    use crate::store::Store;\n}", &["3: store"]),
        ("a macro", "contract/slot.rs", "macro_rules! m { () => { $crate::config::X } }", &["1: config"]),
        ("super from mod.rs", "store/mod.rs", "use super::native::login;", &["1: native"]),
        ("super from a file", "store/sql.rs", "use super::super::{model::id, app};", &["1: app"]),
        ("super from the tests", "store/sql.rs", "mod tests {\n use super::super::super::edge;\n}", &["2: edge"]),
        ("super in a group", "store/sql.rs", "use super::{Store, super::gateway::Gateway};", &["1: gateway"]),
        ("a file of its own", "gateway.rs", "use crate::edge::accept;", &["1: edge"]),
        ("a neighbour", "limit/mod.rs", "use crate::store::Store;", &["1: store"]),
        ("the neighbour's way back", "store/mod.rs", "use crate::credential::jwt;", &["1: credential"]),
        ("what observe must not do", "observe/admin.rs", "use crate::store::Store;", &["1: store"]),
        ("a re-export at the root", "edge/route.rs", "use crate::Error;", &["1: Error"]),
        ("everything", "edge/route.rs", "use crate::*;", &["1: *"]),
        ("the root renamed", "model/id.rs", "use crate as root;", &["1: as"]),
        ("I/O in facts", "model/time.rs", "use std::time;\nuse tokio::time::sleep;", &["2: tokio"]),
        ("two in a line", "model/id.rs", "use crate::app; use crate::cli;", &["1: app", "1: cli"]),
    ] {
        assert_eq!(said(file, text), wrong, "{case}");
    }
}

#[test]
fn a_path_that_points_down_passes_and_so_does_what_is_no_path() {
    for (case, file, text) in [
        ("down one layer", "edge/route.rs", "use crate::native::login; use crate::{config, model::id};"),
        ("down to the ground", "limit/mod.rs", "use crate::model::secret::Secret;"),
        ("the allowed neighbours", "credential/mod.rs", "use crate::{store::Store, revocation::Epochs};"),
        ("observe", "upstream/pool.rs", "use crate::observe::metrics::Metrics;"),
        ("its own layer", "contract/mod.rs", "use crate::contract::slot; use self::slot::Slot; use super::model;"),
        ("super within", "contract/slot.rs", "use super::compile; mod tests { use super::super::compile; }"),
        ("visibility", "model/id.rs", "pub(crate) fn a() {}\npub(super) fn b() {}\npub(in crate::model) fn c() {}"),
        (
            "comments and strings",
            "model/id.rs",
            "//! See [`crate::edge`].\n// use crate::edge;\nconst A: &str = \"crate::edge\";",
        ),
        ("the exempt", "lib.rs", "pub use crate::edge::X; pub mod model;"),
        ("I/O above decisions", "store/mod.rs", "use tokio::time;"),
        ("a module that is called like a crate", "rules/a.rs", "fn f() { other::redis::x() }"),
    ] {
        assert_eq!(said(file, text), Vec::<String>::new(), "{case}");
    }
}

#[test]
fn only_code_is_read() {
    let text = r##"
        /* crate::a /* nested crate::b */ crate::c */ // crate::d
        fn f<'crate_x>(s: &'static str) -> char { '"' }
        let s = ["crate::e \" crate::f", r"crate::g\", r#"crate::h " crate::i"#, b"crate::j", br"k\"];
        let c = ['\'', '\\', b'"', 'é', '}'];
        crate::edge::found();
    "##;
    assert_eq!(said("model/id.rs", text), ["6: edge"]);
    assert_eq!(lex("r#mod 'a 'b' x").iter().map(|token| token.text).collect::<Vec<_>>(), ["r", "#", "mod", "x"]);
}

#[test]
fn the_message_names_the_place_and_both_modules() {
    let found = violations(Path::new("limit/mod.rs"), "\n\nuse crate::config::Site;");
    assert_eq!(
        found[0].to_string(),
        "src/limit/mod.rs:3: `limit` uses `config`: imports point down, and that is a higher layer"
    );
}
