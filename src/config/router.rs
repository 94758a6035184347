//! Which rule speaks of a request: method and canonical path in, the rule's number and parameters out.
//!
//! A tree of whole segments. On each segment literal text beats a `{parameter}`, and that beats a
//! `{*rest}`; a rule without the request's method is passed over for the next best path that has it; on
//! one path a named method beats `*`. A radix tree (matchit) was tried on paper and left: it takes
//! `/{id}` and `/{*rest}` in one place for a conflict, and so `GET /v1/{resource}/{id}` beside
//! `* /v1/{*rest}`, which is how gateways are configured. Compiled once per snapshot; a lookup borrows
//! from the path and allocates only beyond four parameters.
//!
//! [`Router::find`] is exact in case and slashes: it *opens*. [`Router::find_any_spelling`] is for rules
//! that *close*: many backends serve `/v1/audits/1/RERUN` and `/v1/audits/1/rerun/` as they serve
//! `/v1/audits/1/rerun`, so a guard on the last one must see the first two as well.

use std::collections::HashMap;

use http::Method;
use smallvec::SmallVec;

use crate::contract::pattern::{MethodSet, Pattern, is_below};
use crate::rules::path;

/// Rules by method and path.
#[derive(Debug, Default)]
pub struct Router {
    nodes: Vec<Node>,
    /// Some rule holds an upper-case letter or ends in a slash: every path may be another spelling of it.
    odd: bool,
}

/// What a lookup found.
#[derive(Debug)]
pub enum Find<'r, 'p> {
    /// A rule.
    Hit {
        /// The number it was built with.
        index: usize,
        /// The path's parameters by the rule's names.
        params: Params<'r, 'p>,
    },
    /// Rules for the path, none for the method; the methods there are rules for.
    WrongMethod(MethodSet),
    /// No rule for the path.
    Miss,
}

/// Path parameters of a hit.
#[derive(Debug, Default)]
pub struct Params<'r, 'p> {
    names: &'r [Box<str>],
    values: Values<'p>,
}

type Values<'p> = SmallVec<[&'p str; 4]>;

/// Two rules that answer for the same method on the same path, by their places in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conflict {
    /// The rule that stands first.
    pub first: usize,
    /// The rule that can never be reached.
    pub second: usize,
}

#[derive(Debug, Default)]
struct Node {
    literals: Children<usize>,
    /// The same by text without its case.
    folded: Children<SmallVec<[usize; 1]>>,
    parameter: Option<usize>,
    here: Vec<Leaf>,
    rest: Vec<Leaf>,
}

/// What stands below a node, by segment. Comparing a few texts is several times cheaper than hashing one.
#[derive(Debug)]
struct Children<T> {
    few: Vec<(Box<str>, T)>,
    /// All of them, once they are more than [`Self::FEW`].
    many: HashMap<Box<str>, T>,
}

#[derive(Debug)]
struct Leaf {
    methods: MethodSet,
    layer: usize,
    index: usize,
    names: Box<[Box<str>]>,
}

struct Search<'m, 'p> {
    method: &'m Method,
    any_spelling: bool,
    values: Values<'p>,
    allowed: MethodSet,
}

impl Router {
    /// A router of `rules`, each with the number that a hit gives back.
    pub fn build(rules: &[(Pattern, usize)]) -> Result<Self, Vec<Conflict>> {
        Self::layered(&[rules])
    }

    /// A router of several lists: on one path a rule of an earlier list beats every rule of a later one.
    pub fn layered(lists: &[&[(Pattern, usize)]]) -> Result<Self, Vec<Conflict>> {
        let mut router = Self { nodes: vec![Node::default()], odd: false };
        let mut conflicts = Vec::new();
        for (layer, rules) in lists.iter().enumerate() {
            // Where each number stands in its own list, so that a conflict names places.
            let mut places = HashMap::new();
            for (place, (pattern, index)) in rules.iter().enumerate() {
                if let Some(other) = router.insert(pattern, *index, layer) {
                    conflicts.push(Conflict { first: places.get(&other).copied().unwrap_or(place), second: place });
                }
                places.entry(*index).or_insert(place);
            }
        }
        if conflicts.is_empty() { Ok(router) } else { Err(conflicts) }
    }

