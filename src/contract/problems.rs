//! How each refusal is told: `[problem]`, every kind with a default.

use std::collections::BTreeMap;
use std::ops::Range;

use super::ProblemShape;
use super::encode;
use super::raw::{RawProblem, RawProblems};
use super::slot::Slot;
use super::source::Report;
use super::template::{Given, Template};
use crate::model::problem::ProblemKind;

/// What every body may hold. `$details` is `{}` where a kind has none.
const BODY: &[Slot] = &[Slot::Code, Slot::Message, Slot::Details];

/// A shape for every kind there is.
pub(super) fn compile(raw: &RawProblems, report: &mut Report<'_>) -> BTreeMap<ProblemKind, ProblemShape> {
    let given = Given { by: "the body that all problems share", slots: BODY };
    let shared = raw.body.as_ref().map_or_else(default_body, |raw| Template::compile(raw, given, report));
    ProblemKind::ALL
        .iter()
        .map(|kind| {
            let row = raw.rows.iter().find_map(|(key, row)| (key.get_ref() == kind).then_some(row));
            (*kind, shape(*kind, row, &shared, report))
        })
        .collect()
}

/// `{"error": {"code": …, "message": …}}`
fn default_body() -> Template {
    let fields = vec![("code".into(), Template::Slot(Slot::Code)), ("message".into(), Template::Slot(Slot::Message))];
    Template::Object(vec![("error".into(), Template::Object(fields))])
}

/// What a kind can say beyond its code and message.
const fn says(kind: ProblemKind) -> &'static [Slot] {
    match kind {
        ProblemKind::PlanRequired => &[Slot::Plans],
        ProblemKind::InvalidRequest | ProblemKind::MalformedRequest => &[Slot::Reasons],
        _ => &[],
    }
}

fn shape(kind: ProblemKind, row: Option<&RawProblem>, shared: &Template, report: &mut Report<'_>) -> ProblemShape {
    let by = format!("`{}`", kind.name());
    let said = Given { by: &by, slots: says(kind) };
    let status = row.and_then(|row| row.status.as_ref());
    if let Some(status) = status
        && !(400..=599).contains(status.get_ref())
    {
        report.tell(&status.span(), format!("{} is not a status of refusal", status.get_ref()), "400 to 599");
    }
    let message = row.and_then(|row| row.message.as_ref());
    let message = match message {
        Some(raw) => Template::text(raw.get_ref(), &raw.span(), said, report),
        None => Template::text(kind.default_message(), &Range::default(), said, report),
    };
    let body = match row.and_then(|row| row.body.as_ref()) {
        Some(raw) => {
            let slots = [BODY, said.slots].concat();
            Template::compile(raw, Given { by: &by, slots: &slots }, report)
        }
        None => shared.clone(),
    };
    let code =
        row.and_then(|row| row.code.as_ref()).map_or_else(|| kind.name().to_owned(), |code| code.get_ref().clone());
    let varies = said.slots.iter().any(|slot| message.holds(*slot) || body.holds(*slot))
        || (kind == ProblemKind::InvalidRequest && body.holds(Slot::Details));
    let mut shape = ProblemShape {
        status: status.map_or(kind.default_status(), |raw| *raw.get_ref()),
        code,
        message,
        body,
        rendered: None,
    };
    if !varies {
        shape.rendered = Some(encode::constant(&shape).into());
    }
    shape
}
