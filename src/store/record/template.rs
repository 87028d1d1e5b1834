//! `{{pick tangents}}` and its like in an agent's texts. Core.
//!
//! | written | becomes |
//! |---|---|
//! | `{{pick tangents}}` | one entry of the agent's list `tangents`; as long as there are enough, none twice in a text |
//! | `{{all phrases}}` | the whole list, a line each, in a shuffled order |
//! | `{{caller}}` | a variable that whoever renders hands in |
//!
//! What is drawn depends on the seed, the name of the text and the list alone: the same call renders the same text again,
//! and a change in one text leaves the draws in all others as they were. Nothing that was put in is looked through again,
//! so a caller's name with braces in it stays a name.

use crate::base::rng::Rng;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fmt;

/// A list of an agent's.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum List {
    /// Texts.
    Texts(Vec<String>),
    /// What is said, and what it is taken for. An entry reads `said → taken for`.
    Map(BTreeMap<String, String>),
}

impl List {
    /// How many entries.
    pub fn len(&self) -> usize {
        match self {
            List::Texts(texts) => texts.len(),
            List::Map(map) => map.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The `n`th entry as it stands in a text.
    fn entry(&self, n: usize) -> String {
        match self {
            List::Texts(texts) => texts.get(n).cloned().unwrap_or_default(),
            List::Map(map) => match map.iter().nth(n) {
                Some((said, taken)) => format!("{said} → {taken}"),
                None => String::new(),
            },
        }
    }
}

/// An agent's lists by name.
pub type Lists = BTreeMap<String, List>;
/// What is handed in by name.
pub type Variables = BTreeMap<String, String>;

/// The longest text that is rendered, bytes.
pub const RENDERED_BYTES_MAX: usize = 256 * 1024;

/// Why a text can't be rendered. Its `Display` names the text and what is missing in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TemplateError {
    /// The name of the text.
    pub template: String,
    /// What is wrong.
    pub fault: Fault,
}

/// What is wrong with a text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// `{{` without `}}`. The byte where it stands.
    Unclosed(usize),
    /// Between the braces stands nothing that we know.
    Unknown(String),
    /// There is no list of this name.
    NoList(String),
    /// The list has no entries.
    EmptyList(String),
    /// There is no variable of this name.
    NoVariable(String),
    /// It would be longer than `RENDERED_BYTES_MAX`.
    TooLong,
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.template)?;
        match &self.fault {
            Fault::Unclosed(at) => write!(f, "the {{{{ at byte {at} has no }}}}"),
            Fault::Unknown(what) => write!(
                f,
                "{{{{{what}}}}} is not known; write {{{{pick LIST}}}}, {{{{all LIST}}}} or {{{{VARIABLE}}}}"
            ),
            Fault::NoList(name) => write!(f, "there is no list {name:?}; add lists.{name}"),
            Fault::EmptyList(name) => write!(f, "the list {name:?} is empty; add an entry to it"),
            Fault::NoVariable(name) => write!(f, "there is no value for {name:?} in this call"),
            Fault::TooLong => write!(
                f,
                "the text would be longer than {RENDERED_BYTES_MAX} bytes"
            ),
        }
    }
}

impl std::error::Error for TemplateError {}

/// A piece of a text.
enum Piece<'t> {
    Text(&'t str),
    Pick(&'t str),
    All(&'t str),
    Variable(&'t str),
}

/// The pieces of `text`, in order.
fn pieces(text: &str) -> impl Iterator<Item = Result<Piece<'_>, Fault>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = text.get(at..).filter(|rest| !rest.is_empty())?;
        let Some(inside) = rest.strip_prefix("{{") else {
            let end = rest.find("{{").unwrap_or(rest.len());
            at += end;
            return Some(Ok(Piece::Text(&rest[..end])));
        };
        let Some(end) = inside.find("}}") else {
            let fault = Fault::Unclosed(at);
            at = text.len();
            return Some(Err(fault));
        };
        at += end + 4;
        let inside = inside[..end].trim();
        let mut words = inside.split_whitespace();
        let piece = match (words.next(), words.next(), words.next()) {
            (Some("pick"), Some(name), None) if is_name(name) => Piece::Pick(name),
            (Some("all"), Some(name), None) if is_name(name) => Piece::All(name),
            (Some(name), None, None) if is_name(name) => Piece::Variable(name),
            _ => return Some(Err(Fault::Unknown(inside.chars().take(64).collect()))),
        };
        Some(Ok(piece))
    })
}

