//! No text makes the compiler panic, and every error has its place.

use proptest::prelude::*;

use super::page::{FORM, Page, strings};
use super::{BUILTIN, Slot, Source, Values, answer, builtin, load, problem};
use crate::contract::decode::decode;
use crate::model::problem::{FieldError, Problem};

/// Loads `text`; every error must stand inside of it and say what to do.
fn survives(text: &str) {
    let Err(errors) = load(&Source::new("f.toml", text)) else { return };
    assert!(!errors.is_empty());
    for error in errors {
        assert!(error.line >= 1 && error.column >= 1, "{error}");
        assert!(error.line <= text.matches('\n').count() + 1, "{error}");
        assert!(!error.message.is_empty() && !error.remedy.is_empty(), "{error}");
    }
}

/// A place in `text` where a character starts.
fn floor(text: &str, at: usize) -> usize {
    (0..=at % (text.len() + 1)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// Pieces that mean something to the compiler, so that mutations get past the parser.
const PIECES: &[&str] = &[
    "\n",
    "\"",
    "'",
    "[",
    "]",
    "{",
    "}",
    "=",
    ",",
    ".",
    "$",
    "$$",
    "${",
    "}",
    "#",
    "\\u0000",
    "\u{feff}",
    "é",
    "0",
    "-1",
    "1e999",
    "nan",
    "inf",
    "true",
    "1979-05-27T07:32:00Z",
    "[[operation]]\n",
    "[[guard]]\n",
    "[problem]\n",
    "[role.x]\n",
    "[plan.x]\n",
    "do = \"login\"\n",
    "answer.body = \"$items\"\n",
    "x = {}\n",
    "[[role]]\n",
    "operation = 1\n",
    "a.b.c = 1\n",
    "\"\"\"",
    "'''",
    "*",
    "/",
    "{*rest}",
    "18446744073709551616",
    "0x",
    "\r",
    "[tokens.refresh]\n",
    "[sessions]\n",
    "[mail]\n",
    "[agents]\n",
    "do = \"refresh_token\"\n",
    "form = true\n",
    "required = [\"username\"]\n",
    "reads = { identifier = [\"a\", \"b\"] }\n",
    "rotation = \"none\"\n",
    "first = { type = \"a\" }\n",
];

/// One of the files, by its name.
fn any_file() -> impl Strategy<Value = (&'static str, &'static str)> {
    prop::sample::select(BUILTIN).prop_map(|name| (name, builtin(name).unwrap()))
}

/// Every string in `value`, keys aside.
fn texts(value: &serde_json::Value, each: &mut impl FnMut(&str)) {
    match value {
        serde_json::Value::String(text) => each(text),
        serde_json::Value::Array(items) => items.iter().for_each(|item| texts(item, each)),
        serde_json::Value::Object(fields) => fields.values().for_each(|field| texts(field, each)),
        _ => {}
    }
}

/// Each case compiles a file some dozen times: a quarter of the usual number, which `PROPTEST_CASES` still scales.
fn a_quarter() -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig { cases: usual.cases / 4, ..usual }
}

proptest! {
    #![proptest_config(a_quarter())]

    #[test]
    fn arbitrary_text_never_panics(text in any::<String>()) {
        survives(&text);
    }

    #[test]
    fn text_of_meaningful_pieces_never_panics(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..40)) {
        survives(&pieces.concat());
    }

    #[test]
    fn a_mutated_contract_never_panics(
        (_, text) in any_file(),
        edits in prop::collection::vec((any::<usize>(), 0_usize..40, prop::sample::select(PIECES)), 1..6)
    ) {
        let mut text = text.to_owned();
        for (at, cut, piece) in edits {
            let start = floor(&text, at);
            let end = floor(&text, (start + cut).min(text.len()));
            text.replace_range(start..end.max(start), piece);
        }
        survives(&text);
    }

    #[test]
    fn a_contract_with_lines_lost_and_doubled_never_panics((_, text) in any_file(), lost in prop::collection::vec(any::<prop::sample::Index>(), 0..8), doubled in any::<prop::sample::Index>()) {
        let mut lines: Vec<&str> = text.lines().collect();
        for index in lost {
            lines.remove(index.index(lines.len()));
        }
        let at = doubled.index(lines.len());
        lines.insert(at, lines[at]);
        survives(&lines.join("\n"));
    }

    #[test]
    fn an_arbitrary_body_never_panics(
        (product, _) in any_file(),
        body in prop::collection::vec(any::<u8>(), 0..200),
        json in "[{}\\[\\]\",:a-z0-9\\\\ue. -]{0,60}",
        form in "[a-z=&%+0-9A-F]{0,60}",
    ) {
        let page = Page::of(product);
        for body in [&body[..], json.as_bytes(), form.as_bytes()] {
            for served in &page.0.operations {
                for content_type in [None, Some("application/json"), Some(FORM)] {
                    let _ = decode(served, content_type, body, std::iter::empty());
                }
            }
            let _ = page.0.agents.as_ref().map(|agents| agents.key(body));
        }
    }

    #[test]
    fn whatever_is_typed_into_a_form_is_what_is_read(username in "[^\0]{1,40}", password in "[^\0]{1,40}") {
        let page = Page::of("chatops");
        let escape = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let body = format!("username={}&password={}", escape(&username), escape(&password));
        let read = page.reads("POST /api/v1/auth/login", FORM, &body);
        prop_assert_eq!(read, [("identifier", username), ("password", password)]);
    }

    #[test]
    fn whatever_a_slot_holds_an_answer_is_json_that_reads_back((product, file) in any_file(), text in any::<String>()) {
        let contract = Page::of(product).0;
        let values = Slot::ALL.iter().fold(Values::new(), |values, slot| values.set(*slot, text.as_str()));
        let mut answers: Vec<Vec<u8>> =
            contract.operations.iter().map(|served| answer(served, &values.clone().item(values.clone()))).collect();
        answers.extend(contract.agents.as_ref().map(|agents| agents.accepted(&values)));
        for out in answers {
            let read: serde_json::Value = serde_json::from_slice(&out).unwrap();
            prop_assert!(read.is_object());
            // A constant of the file, or the text as it was: nothing in between.
            texts(&read, &mut |read| assert!(read == text || file.contains(&format!("\"{read}\"")), "{read:?}"));
        }
    }

    #[test]
    fn whatever_a_client_called_its_fields_a_refusal_is_json((product, _) in any_file(), field in any::<String>(), message in any::<String>()) {
        let contract = Page::of(product).0;
        let refusal = Problem::InvalidRequest(vec![FieldError::new(field, message)]);
        let read: serde_json::Value = serde_json::from_slice(&problem(&contract, &refusal).body).unwrap();
        prop_assert!(read.is_object());
        if let Some(agents) = &contract.agents {
            let told: serde_json::Value = serde_json::from_slice(&agents.refused(&contract, &refusal)).unwrap();
            prop_assert_eq!(&told["type"], "auth_error");
        }
    }
}

#[test]
fn every_answer_of_every_product_is_filled() {
    for product in BUILTIN {
        for served in &Page::of(product).0.operations {
            let out = answer(served, &strings().item(strings()));
            let text = String::from_utf8(out).unwrap();
            assert!(!text.contains("null") && !text.contains('$'), "{product}: {text}");
        }
    }
}