    /// The rule for exactly this method and path. `path` is canonical: it starts with `/`.
    pub fn find<'p>(&self, method: &Method, path: &'p str) -> Find<'_, 'p> {
        self.look(method, path, false)
    }

    /// The most specific rule that this path could be a spelling of, whatever its case and last slash.
    pub fn find_any_spelling<'p>(&self, method: &Method, path: &'p str) -> Find<'_, 'p> {
        self.look(method, path, self.has_spellings(path))
    }

    /// Whether [`Self::find_any_spelling`] can differ from [`Self::find`] on `path`.
    pub fn has_spellings(&self, path: &str) -> bool {
        // Without a way out in between, so that the compiler takes many bytes at once.
        let upper = |path: &str| path.bytes().fold(false, |upper, byte| upper | byte.is_ascii_uppercase());
        self.odd || path.ends_with('/') || upper(path)
    }

    /// Puts the rule in; gives the number of the one that already answers there.
    fn insert(&mut self, pattern: &Pattern, index: usize, layer: usize) -> Option<usize> {
        let path = pattern.path.strip_prefix('/').unwrap_or(&pattern.path);
        let mut at = 0;
        let mut rest = false;
        for segment in path.split('/') {
            if segment.starts_with("{*") {
                rest = true;
            } else if segment.starts_with('{') {
                at = self.parameter(at);
            } else {
                self.odd |= (segment.is_empty() && at > 0) || segment.bytes().any(|byte| byte.is_ascii_uppercase());
                at = self.literal(at, segment);
            }
        }
        let node = &mut self.nodes[at];
        let leaves = if rest { &mut node.rest } else { &mut node.here };
        let methods = pattern.methods;
        let clash = leaves.iter().find(|leaf| {
            leaf.layer == layer && leaf.methods.is_all() == methods.is_all() && leaf.methods.meets(methods)
        });
        if let Some(leaf) = clash {
            return Some(leaf.index);
        }
        let names = pattern.parameters().map(Box::from).collect();
        leaves.push(Leaf { methods, layer, index, names });
        leaves.sort_by_key(|leaf| (leaf.layer, leaf.methods.is_all()));
        None
    }

    fn parameter(&mut self, at: usize) -> usize {
        let fresh = self.nodes.len();
        let next = *self.nodes[at].parameter.get_or_insert(fresh);
        self.grow(next)
    }

    fn literal(&mut self, at: usize, segment: &str) -> usize {
        let fresh = self.nodes.len();
        let node = &mut self.nodes[at];
        if let Some(next) = node.literals.get(segment) {
            return *next;
        }
        node.literals.insert(segment, fresh);
        let folded = path::folded(segment);
        let mut spellings = node.folded.get(&folded).cloned().unwrap_or_default();
        spellings.push(fresh);
        node.folded.insert(&folded, spellings);
        self.grow(fresh)
    }

    fn grow(&mut self, next: usize) -> usize {
        if next == self.nodes.len() {
            self.nodes.push(Node::default());
        }
        next
    }

    fn look<'p>(&self, method: &Method, path: &'p str, any_spelling: bool) -> Find<'_, 'p> {
        // `OPTIONS *` is the one canonical target without a slash (RFC 9112 section 3.2.4): no rule speaks of it.
        let Some(path) = path.strip_prefix('/') else { return Find::Miss };
        if self.nodes.is_empty() {
            return Find::Miss;
        }
        let mut search = Search { method, any_spelling, values: Values::new(), allowed: MethodSet::NONE };
        match self.walk(0, Some(path), &mut search) {
            Some(leaf) => Find::Hit { index: leaf.index, params: Params { names: &leaf.names, values: search.values } },
            None if search.allowed != MethodSet::NONE => Find::WrongMethod(search.allowed),
            None => Find::Miss,
        }
    }

    /// The best leaf below `at` for what is left of the path; `None` left: the path ended with the
    /// segment that led here. Goes no deeper than the tree is, and backs out of a branch without a leaf
    /// for the method.
    fn walk<'p>(&self, at: usize, left: Option<&'p str>, search: &mut Search<'_, 'p>) -> Option<&Leaf> {
        let node = &self.nodes[at];
        let Some(left) = left else {
            return search
                .pick(&node.here)
                .or_else(|| search.pick(&self.slash_of(node, search.any_spelling)?.here))
                .or_else(|| search.pick_rest(node, ""));
        };
        // Segments are short: looking at one byte after another beats the search that `split_once` sets up.
        let (segment, after) = match left.bytes().position(|byte| byte == b'/') {
            Some(slash) => (&left[..slash], Some(&left[slash + 1..])),
            None => (left, None),
        };
        let exact = node.literals.get(segment);
        if let Some(next) = exact
            && let Some(leaf) = self.walk(*next, after, search)
        {
            return Some(leaf);
        }
        if search.any_spelling {
            // Never a node twice: the work of a lookup is bounded by the tree, not by powers of its depth.
            for next in node.folded.get(&path::folded(segment)).into_iter().flatten().filter(|next| exact != Some(next))
            {
                if let Some(leaf) = self.walk(*next, after, search) {
                    return Some(leaf);
                }
            }
            if segment.is_empty()
                && let Some(leaf) = search.pick(&node.here)
            {
                return Some(leaf);
            }
        }
        if let Some(next) = node.parameter
            && !segment.is_empty()
        {
            search.values.push(segment);
            if let Some(leaf) = self.walk(next, after, search) {
                return Some(leaf);
            }
            search.values.pop();
        }
        search.pick_rest(node, left)
    }

    /// The node of the same path with a slash behind it, where that is the same thing.
    fn slash_of(&self, node: &Node, any_spelling: bool) -> Option<&Node> {
        any_spelling.then(|| node.literals.get("")).flatten().map(|at| &self.nodes[*at])
    }
}