/// What a list or a variable may be called: letters, digits and underscores.
pub fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Everything that is wrong with the text itself, in order, without rendering it. `variables` are the names that will be
/// there; an unknown one is a fault.
pub fn faults(name: &str, text: &str, lists: &Lists, variables: &[&str]) -> Vec<TemplateError> {
    let judged = pieces(text).filter_map(|piece| match piece {
        Err(fault) => Some(fault),
        Ok(Piece::Text(_)) => None,
        Ok(Piece::Pick(list) | Piece::All(list)) => needed(list, lists).err(),
        Ok(Piece::Variable(wanted)) => {
            (!variables.contains(&wanted)).then(|| Fault::NoVariable(wanted.to_owned()))
        }
    });
    let template = name.to_owned();
    judged
        .map(|fault| TemplateError {
            template: template.clone(),
            fault,
        })
        .collect()
}

/// Renders `text`, which is called `name`.
pub fn render(
    name: &str,
    text: &str,
    lists: &Lists,
    variables: &Variables,
    seed: u64,
) -> Result<String, TemplateError> {
    let error = |fault| TemplateError {
        template: name.to_owned(),
        fault,
    };
    let mut out = String::with_capacity(text.len());
    // How many of each list were drawn.
    let mut drawn: BTreeMap<&str, (Vec<usize>, usize)> = BTreeMap::new();
    for piece in pieces(text) {
        match piece.map_err(error)? {
            Piece::Text(text) => out.push_str(text),
            Piece::Variable(wanted) => match variables.get(wanted) {
                Some(value) => out.push_str(value),
                None => return Err(error(Fault::NoVariable(wanted.to_owned()))),
            },
            Piece::Pick(list) => {
                let entries = needed(list, lists).map_err(error)?;
                let order = |round| shuffled(entries.len(), seed, name, list, round);
                let (queue, round) = drawn.entry(list).or_insert_with(|| (order(0), 0));
                if queue.is_empty() {
                    *round += 1;
                    *queue = order(*round);
                }
                out.push_str(&entries.entry(queue.pop().unwrap_or_default()));
            }
            Piece::All(list) => {
                let entries = needed(list, lists).map_err(error)?;
                // Not the same draw as the first round's picks.
                for (n, entry) in shuffled(entries.len(), seed, name, list, usize::MAX)
                    .into_iter()
                    .enumerate()
                {
                    if n > 0 {
                        out.push('\n');
                    }
                    out.push_str("- ");
                    out.push_str(&entries.entry(entry));
                    if out.len() > RENDERED_BYTES_MAX {
                        break;
                    }
                }
            }
        }
        if out.len() > RENDERED_BYTES_MAX {
            return Err(error(Fault::TooLong));
        }
    }
    Ok(out)
}

fn needed<'l>(name: &str, lists: &'l Lists) -> Result<&'l List, Fault> {
    match lists.get(name) {
        None => Err(Fault::NoList(name.to_owned())),
        Some(list) if list.is_empty() => Err(Fault::EmptyList(name.to_owned())),
        Some(list) => Ok(list),
    }
}

