//! The environment over the file: `VOXRELAY__SECTION__KEY`, and the names that the replaced backends used.
//!
//! Shell, but it is handed the variables: tests and the demo choose their own.

use super::file::{Source, Values, parse_list, parse_text};
use super::schema::{KEYS, List, find, find_list, nearest};
use super::{Problem, Severity};
use std::collections::BTreeMap;

/// What every variable of ours begins with.
pub const PREFIX: &str = "VOXRELAY__";

/// Environment variables by name.
pub type Vars = BTreeMap<String, String>;

/// The process's own variables. One that is not UTF-8 can't be ours and is left out.
pub fn process_vars() -> Vars {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// Lays the variables over `values`. Ours win over the old names; of a key's old names the first that is set wins.
pub fn apply(values: &mut Values, vars: &Vars, problems: &mut Vec<Problem>) {
    for key in KEYS {
        let old = key.aliases.iter().find_map(|name| {
            let value = vars.get(*name)?;
            // Shells and unit files often set a name to nothing to mean "not set".
            (!value.is_empty()).then_some((*name, value))
        });
        if let Some((name, value)) = old {
            set(values, key.path, name, value, problems);
        }
    }
    for (name, value) in vars.range(PREFIX.to_owned()..) {
        let Some(rest) = name.strip_prefix(PREFIX) else {
            break;
        };
        let path = rest.to_ascii_lowercase().replace("__", ".");
        if find(&path).is_some() {
            set(values, &path, name, value, problems);
        } else if let Some(list) = find_list(&path) {
            set_list(values, list, name, value, problems);
        } else {
            problems.push(Problem {
                severity: Severity::Error,
                place: format!("environment, {name}"),
                what: format!("unknown key {path}"),
                fix: format!(
                    "The nearest known variable is {}.",
                    variable(&nearest(&path))
                ),
            });
        }
    }
}

/// The variable that sets `path`.
pub fn variable(path: &str) -> String {
    format!("{PREFIX}{}", path.to_ascii_uppercase().replace('.', "__"))
}

fn set(values: &mut Values, path: &str, name: &str, text: &str, problems: &mut Vec<Problem>) {
    let key = find(path).expect("the caller found it");
    // A blank or a line's end around a value is a slip of whoever wrote the unit file, also around a secret.
    match parse_text(key.kind, text.trim()) {
        Ok(value) => values.set(key, value, Source::Env(name.to_owned())),
        Err(expected) => problems.push(Problem {
            severity: Severity::Error,
            place: format!("environment, {name}"),
            what: format!("{path} has a value that does not fit"),
            fix: format!("Set {expected}."),
        }),
    }
}

/// The whole list is replaced: a table of the file's can't be changed from here.
fn set_list(values: &mut Values, list: &List, name: &str, text: &str, problems: &mut Vec<Problem>) {
    let source = Source::Env(name.to_owned());
    match parse_list(list, text.trim(), &source) {
        Ok(tables) => values.set_list(list, tables, source),
        Err(found) => problems.extend(found.into_iter().map(|(what, fix)| Problem {
            severity: Severity::Error,
            place: format!("environment, {name}"),
            what,
            fix,
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::schema::Kind;

    fn read(vars: &[(&str, &str)]) -> (Values, Vec<Problem>) {
        let vars = vars
            .iter()
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect();
        let (mut values, mut problems) = (Values::defaults(), Vec::new());
        apply(&mut values, &vars, &mut problems);
        (values, problems)
    }

    /// A text that fits the kind and differs from the key's default.
    fn another(kind: Kind, default: Option<&str>) -> String {
        match kind {
            Kind::Text | Kind::Secret | Kind::List | Kind::SecretList => "other".into(),
            Kind::Integer(min, max) => {
                let n = if default == Some(&min.to_string()) {
                    max
                } else {
                    min
                };
                n.to_string()
            }
            Kind::Number(min, _) => min.to_string(),
            Kind::Bool => "true".into(),
            Kind::Choice(words) => (*words.last().expect("choices")).into(),
            Kind::IntegerOr(_, _, word) => word.into(),
            Kind::Object => r#"{"a": 1}"#.into(),
        }
    }

    #[test]
    fn every_key_can_be_set_by_its_variable() {
        for key in KEYS {
            let name = variable(key.path);
            let (values, problems) = read(&[(&name, &another(key.kind, key.default))]);
            assert!(problems.is_empty(), "{name}: {problems:?}");
            assert_eq!(values.source(key.path), Source::Env(name));
        }
    }

    #[test]
    fn every_old_name_sets_its_key() {
        for key in KEYS {
            for alias in key.aliases {
                let (values, problems) = read(&[(alias, &another(key.kind, key.default))]);
                assert!(problems.is_empty(), "{alias}: {problems:?}");
                assert_eq!(values.source(key.path), Source::Env(alias.to_string()));
            }
        }
    }

    #[test]
    fn ours_wins_over_the_old_name_and_may_be_empty() {
        let (values, _) = read(&[("PORT", "3001"), ("VOXRELAY__LISTEN__PORT", "3002")]);
        assert_eq!(values.integer("listen.port"), 3002);
        let (values, _) = read(&[
            ("OPENAI_API_KEY", "sk-1"),
            ("VOXRELAY__REALTIME__API_KEY", ""),
        ]);
        assert_eq!(values.text("realtime.api_key"), "");
    }

    #[test]
    fn the_first_old_name_wins_and_an_empty_one_is_unset() {
        let both = [
            ("OPENAI_API_KEY", "sk-b"),
            ("OPENAI_REALTIME_API_KEY", "sk-a"),
        ];
        assert_eq!(read(&both).0.text("realtime.api_key"), "sk-a");
        let empty = [("OPENAI_API_KEY", "sk-b"), ("OPENAI_REALTIME_API_KEY", "")];
        assert_eq!(read(&empty).0.text("realtime.api_key"), "sk-b");
        assert!(read(&[("PORT", "")]).1.is_empty());
    }

    #[test]
    fn lists_are_comma_separated() {
        let (values, _) = read(&[("LISTEN", "127.0.0.1, ::1,")]);
        assert_eq!(values.list("listen.addresses"), ["127.0.0.1", "::1"]);
    }

    #[test]
    fn an_unknown_variable_names_the_nearest_and_never_a_value() {
        let (_, problems) = read(&[
            ("VOXRELAY__REALTIME__APIKEY", "sk-hidden"),
            ("VOXRELAY__LISTEN__PORT", "sk-hidden"),
        ]);
        assert_eq!(problems.len(), 2);
        let text = format!("{problems:?}");
        assert!(text.contains("VOXRELAY__REALTIME__API_KEY"), "{text}");
        assert!(!text.contains("hidden"), "{text}");
    }
}