impl<T> Children<T> {
    const FEW: usize = 8;

    fn get(&self, segment: &str) -> Option<&T> {
        if self.many.is_empty() {
            self.few.iter().find_map(|(text, child)| (**text == *segment).then_some(child))
        } else {
            self.many.get(segment)
        }
    }

    fn insert(&mut self, segment: &str, child: T) {
        if !self.many.is_empty() {
            self.many.insert(segment.into(), child);
            return;
        }
        self.few.retain(|(text, _)| **text != *segment);
        self.few.push((segment.into(), child));
        if self.few.len() > Self::FEW {
            self.many = std::mem::take(&mut self.few).into_iter().collect();
        }
    }
}

impl<T> Default for Children<T> {
    fn default() -> Self {
        Self { few: Vec::new(), many: HashMap::new() }
    }
}

impl<'p> Search<'_, 'p> {
    fn pick<'r>(&mut self, leaves: &'r [Leaf]) -> Option<&'r Leaf> {
        let leaf = leaves.iter().find(|leaf| leaf.methods.has(self.method));
        if leaf.is_none() {
            self.allowed = leaves.iter().fold(self.allowed, |allowed, leaf| allowed.or(leaf.methods));
        }
        leaf
    }

    fn pick_rest<'r>(&mut self, node: &'r Node, rest: &'p str) -> Option<&'r Leaf> {
        let leaf = self.pick(&node.rest)?;
        self.values.push(rest);
        Some(leaf)
    }
}

impl<'r, 'p> Params<'r, 'p> {
    /// The value of the parameter `name`.
    pub fn find(&self, name: &str) -> Option<&'p str> {
        self.iter().find_map(|(own, value)| (own == name).then_some(value))
    }

    /// Names and values, in the order of the path.
    pub fn iter(&self) -> impl Iterator<Item = (&'r str, &'p str)> + Clone {
        self.names.iter().map(|name| &**name).zip(self.values.iter().copied())
    }
}

/// Whether `path` is one of `prefixes` or below one, whatever its case: nothing there is ever forwarded.
pub fn is_under<'a>(prefixes: impl IntoIterator<Item = &'a str>, path: &str) -> bool {
    prefixes.into_iter().any(|prefix| is_below(prefix.trim_end_matches('/'), path))
}

#[cfg(test)]
#[path = "router_tests.rs"]
mod tests;
