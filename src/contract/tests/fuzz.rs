//! No text makes the compiler panic, and every error has its place.

use proptest::prelude::*;

use super::{Source, VANTAGE, load};
use crate::contract::compile::builtin;
use crate::contract::decode::decode;
use crate::contract::encode::{Values, answer};
use crate::contract::slot::Slot;

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
];

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
        edits in prop::collection::vec((any::<usize>(), 0_usize..40, prop::sample::select(PIECES)), 1..6)
    ) {
        let mut text = VANTAGE.to_owned();
        for (at, cut, piece) in edits {
            let start = floor(&text, at);
            let end = floor(&text, (start + cut).min(text.len()));
            text.replace_range(start..end.max(start), piece);
        }
        survives(&text);
    }

    #[test]
    fn a_contract_with_lines_lost_and_doubled_never_panics(lost in prop::collection::vec(any::<prop::sample::Index>(), 0..8), doubled in any::<prop::sample::Index>()) {
        let mut lines: Vec<&str> = VANTAGE.lines().collect();
        for index in lost {
            lines.remove(index.index(lines.len()));
        }
        let at = doubled.index(lines.len());
        lines.insert(at, lines[at]);
        survives(&lines.join("\n"));
    }

    #[test]
    fn an_arbitrary_body_never_panics(body in prop::collection::vec(any::<u8>(), 0..200), json in "[{}\\[\\]\",:a-z0-9\\\\ue. -]{0,60}") {
        let contract = load(&Source::new("vantage", builtin("vantage").unwrap())).unwrap();
        for served in &contract.operations {
            for body in [&body[..], json.as_bytes()] {
                let _ = decode(served, None, body, std::iter::empty());
            }
        }
    }

    #[test]
    fn whatever_a_slot_holds_an_answer_is_json_that_reads_back(text in any::<String>()) {
        let contract = super::vantage();
        for served in &contract.operations {
            let values = Slot::ALL.iter().fold(Values::new(), |values, slot| values.set(*slot, text.as_str()));
            let out = answer(served, &values.clone().item(values));
            let read: serde_json::Value = serde_json::from_slice(&out).unwrap();
            let strings_are_whole = |value: &serde_json::Value| value.as_str().is_none_or(|read| read == text || read == "bearer");
            prop_assert!(read.as_object().unwrap().values().all(strings_are_whole));
        }
    }
}
