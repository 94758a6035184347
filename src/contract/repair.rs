//! Asking serde again until it has nothing left to complain of.
//!
//! serde stops at the first error. To collect them all, every node of the tree is given its own number
//! as its span, so that an error's span names exactly one node; that node is noted, taken out or given a
//! stand-in, and the tree is read again. Called by [`super::source::read`] alone, and only when something is wrong.

use std::collections::HashSet;
use std::ops::Range;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::source::{Located, MOST_ERRORS, Source, join, suggest};

/// Each error costs at most a handful of readings.
const MOST_READINGS: usize = 500;

/// What is known of a node: its number is its place in [`Tree::nodes`].
struct Node {
    path: String,
    parent: usize,
    key: Range<usize>,
    value: Range<usize>,
    /// How often a stand-in was tried; `None`: it stands in the file.
    stand_in: Option<usize>,
}

struct Tree<'i> {
    root: DeTable<'i>,
    nodes: Vec<Node>,
    /// Missing by our hand: not to be reported.
    removed: HashSet<String>,
    /// Something required is not there: the value as a whole cannot be used.
    lacking: bool,
}

/// Notes every shape error of `root` in `errors`; the value, if nothing required was missing or wrong.
pub(super) fn read<T: DeserializeOwned>(source: &Source, root: DeTable<'_>, errors: &mut Vec<Located>) -> Option<T> {
    let mut tree = Tree::new(root);
    for _ in 0..MOST_READINGS {
        let numbered = Spanned::new(0..0, tree.root.clone());
        let error = match T::deserialize(toml::de::Deserializer::from(numbered)) {
            Ok(_) if tree.lacking => return None,
            Ok(_) => {
                let real = Spanned::new(0..0, tree.unnumbered());
                return T::deserialize(toml::de::Deserializer::from(real)).ok();
            }
            Err(error) => error,
        };
        let span = error.span().unwrap_or(0..0);
        if errors.len() >= MOST_ERRORS || span.start >= tree.nodes.len() {
            return None;
        }
        let (message, remedy) = error.message().split_once('\n').unwrap_or((error.message(), ""));
        if !tree.repair(source, span.start, span.end > span.start, message, remedy, errors) {
            return None;
        }
    }
    None
}

impl<'i> Tree<'i> {
    fn new(root: DeTable<'i>) -> Self {
        let mut nodes = vec![Node { path: String::new(), parent: 0, key: 0..0, value: 0..0, stand_in: None }];
        let root = number_table(root, 0, &mut nodes);
        Self { root, nodes, removed: HashSet::new(), lacking: false }
    }

    /// Deals with one error; `false` when there is no going on.
    fn repair(
        &mut self,
        source: &Source,
        id: usize,
        at_key: bool,
        message: &str,
        remedy: &str,
        errors: &mut Vec<Located>,
    ) -> bool {
        let node = &self.nodes[id];
        let mut tell = |span: &Range<usize>, key: &str, (message, remedy): (String, String)| {
            errors.push(source.error_at(span, key, message, remedy));
        };
        if at_key {
            let (message, remedy) = explain(message, remedy);
            // A misspelt key is not missing as well.
            let meant = named(&remedy, "did you mean `").map(|name| join(&self.nodes[node.parent].path, name));
            self.removed.extend(meant);
            tell(&node.key, &node.path, (message, remedy));
            return self.remove(id);
        }
        if let Some(missing) = named(message, "missing field `") {
            let path = join(&node.path, missing);
            if node.stand_in.is_none() && !self.removed.contains(&path) {
                tell(&node.value, &path, ("missing".into(), format!("add `{missing} = …` here")));
            }
            return self.add(id, missing, path);
        }
        let Some(tried) = node.stand_in else {
            let (message, remedy) = match brackets(source, node, message) {
                Some(better) => (explain(message, remedy).0, better),
                None => explain(message, remedy),
            };
            tell(&node.value, &node.path, (message, remedy));
            return if id == 0 { false } else { self.remove(id) };
        };
        // What a closed set of names asks for is told by the error itself.
        let wanted = if tried == 0 { backticked(message).nth(1) } else { None };
        let value = match (tried, wanted) {
            (0, Some(name)) => DeValue::String(name.to_owned().into()),
            (0, None) => DeValue::Boolean(true),
            (1, _) => DeValue::Array(DeArray::new()),
            (2, _) => DeValue::Table(DeTable::new()),
            (3, _) => number(),
            _ => return self.remove_element(id),
        };
        self.nodes[id].stand_in = Some(tried + 1);
        with_value(&mut self.root, id, &mut |slot| *slot.get_mut() = value.clone())
    }

