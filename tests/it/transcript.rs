//! Plays a product's documented requests against a running gateway and compares the answers byte for byte.
//!
//! A transcript is text. `#` starts a comment, a line starting with `###` names the step. Lines starting
//! with `>` are the request (request line, headers, an empty `>`, body), lines starting with `<` the answer
//! (status, headers to check, an empty `<`, body). JSON may be laid out over lines; it is compacted before it is
//! compared, in the order it is written. In an answer's body
//!
//! - `<<name>>` inside a string stands for one or more characters, remembered as `name`;
//! - `<<name:prefix>>` the same, which must start with `prefix`;
//! - `"<<#name>>"` (the whole string) stands for a whole number;
//!
//! and in a request (line, headers, body) `<<name>>` is what was remembered. A name that is already known must
//! be met again exactly.

use std::collections::HashMap;

use super::client::{Answer, Client};

/// One exchange of a transcript.
#[derive(Debug, Default)]
struct Step {
    title: String,
    request: Vec<String>,
    answer: Vec<String>,
}

/// Plays `text`; what was remembered comes back, so that a test can go on from there.
pub async fn play(client: &Client, text: &str) -> HashMap<String, String> {
    let mut known = HashMap::new();
    let steps = parse(text);
    assert!(!steps.is_empty(), "a transcript has steps");
    for step in &steps {
        let answer = send(client, step, &known).await;
        check(step, &answer, &mut known);
    }
    known
}

fn parse(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("###") {
            steps.push(Step { title: title.trim().to_owned(), ..Step::default() });
        } else if let Some(rest) = line.strip_prefix('>') {
            steps.last_mut().expect("a step has a title first").request.push(unindent(rest));
        } else if let Some(rest) = line.strip_prefix('<') {
            steps.last_mut().expect("a step has a title first").answer.push(unindent(rest));
        } else {
            assert!(line.trim().is_empty() || line.starts_with('#'), "not a transcript line: {line}");
        }
    }
    steps
}

fn unindent(line: &str) -> String {
    line.strip_prefix(' ').unwrap_or(line).to_owned()
}

async fn send(client: &Client, step: &Step, known: &HashMap<String, String>) -> Answer {
    let lines: Vec<String> = step.request.iter().map(|line| fill(line, known)).collect();
    let (method, path) = lines[0].split_once(' ').expect("METHOD path");
    let end = lines.iter().position(String::is_empty).unwrap_or(lines.len());
    let mut ask = client.ask(method, path);
    for header in &lines[1..end] {
        let (name, value) = header.split_once(": ").unwrap_or_else(|| panic!("not a header: {header}"));
        ask = ask.header(name, value);
    }
    ask.body(lines.get(end + 1..).unwrap_or_default().join("\n")).send().await
}

fn check(step: &Step, answer: &Answer, known: &mut HashMap<String, String>) {
    let title = &step.title;
    let told = format!("{} {:?} {}", answer.status, answer.headers, answer.text());
    assert_eq!(answer.status.as_str(), step.answer[0], "{title}: {told}");
    let end = step.answer.iter().position(String::is_empty).unwrap_or(step.answer.len());
    for header in &step.answer[1..end] {
        let (name, value) = header.split_once(": ").unwrap_or_else(|| panic!("not a header: {header}"));
        let met = answer.header(&name.to_lowercase()).unwrap_or_else(|| panic!("{title}: no {name}: {told}"));
        assert!(meet(value, met, known), "{title}: {name} is {met}, not {value}");
    }
    let body = step.answer.get(end + 1..).unwrap_or_default().join("\n");
    if body.is_empty() {
        assert!(answer.body.is_empty() || end == step.answer.len(), "{title}: a body where none is documented: {told}");
        return;
    }
    let expected: serde_json::Value =
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{title}: the transcript's body: {error}"));
    let expected = expected.to_string();
    assert!(meet(&expected, &answer.text(), known), "{title}:\n  expected {expected}\n  met      {}", answer.text());
}

fn fill(line: &str, known: &HashMap<String, String>) -> String {
    let mut filled = line.to_owned();
    for (name, value) in known {
        filled = filled.replace(&format!("<<{name}>>"), value);
    }
    assert!(!filled.contains("<<"), "unknown name in: {filled}");
    filled
}

/// Whether `met` is `pattern`, with its `<<names>>` bound.
fn meet(pattern: &str, met: &str, known: &mut HashMap<String, String>) -> bool {
    let Some(open) = pattern.find("<<") else { return pattern == met };
    let close = open + pattern[open..].find(">>").expect("`<<` is closed by `>>`");
    let name = &pattern[open + 2..close];
    let (mut before, mut after) = (&pattern[..open], &pattern[close + 2..]);
    let number = name.strip_prefix('#');
    if number.is_some() {
        before = before.strip_suffix('"').expect("a number stands alone in its string");
        after = after.strip_prefix('"').expect("a number stands alone in its string");
    }
    let (name, prefix) = number.unwrap_or(name).split_once(':').unwrap_or((number.unwrap_or(name), ""));
    let Some(rest) = met.strip_prefix(before) else { return false };
    let length = rest
        .bytes()
        .take_while(|byte| if number.is_some() { byte.is_ascii_digit() } else { !b"\"\\".contains(byte) })
        .count();
    // The shortest binding that lets the rest match: enough for values that end at a quote or a known text.
    (1..=length).filter(|end| rest.is_char_boundary(*end)).any(|end| {
        let value = &rest[..end];
        if !value.starts_with(prefix) || known.get(name).is_some_and(|old| old != value) {
            return false;
        }
        let mut trial = known.clone();
        trial.insert(name.to_owned(), value.to_owned());
        let fits = meet(after, &rest[end..], &mut trial);
        if fits {
            *known = trial;
        }
        fits
    })
}

#[test]
fn a_transcript_tells_apart_what_matches_and_what_does_not() {
    let mut known = HashMap::new();
    assert!(meet(r#"{"id":"<<id:user_>>","n":"<<#n>>"}"#, r#"{"id":"user_7","n":42}"#, &mut known));
    assert_eq!((known["id"].as_str(), known["n"].as_str()), ("user_7", "42"));
    assert!(!meet(r#"{"id":"<<id>>"}"#, r#"{"id":"user_8"}"#, &mut known), "a known name is met again");
    assert!(!meet(r#"{"id":"<<x>>"}"#, r#"{"id":"user_7","extra":1}"#, &mut known), "no field more");
    assert!(!meet(r#"{"id":"<<y:org_>>"}"#, r#"{"id":"user_7"}"#, &mut known));
}
