//! A product's page, held against its contract: what it shows is read, answered and refused byte for byte.

use serde_json::Value;

use super::{Contract, FieldError, Problem, Rendered, Served, Slot, Source, Values, answer, builtin, load, problem};
use crate::contract::decode::{Input, decode};
use crate::contract::slot::Field;

/// One product.
pub(super) struct Page(pub Contract);

/// As browsers and curl's `-d` name a form.
pub(super) const FORM: &str = "application/x-www-form-urlencoded";

impl Page {
    pub fn of(product: &str) -> Self {
        Self(load(&Source::new(product, builtin(product).unwrap())).unwrap())
    }

    /// The operation at `POST /v1/auth/login`.
    pub fn served(&self, on: &str) -> &Served {
        let on = on.replace("GET ", "GET,HEAD ");
        let found = self.0.operations.iter().find(|served| served.on.to_string() == on);
        found.unwrap_or_else(|| panic!("nothing stands on {on}"))
    }

    /// Reads a body, JSON unless it is said otherwise; each field as text, objects and lists as JSON.
    pub fn reads(&self, on: &str, content_type: &str, body: &str) -> Vec<(&'static str, String)> {
        let input = self.decode(on, content_type, body).unwrap_or_else(|problem| panic!("{body}: {problem:?}"));
        let shown = |field: &Field| {
            let text = input.text(*field).ok().flatten().map(str::to_owned);
            let value = text.or_else(|| input.json(*field).ok().flatten().map(Value::to_string))?;
            Some((field.name(), value))
        };
        Field::ALL.iter().filter_map(shown).collect()
    }

    /// What is wrong with a JSON body.
    pub fn complains(&self, on: &str, body: &str) -> Vec<String> {
        match self.decode(on, "application/json", body) {
            Err(Problem::InvalidRequest(errors)) => told(&errors),
            other => panic!("{body}: {other:?}"),
        }
    }

    pub fn decode(&self, on: &str, content_type: &str, body: &str) -> Result<Input, Problem> {
        decode(self.served(on), Some(content_type), body.as_bytes(), std::iter::empty())
    }

    /// The answer of success is what the page shows, space aside, with this status.
    pub fn answers(&self, on: &str, status: u16, values: &Values, shown: &str) {
        let served = self.served(on);
        let body = String::from_utf8(answer(served, values)).unwrap();
        assert_eq!((served.status, body), (status, compact(shown)), "{on}");
    }

    /// A refusal is what the page shows, space aside, with this status.
    pub fn refuses(&self, refusal: &Problem, status: u16, shown: &str) {
        let told = problem(&self.0, refusal);
        assert_eq!(told, Rendered { status, body: compact(shown).into() }, "{refusal:?}");
    }

    /// Every place where an operation stands.
    pub fn places(&self) -> Vec<String> {
        self.0.operations.iter().map(|served| served.on.to_string().replace("GET,HEAD ", "GET ")).collect()
    }

    /// Each guard with the roles and plans that pass.
    pub fn guards(&self) -> Vec<String> {
        let roles = |at: u8| self.0.roles[usize::from(at)].name.clone();
        let names = |names: Vec<String>| names.join(" ");
        let guards = self.0.guards.iter();
        guards
            .map(|guard| {
                let asked = guard.requires.roles.map(|set| names(set.iter().map(roles).collect()));
                let plans = guard.requires.plans.map(|set| self.0.plan_titles(set));
                format!("{} → {}", guard.on, asked.or(plans).unwrap())
            })
            .collect()
    }
}

/// `email is required`
pub(super) fn told(errors: &[FieldError]) -> Vec<String> {
    errors.iter().map(|error| format!("{} {}", error.field, error.message)).collect()
}

/// JSON as the page prints it, without the space between: fields keep their order.
fn compact(shown: &str) -> String {
    let value: Value = serde_json::from_str(shown).unwrap_or_else(|error| panic!("{error}: {shown}"));
    value.to_string()
}

/// Every slot there is, each holding the word that pages of types show: `"string"`.
pub(super) fn strings() -> Values {
    Slot::ALL.iter().fold(Values::new(), |values, slot| values.set(*slot, "string"))
}