    /// Puts a stand-in under `key` into the table `id`.
    fn add(&mut self, id: usize, key: &str, path: String) -> bool {
        self.lacking = true;
        let new = self.nodes.len();
        let Node { key: at_key, value: at_value, .. } = &self.nodes[id];
        let node = Node { path, parent: id, key: at_key.clone(), value: at_value.clone(), stand_in: Some(0) };
        self.nodes.push(node);
        let insert = |table: &mut DeTable<'i>| {
            let value = Spanned::new(new..new, DeValue::String(String::new().into()));
            table.insert(Spanned::new(new..new + 1, key.to_owned().into()), value).is_none()
        };
        if id == 0 {
            return insert(&mut self.root);
        }
        let mut done = false;
        with_value(&mut self.root, id, &mut |slot| {
            if let DeValue::Table(table) = slot.get_mut() {
                done = insert(table);
            }
        });
        done
    }

    /// Takes a node out. A key that is then missed was already complained of.
    fn remove(&mut self, id: usize) -> bool {
        self.removed.insert(self.nodes[id].path.clone());
        remove(&mut self.root, id)
    }

    /// Nothing can stand in for `id`: takes out the nearest list element around it, so that the rest is still read.
    fn remove_element(&mut self, id: usize) -> bool {
        let path = self.nodes[id].path.clone();
        let around =
            self.nodes.iter().enumerate().rev().find(|(_, node)| {
                node.path.ends_with(']') && path.starts_with(&node.path) && path.len() > node.path.len()
            });
        around.map(|(id, _)| id).is_some_and(|id| self.remove(id))
    }

    /// The tree with the spans that the file gave.
    fn unnumbered(&self) -> DeTable<'i> {
        let mut root = self.root.clone();
        respan_table(&mut root, &self.nodes);
        root
    }
}

fn number<'i>() -> DeValue<'i> {
    DeValue::parse("1").map_or(DeValue::Boolean(true), Spanned::into_inner)
}

fn number_table<'i>(table: DeTable<'i>, parent: usize, nodes: &mut Vec<Node>) -> DeTable<'i> {
    let above = nodes[parent].path.clone();
    table
        .into_iter()
        .map(|(key, value)| {
            let id = nodes.len();
            let path = join(&above, key.get_ref());
            nodes.push(Node { path, parent, key: key.span(), value: value.span(), stand_in: None });
            (Spanned::new(id..id + 1, key.into_inner()), number_value(value.into_inner(), id, nodes))
        })
        .collect()
}

fn number_value<'i>(value: DeValue<'i>, id: usize, nodes: &mut Vec<Node>) -> Spanned<DeValue<'i>> {
    let value = match value {
        DeValue::Table(table) => DeValue::Table(number_table(table, id, nodes)),
        DeValue::Array(items) => {
            let above = nodes[id].path.clone();
            let numbered = items.into_iter().enumerate().map(|(at, item)| {
                let parent = id;
                let id = nodes.len();
                let (path, span) = (format!("{above}[{at}]"), item.span());
                nodes.push(Node { path, parent, key: span.clone(), value: span, stand_in: None });
                number_value(item.into_inner(), id, nodes)
            });
            DeValue::Array(numbered.collect())
        }
        other => other,
    };
    Spanned::new(id..id, value)
}

fn respan_table(table: &mut DeTable<'_>, nodes: &[Node]) {
    let old = std::mem::take(table);
    *table = old
        .into_iter()
        .map(|(key, mut value)| {
            let span = nodes[value.span().start].key.clone();
            respan_value(&mut value, nodes);
            (Spanned::new(span, key.into_inner()), value)
        })
        .collect();
}

fn respan_value(value: &mut Spanned<DeValue<'_>>, nodes: &[Node]) {
    match value.get_mut() {
        DeValue::Table(table) => respan_table(table, nodes),
        DeValue::Array(items) => items.iter_mut().for_each(|item| respan_value(item, nodes)),
        _ => {}
    }
    let span = nodes[value.span().start].value.clone();
    let inner = std::mem::replace(value.get_mut(), DeValue::Boolean(false));
    *value = Spanned::new(span, inner);
}

