//! What is asked of a caller: roles, plans and permissions by name, and the guards that ask for them.
//!
//! Called by [`super::compile`](mod@super::compile); [`requirement`] also by `config`, whose routes ask for the same things.

use std::ops::Range;

use toml::Spanned;

use super::pattern::{Pattern, PermissionPattern, is_below};
use super::raw::RawGuard;
use super::source::{Report, suggest};
use super::wire::{collide, pattern};
use super::{Guard, Plan, Requirement, Role};
use crate::model::access::{Bits, Permission};

pub(super) fn guards(
    raw: &[RawGuard],
    roles: &[Role],
    plans: &[Plan],
    prefixes: &[String],
    report: &mut Report<'_>,
) -> Vec<Guard> {
    let mut guards: Vec<Guard> = Vec::new();
    for raw in raw {
        let Some(on) = pattern(&raw.on, report) else { continue };
        if prefixes.iter().any(|prefix| is_below(prefix, &on.path)) {
            let message = "nothing below a native prefix is forwarded, so this guard would never ask";
            report.tell(&raw.on.span(), message, "write roles, plans and permissions on the [[operation]]");
        }
        // One that holds and one that is tried may stand side by side.
        if guards.iter().any(|other| other.shadow == raw.shadow && collide(&other.on, &on)) {
            report.tell(
                &raw.on.span(),
                "a guard on these methods and this path stands above",
                "make one guard of the two",
            );
        }
        let asked = Asked { roles: raw.roles.as_ref(), plans: raw.plans.as_ref(), permissions: &raw.permissions };
        let requires = requirement(asked, &on, roles, plans, report);
        guards.push(Guard { on, requires, shadow: raw.shadow });
    }
    guards
}

/// A requirement as a file writes it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'r> {
    /// The roles that pass, and all above them.
    pub roles: Option<&'r Spanned<Vec<Spanned<String>>>>,
    /// The plans that pass.
    pub plans: Option<&'r Spanned<Vec<Spanned<String>>>>,
    /// The permissions asked; `{parameters}` of the path may stand in them.
    pub permissions: &'r [Spanned<String>],
}

impl Asked<'_> {
    /// The place of the first thing that is asked.
    pub(super) fn first(&self) -> Option<Range<usize>> {
        let names = self.roles.or(self.plans).map(Spanned::span);
        names.or_else(|| self.permissions.first().map(Spanned::span))
    }
}

/// Resolves the names in `asked`; a role brings all above it. What is unknown is told.
pub fn requirement(
    asked: Asked<'_>,
    on: &Pattern,
    roles: &[Role],
    plans: &[Plan],
    report: &mut Report<'_>,
) -> Requirement {
    let role_names: Vec<&str> = roles.iter().map(|role| role.name.as_str()).collect();
    let plan_names: Vec<&str> = plans.iter().map(|plan| plan.name.as_str()).collect();
    let with_those_above = |set: Bits, at: u8| (0..=at).fold(set, Bits::with);
    Requirement {
        roles: asked.roles.map(|raw| set(raw, "role", &role_names, with_those_above, report)),
        plans: asked.plans.map(|raw| set(raw, "plan", &plan_names, Bits::with, report)),
        permissions: asked.permissions.iter().filter_map(|raw| permission(raw, on, report)).collect(),
    }
}

/// The plans named in `raw`, and nothing else asked.
pub(super) fn of_plans(
    raw: Option<&Spanned<Vec<Spanned<String>>>>,
    plans: &[Plan],
    report: &mut Report<'_>,
) -> Requirement {
    let names: Vec<&str> = plans.iter().map(|plan| plan.name.as_str()).collect();
    Requirement { plans: raw.map(|raw| set(raw, "plan", &names, Bits::with, report)), ..Requirement::default() }
}

fn set(
    raw: &Spanned<Vec<Spanned<String>>>,
    what: &str,
    known: &[&str],
    add: impl Fn(Bits, u8) -> Bits,
    report: &mut Report<'_>,
) -> Bits {
    if raw.get_ref().is_empty() {
        report.tell(&raw.span(), format!("no {what} at all would pass"), format!("leave the list out for any {what}"));
    }
    let mut bits = Bits::default();
    for name in raw.get_ref() {
        if let Some(at) = super::position(known.iter().copied(), name.get_ref()) {
            bits = add(bits, at);
        } else {
            let message = format!("there is no {what} `{}`", name.get_ref());
            report.tell(&name.span(), message, suggest(name.get_ref(), known.iter().copied()));
        }
    }
    bits
}

fn permission(raw: &Spanned<String>, on: &Pattern, report: &mut Report<'_>) -> Option<PermissionPattern> {
    let parsed = PermissionPattern::parse(raw.get_ref(), on.parameters());
    // `{*rest}` may hold slashes, which no permission has: such a guard would refuse everyone.
    let wild = on.path.rsplit_once("{*").map(|(_, name)| format!("{{{name}"));
    let remedy = match on.parameters().filter(|name| !on.path.contains(&format!("{{*{name}}}"))).collect::<Vec<_>>() {
        names if names.is_empty() => "write a permission such as `read:posts`; the path has no `{name}`".to_owned(),
        names => format!("write a permission such as `read:{{{0}}}`; the path has: {1}", names[0], names.join(", ")),
    };
    if wild.is_some_and(|wild| raw.get_ref().contains(&wild)) {
        report.tell(&raw.span(), "`{*…}` may be several segments and names no permission", remedy);
        return None;
    }
    // Filled in, it must be a permission that a key or a role can hold: exact, not a family.
    let exact = |text: &str| Permission::parse(text).is_ok() && !text.ends_with('*');
    match parsed {
        Some(pattern) if exact(&pattern.fill(|_| Some("x"))) => Some(pattern),
        _ => {
            report.tell(&raw.span(), format!("`{}` is not a permission that can be asked", raw.get_ref()), remedy);
            None
        }
    }
}