/// The numbers below `len` in an order that these values alone decide (Fisher and Yates).
fn shuffled(len: usize, seed: u64, template: &str, list: &str, round: usize) -> Vec<usize> {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    hash.update((round as u64).to_le_bytes());
    // The length keeps ("ab", "c") apart from ("a", "bc").
    hash.update((template.len() as u64).to_le_bytes());
    hash.update(template.as_bytes());
    hash.update(list.as_bytes());
    let mut rng = Rng::from_seed(hash.finalize().into());
    let mut order: Vec<usize> = (0..len).collect();
    for n in (1..len).rev() {
        // Off even by len / 2^64: nobody will ever see it.
        order.swap(n, (rng.next_u64() % (n as u64 + 1)) as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lists() -> Lists {
        let texts = |n: usize| List::Texts((0..n).map(|n| format!("t{n}")).collect());
        let map = [("fix the router", "mix the butter")].map(|(a, b)| (a.into(), b.into()));
        [
            ("tangents".to_owned(), texts(8)),
            ("none".to_owned(), texts(0)),
            ("mishearings".to_owned(), List::Map(map.into())),
        ]
        .into()
    }

    fn rendered(text: &str, seed: u64) -> Result<String, TemplateError> {
        let variables = [("caller".to_owned(), "{{pick tangents}}".to_owned())].into();
        render("greeting", text, &lists(), &variables, seed)
    }

    #[test]
    fn the_same_seed_draws_the_same_and_another_does_not() {
        let text = "{{pick tangents}} {{ pick  tangents }} {{pick tangents}}";
        assert_eq!(rendered(text, 1), rendered(text, 1));
        assert!((2..20).any(|seed| rendered(text, seed) != rendered(text, 1)));
        // Fixed for good: a stored call renders the same in a later version.
        assert_eq!(rendered(text, 1).unwrap(), PINNED);
    }
    const PINNED: &str = "t7 t1 t5";

    #[test]
    fn no_entry_comes_twice_while_there_are_others() {
        for seed in 0..50 {
            let text = rendered(&"{{pick tangents}} ".repeat(16), seed).unwrap();
            let words: Vec<&str> = text.split_whitespace().collect();
            for round in words.chunks(8) {
                let distinct: std::collections::BTreeSet<_> = round.iter().collect();
                assert_eq!(distinct.len(), 8);
            }
        }
    }

    #[test]
    fn every_entry_is_drawn_first_by_some_seed() {
        let drawn: std::collections::BTreeSet<_> = (0..200)
            .map(|seed| rendered("{{pick tangents}}", seed).unwrap())
            .collect();
        assert_eq!(drawn.len(), 8);
    }

    #[test]
    fn what_is_put_in_is_not_looked_through_again() {
        assert_eq!(
            rendered("Hello {{caller}}.", 1).unwrap(),
            "Hello {{pick tangents}}."
        );
        assert_eq!(
            rendered("{{pick mishearings}}", 1).unwrap(),
            "fix the router → mix the butter"
        );
        assert_eq!(
            rendered("{{all mishearings}}!", 1).unwrap(),
            "- fix the router → mix the butter!"
        );
        assert_eq!(
            rendered("もしもし { } }} 🎌", 1).unwrap(),
            "もしもし { } }} 🎌"
        );
    }

    #[test]
    fn an_error_names_the_text_and_what_is_missing() {
        for (text, says) in [
            (
                "{{pick stories}}",
                "greeting: there is no list \"stories\"; add lists.stories",
            ),
            (
                "{{all none}}",
                "greeting: the list \"none\" is empty; add an entry to it",
            ),
            (
                "{{weather}}",
                "greeting: there is no value for \"weather\" in this call",
            ),
            ("Hi {{pick", "greeting: the {{ at byte 3 has no }}"),
            (
                "{{pick two lists}}",
                "greeting: {{pick two lists}} is not known; write {{pick LIST}}, {{all LIST}} or {{VARIABLE}}",
            ),
        ] {
            assert_eq!(rendered(text, 1).unwrap_err().to_string(), says);
            let found = faults("greeting", text, &lists(), &["caller"]);
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].to_string(), says);
        }
        assert_eq!(faults("g", "{{a}} {{pick b}} {{c", &lists(), &[]).len(), 3);
    }

    #[test]
    fn a_text_that_grows_without_end_is_refused() {
        let long = Lists::from([("l".to_owned(), List::Texts(vec!["x".repeat(10_000); 100]))]);
        let error = render("t", "{{all l}}", &long, &Variables::new(), 1).unwrap_err();
        assert_eq!(error.fault, Fault::TooLong);
    }

    proptest! {
        #[test]
        fn no_text_panics_and_one_without_braces_is_itself(text: String, seed: u64) {
            let rendered = render("t", &text, &Lists::new(), &Variables::new(), seed);
            if !text.contains("{{") {
                prop_assert_eq!(rendered, Ok(text));
            } else {
                prop_assert!(rendered.is_err());
            }
        }
    }
}