/// Does something to the value numbered `id`; `false` when it is not there (any more).
fn with_value<'i>(table: &mut DeTable<'i>, id: usize, act: &mut dyn FnMut(&mut Spanned<DeValue<'i>>)) -> bool {
    fn within<'i>(value: &mut Spanned<DeValue<'i>>, id: usize, act: &mut dyn FnMut(&mut Spanned<DeValue<'i>>)) -> bool {
        if value.span().start == id {
            act(value);
            return true;
        }
        match value.get_mut() {
            DeValue::Table(table) => with_value(table, id, act),
            DeValue::Array(items) => items.iter_mut().any(|item| within(item, id, act)),
            _ => false,
        }
    }
    table.iter_mut().any(|(_, value)| within(value, id, act))
}

fn remove(table: &mut DeTable<'_>, id: usize) -> bool {
    let before = table.len();
    *table = std::mem::take(table).into_iter().filter(|(_, value)| value.span().start != id).collect();
    table.len() < before || table.iter_mut().any(|(_, value)| remove_within(value, id))
}

fn remove_within(value: &mut Spanned<DeValue<'_>>, id: usize) -> bool {
    match value.get_mut() {
        DeValue::Table(table) => remove(table, id),
        DeValue::Array(items) => {
            let before = items.len();
            let old = std::mem::replace(items, DeArray::new());
            *items = old.into_iter().filter(|item| item.span().start != id).collect();
            items.len() < before || items.iter_mut().any(|item| remove_within(item, id))
        }
        _ => false,
    }
}

/// serde's message in our words, and a remedy. A value of the wrong type is never shown: a secret put in
/// the wrong place would end up in a log.
fn explain(message: &str, remedy: &str) -> (String, String) {
    if let Some(name) = named(message, "unknown field `") {
        return (format!("unknown key `{name}`"), suggest(name, backticked(message).skip(1)));
    }
    if let Some(name) = named(message, "unknown variant `") {
        return (format!("unknown value `{name}`"), suggest(name, backticked(message).skip(1)));
    }
    let Some(rest) = message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: ")) else {
        let remedy = if remedy.is_empty() { "write it as the message says" } else { remedy };
        return (message.to_owned(), remedy.to_owned());
    };
    let (found, expected) = rest.rsplit_once(", expected ").unwrap_or((rest, "another type"));
    let found = [
        ("string", "a string"),
        ("integer", "an integer"),
        ("floating", "a number with a fraction"),
        ("boolean", "a boolean"),
        ("sequence", "a list"),
        ("map", "a table"),
    ]
    .into_iter()
    .find_map(|(prefix, name)| found.starts_with(prefix).then_some(name))
    .unwrap_or("something else");
    let remedy = match expected {
        _ if expected.starts_with("a string") => "write a string in quotes",
        "a boolean" => "write true or false without quotes",
        "a sequence" => "write a list in [brackets]",
        "a table" => "write a table: { key = value }",
        _ if expected.starts_with("struct") || expected.contains("map") => "write a table: { key = value }",
        _ if expected.starts_with(['u', 'i']) => "write a whole number without quotes",
        _ if expected.starts_with('f') => "write a number without quotes",
        _ => "write what is expected",
    };
    let expected = if expected.starts_with("struct") { "a table" } else { expected };
    (format!("expected {expected}, found {found}"), remedy.to_owned())
}

/// The remedy for a table that stands under `[[name]]` in place of `[name]`, or the other way round.
fn brackets(source: &Source, node: &Node, message: &str) -> Option<String> {
    let expected = message.strip_prefix("invalid type: map, expected ")?;
    let header = source.text.get(node.value.clone())?;
    // As a header writes it: a list's tables have no numbers there.
    let path: Vec<&str> = node.path.split('.').map(|part| part.split('[').next().unwrap_or(part)).collect();
    let path = path.join(".");
    if header.starts_with("[[") {
        Some(format!("write [{path}]: one table, in one pair of brackets"))
    } else if header.starts_with('[') && expected == "a sequence" {
        Some(format!("write [[{path}]]: a list of tables has two pairs of brackets"))
    } else {
        None
    }
}

/// The name in backticks right after `start`.
fn named<'m>(message: &'m str, start: &str) -> Option<&'m str> {
    message.strip_prefix(start)?.split('`').next()
}

/// Every name in backticks.
fn backticked(message: &str) -> impl Iterator<Item = &str> {
    message.split('`').skip(1).step_by(2)
}
